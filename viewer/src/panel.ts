// One picture on the stage: a tensor of a run, at a frame, as far as it is on the screen.

import type { Archive, Clip, Look, Plane, Span } from "./archive";
import type { Painter, Texture } from "./gl/painter";
import { scaleLimit } from "./scene/colour";
import type { Rect } from "./scene/layout";
import { planeSize } from "./scene/plane";
import { pieceAt, type Piece, type Run, type Tensor, type Values } from "./source";

const PREVIEW_CELLS = 150_000; // larger pictures come in eight bits first, exactly a moment later
const EXACT_CELLS = 4_000_000; // whole pictures up to this size are fetched whole and kept
const CLIP_BYTES = 3_000_000;
const KEPT_BYTES = 160e6;

export interface Source { run: number; of: Run; tensor: Tensor; ref: string; title: string; frameOf(frame: number): number }

interface Request {
  frame: number; span: Span; f: [number, number]; look: Look;
  coarse: { span: Span; f: [number, number] }; // in eight bits, no finer than the screen
  hurry: boolean; // a hand is scrubbing: eight bits will do
  changed(): void; failed(text: string): void;
}

interface Drawn { texture: Texture; frame: number; span: Span; f: [number, number]; limit: number; exact: boolean }

export class Panel {
  rect: Rect = { x: 0, y: 0, w: 1, h: 1 };
  drawn: Drawn | null = null;
  plane: Plane | null = null; // the exact values behind what is drawn, once they are here
  error: string | null = null;
  limit = 1; // of the tensor's own scale
  layerLimit = 1; // of the largest scale in its layer
  moved = 1; // of its differences from the first frame
  stirred = 1; // of the steps between neighbouring frames
  private busy = false;
  private gone = false;
  private next: Request | null = null;
  private fetching = ""; // what is under way
  private exact: AbortController | null = null;
  private clips = new Map<string, { pixels: Uint8Array; limit: number; clip: Clip }>();
  private clipBytes = 0;
  private asking = new Map<string, AbortController>();

  constructor(readonly source: Source, private archive: Archive, private painter: Painter) {}

  /** The tensor's shape at a frame; null where it does not exist then, or has no cells that could be drawn. */
  shapeAt(frame: number): number[] | null {
    const shape = pieceAt(this.source.tensor, this.source.frameOf(frame))?.shape;
    return shape?.every((n) => n > 0) ? shape : null;
  }

  /** The piece of the recording that is drawn at a frame. */
  pieceAt(frame: number): Piece | null {
    return this.shapeAt(frame) && (pieceAt(this.source.tensor, this.source.frameOf(frame)) ?? null);
  }

  size(frame: number): { rows: number; cols: number } {
    const tensor = this.source.tensor;
    return planeSize(this.pieceAt(frame) ?? tensor.pieces[tensor.pieces.length - 1]);
  }

  /** Fetches the picture as exactly as the screen can show it. One request at a time: while it is under way only the newest of the
   * requests after it is remembered, so that a scrubbing hand sees pictures at the pace at which they come. */
  show(request: Request): void {
    const key = JSON.stringify([request.frame, request.span, request.f, request.look, request.hurry]);
    if (this.busy) {
      if (key === this.fetching) { this.next = null; return; }
      this.next = request;
      this.exact?.abort(); // a picture that has been passed by needs no more digits
      return;
    }
    this.busy = true;
    this.fetching = key;
    this.fetch(request).catch((error: Error) => { if (error.name !== "AbortError") request.failed(error.message); }).finally(() => {
      this.busy = false;
      const next = this.next;
      this.next = null;
      if (next) this.show(next);
    });
  }

  private async fetch({ frame, f, look, coarse, hurry, span: wanted, changed }: Request): Promise<void> {
    const at = this.source.frameOf(frame), { run, tensor } = this.source, { rows, cols } = this.size(frame);
    const span: Span = f[0] === 1 && f[1] === 1 && rows * cols <= EXACT_CELLS ? { r: [0, rows], c: [0, cols] } : wanted;
    let plane = this.archive.plane(run, tensor.name, at, span, f, look);
    const cells = ((span.r[1] - span.r[0]) / f[0]) * ((span.c[1] - span.c[0]) / f[1]);
    if (!plane && cells > PREVIEW_CELLS) {
      const query = { run, tensor: tensor.name, frames: `${at}:${at + 1}:1`, r: coarse.span.r.join(":"), c: coarse.span.c.join(":"), f: coarse.f.join(",") };
      const clip = await this.archive.clip(query, look);
      this.adopt(clip.pixels, clip.h, clip.w, { frame, span: { r: clip.r, c: clip.c }, f: clip.f, limit: clip.limits[0], exact: false });
      changed();
      if (hurry || this.next) return;
    }
    const exact = (this.exact = new AbortController());
    plane ??= await this.archive.fetchPlane(run, tensor.name, at, span, f, look, cells > PREVIEW_CELLS ? exact.signal : undefined);
    if (this.gone || this.asking.size) return; // closed, or playing again meanwhile
    this.take(plane, frame, look);
    changed();
  }

  private take(plane: Plane, frame: number, { limit }: Look): void {
    const data = floats(plane.values);
    this.plane = plane;
    this.adopt(data, plane.rows, plane.cols, { frame, span: { r: plane.r, c: plane.c }, f: plane.f, limit: limit ?? plane.limit ?? scaleLimit(data), exact: true });
  }

  private adopt(data: Uint8Array | Float32Array, rows: number, cols: number, about: Omit<Drawn, "texture">): void {
    if (this.gone) return;
    if (!about.exact) this.plane = null;
    this.drawn = { ...about, texture: this.painter.upload(this.drawn?.texture ?? null, data, rows, cols) };
  }

  // -- playing --------------------------------------------------------------------------------------------------------

  private clipKey(frame: number, about: string): string { return `${about}@${frame}`; }

  /** Whether the frame can be drawn at once while playing. */
  has(frame: number, about: string): boolean {
    const at = this.source.frameOf(frame);
    return this.clips.has(this.clipKey(at, about)) || !this.shapeAt(frame);
  }

  /** Asks for the frames from `frame` on (every `step`-th), unless they are here or under way. */
  prefetch(frame: number, count: number, step: number, span: Span, f: [number, number], look: Look,
    about: string, arrived: () => void): void {
    const bytes = Math.ceil((span.r[1] - span.r[0]) / f[0]) * Math.ceil((span.c[1] - span.c[0]) / f[1]);
    const cells = (span.r[1] - span.r[0]) * (span.c[1] - span.c[0]);
    const chunk = Math.max(1, Math.min(64, Math.floor(CLIP_BYTES / bytes))); // the answer may hold fewer, so that it does not take long
    const { run, tensor } = this.source;
    let at = this.source.frameOf(frame), asked = 0;
    const last = this.source.of.frames;
    const parallel = cells > EXACT_CELLS ? 1 : 2; // the store unpacks forwards: one reader at a time
    while (asked < count && at < last && this.asking.size < parallel) {
      if (this.clips.has(this.clipKey(at, about))) { at += step; asked++; continue; }
      const key = this.clipKey(at, about);
      const piece = pieceAt(tensor, at);
      if (!piece) { at += step; asked++; continue; }
      const stop = Math.min(at + chunk * step, piece.stop);
      const underWay = [...this.asking.keys()].some((k) => { const [a, b] = k.split("#").map(Number); return at >= a && at < b; });
      if (!underWay) {
        const cancel = new AbortController(), name = `${at}#${stop}#${key}`;
        this.asking.set(name, cancel);
        const query = { run, tensor: tensor.name, frames: `${at}:${stop}:${step}`, f: f.join(","),
          r: span.r.join(":"), c: span.c.join(":") };
        this.archive.clip(query, look, cancel.signal).then((clip) => {
          const size = clip.h * clip.w;
          clip.frames.forEach((n, i) => { this.keep(this.clipKey(n, about), clip.pixels.subarray(i * size, (i + 1) * size), clip.limits[i], clip); });
        }, (error: Error) => { if (error.name !== "AbortError") this.error = error.message; })
          .finally(() => { this.asking.delete(name); arrived(); });
      }
      asked += Math.ceil((stop - at) / step);
      at = stop + ((step - ((stop - at) % step)) % step);
    }
  }

  private keep(key: string, pixels: Uint8Array, limit: number, clip: Clip): void {
    this.clips.set(key, { pixels, limit, clip });
    this.clipBytes += pixels.byteLength;
    for (const [old, { pixels: p }] of this.clips) {
      if (this.clipBytes <= KEPT_BYTES || old === key) break;
      this.clips.delete(old);
      this.clipBytes -= p.byteLength;
    }
  }

  /** Makes a buffered frame the one drawn. */
  play(frame: number, about: string): boolean {
    const kept = this.clips.get(this.clipKey(this.source.frameOf(frame), about));
    if (!kept) return false;
    const { clip } = kept;
    this.adopt(kept.pixels, clip.h, clip.w, { frame, span: { r: clip.r, c: clip.c }, f: clip.f, limit: kept.limit, exact: false });
    return true;
  }

  /** Stops what is under way and forgets buffered frames (the view has changed). */
  rest(): void {
    for (const cancel of this.asking.values()) cancel.abort();
    this.asking.clear();
    this.error = null;
    this.next = null;
    this.exact?.abort();
  }

  dispose(): void {
    this.rest();
    this.gone = true;
    this.clips.clear();
    if (this.drawn) this.painter.free(this.drawn.texture);
    this.drawn = null;
  }
}

function floats(values: Values): Float32Array {
  if (values instanceof Float32Array) return values;
  if (values instanceof BigInt64Array || values instanceof BigUint64Array) return Float32Array.from(values as BigInt64Array, Number);
  return Float32Array.from(values);
}

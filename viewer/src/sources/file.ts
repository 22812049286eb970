// A page that is one file: the same questions as the server's, answered from the blocks inside the page.

import type { Findings, Pair, Stats } from "../archive";
import type { Surveyed } from "../map/change";
import { codeOf, scaleLimit } from "../scene/colour";
import { layoutOf } from "../picture/layout";
import { indexOf, planeSize } from "../scene/plane";
import { layerOf } from "../scene/layout";
import { nearestFrame } from "../scene/time";
import { pieceAt, ViewerError, type Manifest, type Piece, type Query, type Source, type Tensor, type Values } from "../source";
import { decode, type Block, type Frames } from "./blocks";
import { evenly, singularValues, summary } from "./figures";
import { thinned, type Mode } from "../picture/thin";

interface Packed { blocks: Block[]; stats: Stats }
interface Data extends Manifest { tensors: Record<string, Packed>[]; findings: Findings[]; pair: Pair | null; overview?: Record<string, Surveyed> }

const KEPT_BYTES = 256e6;
const CLIP_BYTES = 8e6;
const MOMENTS = 48; // at which distributions are taken

export class FileSource implements Source {
  private data: Data;
  private kept = new Map<Block, Promise<Frames>>();
  private sizes = new Map<Block, number>();

  constructor(element: HTMLElement) { this.data = JSON.parse(element.textContent ?? "") as Data; }

  async ask(word: string, query: Query, signal?: AbortSignal): Promise<ArrayBuffer> {
    const run = Number(query.run ?? 0), name = String(query.tensor ?? "");
    switch (word) {
      case "manifest": return json({ version: this.data.version, source: "file", note: this.data.note, runs: this.data.runs });
      case "trend":
      case "stats": return json(this.packed(run, name).stats);
      case "plane": return this.plane(run, name, query);
      case "clip": return this.clip(run, name, query, signal);
      case "series": return this.series(run, name, query);
      case "order": return json(await this.order(run, name, Number(query.frame), String(query.order)));
      case "curve": return json(await this.curve(run, name, String(query.kind)));
      case "neuron": return json(await this.neuron(run, String(query.group), Number(query.unit)));
      case "overview": return json({ tensors: this.data.overview ?? {}, next: null, of: this.data.runs[0].tensors.length });
      case "distribution": return json(await this.distribution(run, this.together(run, name, String(query.scope)), String(query.of), Number(query.unit)));
      case "units": return json(await this.units(run, name));
      case "spectrum": return json(await this.spectrum(run, name));
      case "findings": return json(this.data.findings[run] ?? { findings: [], reason: "Not examined." });
      case "pair": if (this.data.pair) return json(this.data.pair);
    }
    throw new ViewerError("This page holds no answer to that; open the recording with weightlapse view.");
  }

  // -- frames -------------------------------------------------------------------------------------------------------------

  private packed(run: number, name: string): Packed {
    const packed = this.data.tensors[run]?.[name];
    if (!packed) throw new ViewerError(`This page holds no tensor ${name}.`);
    return packed;
  }

  private tensor(run: number, name: string): Tensor { return this.data.runs[run].tensors.find((t) => t.name === name)!; }

  private piece(run: number, name: string, frame: number): Piece {
    const piece = pieceAt(this.tensor(run, name), frame);
    if (!piece) throw new ViewerError(`${name} does not exist at this step.`);
    return piece;
  }

  private async block(run: number, name: string, frame: number): Promise<Frames> {
    const block = this.packed(run, name).blocks.find((b) => b.start <= frame && frame < b.stop);
    if (!block) throw new ViewerError(`This page does not hold frame ${frame} of ${name}.`);
    let frames = this.kept.get(block);
    if (frames) this.kept.delete(block); // to the end of the queue
    else {
      frames = decode(block, this.tensor(run, name).dtype);
      void frames.then((f) => this.sizes.set(block, f.values.byteLength), () => this.kept.delete(block));
    }
    this.kept.set(block, frames);
    let used = [...this.sizes.values()].reduce((a, b) => a + b, 0);
    for (const old of this.kept.keys()) {
      if (used <= KEPT_BYTES || old === block) break;
      used -= this.sizes.get(old) ?? 0;
      this.sizes.delete(old);
      this.kept.delete(old);
    }
    return frames;
  }

  private async frame(run: number, name: string, frame: number): Promise<{ values: Values; bound: number }> {
    const block = await this.block(run, name, frame), at = (frame - block.start) * block.cells;
    return { values: block.values.subarray(at, at + block.cells) as Values, bound: block.bound(frame) };
  }

  /** The cells in the order asked for, less the reference. */
  private async cells(run: number, name: string, frame: number, query: Query): Promise<{ values: Values; bound: number }> {
    const now = await this.frame(run, name, frame);
    const [kind, number] = String(query.ref ?? "").split(":");
    let out = now;
    if (kind) {
      const piece = this.piece(run, name, frame);
      const clamp = (f: number) => Math.min(piece.stop - 1, Math.max(piece.start, f));
      const other = kind === "run" ? Number(number) : run;
      const at = kind === "run" ? nearestFrame(this.data.runs[other].steps, this.data.runs[run].steps[frame])
        : clamp(kind === "first" ? piece.start : kind === "prev" ? frame - 1 : Number(number));
      const against = await this.frame(other, name, at);
      const difference = new Float32Array(now.values.length);
      for (let i = 0; i < difference.length; i++) difference[i] = Number(now.values[i]) - Number(against.values[i]);
      out = { values: difference, bound: now.bound + against.bound };
    }
    if (!query.order) return out;
    const { rows, cols } = await this.order(run, name, frame, String(query.order));
    const ordered = out.values.slice() as Values, w = cols.length;
    for (let r = 0; r < rows.length; r++) for (let c = 0; c < w; c++) ordered[r * w + c] = out.values[rows[r] * w + cols[c]];
    return { values: ordered, bound: out.bound };
  }

  private region(run: number, name: string, frame: number, query: Query): { r: number[]; c: number[]; f: number[]; w: number } {
    const { rows, cols } = planeSize(this.piece(run, name, frame));
    const span = (text: unknown, most: number) => (text === undefined ? [0, most] : String(text).split(":").map(Number));
    return { r: span(query.r, rows), c: span(query.c, cols), f: String(query.f ?? "1,1").split(",").map(Number), w: cols };
  }

  private async plane(run: number, name: string, query: Query): Promise<ArrayBuffer> {
    const frame = Number(query.frame), { r, c, f, w } = this.region(run, name, frame, query);
    const { values, bound } = await this.cells(run, name, frame, query);
    if (f[0] > 1 || f[1] > 1) {
      const { tiles, limit } = this.tiles(values, w, r, c, f, query);
      return message({ frame, r, c, f, dtype: "float32", bound: null, limit }, tiles);
    }
    const part = values.slice(0, (r[1] - r[0]) * (c[1] - c[0])) as Values;
    for (let i = r[0], at = 0; i < r[1]; i++, at += c[1] - c[0]) part.set(values.subarray(i * w + c[0], i * w + c[1]) as never, at);
    return message({ frame, r, c, f, dtype: dtypeOf(part), bound }, part);
  }

  /** A region by its tiles, and the end of their scale; one that a picture has to itself is that of its extremes. */
  private tiles(values: Values, w: number, r: number[], c: number[], f: number[], query: Query): { tiles: Float32Array; limit: number } {
    const mode = String(query.mode ?? "typical") as Mode, own = query.limit === undefined || query.limit === "step";
    const limit = own ? scaleLimit(thinned(values, w, r, c, f, mode === "typical" ? "extreme" : mode, 1)) : Number(query.limit);
    return { tiles: thinned(values, w, r, c, f, mode, limit), limit };
  }

  private async clip(run: number, name: string, query: Query, signal?: AbortSignal): Promise<ArrayBuffer> {
    const [start, wanted, step] = String(query.frames).split(":").map(Number);
    const stop = Math.min(wanted, this.piece(run, name, start).stop);
    const { r, c, f, w } = this.region(run, name, start, query);
    const h2 = Math.ceil((r[1] - r[0]) / f[0]), w2 = Math.ceil((c[1] - c[0]) / f[1]);
    const frames: number[] = [], limits: number[] = [], parts: Uint8Array[] = [];
    for (let frame = start; frame < stop && (frames.length + 1) * h2 * w2 < CLIP_BYTES + h2 * w2; frame += step) {
      if (signal?.aborted) throw new DOMException("no longer wanted", "AbortError");
      const { values } = await this.cells(run, name, frame, query);
      const { tiles: reduced, limit } = this.tiles(values, w, r, c, f, query);
      const codes = new Uint8Array(reduced.length);
      for (let i = 0; i < codes.length; i++) codes[i] = codeOf(reduced[i], limit);
      frames.push(frame);
      limits.push(limit);
      parts.push(codes);
    }
    const all = new Uint8Array(parts.length * h2 * w2);
    parts.forEach((p, i) => { all.set(p, i * h2 * w2); });
    return message({ frames, limits, h: h2, w: w2, r, c, f }, all);
  }

  // -- numbers ------------------------------------------------------------------------------------------------------------

  /** The values of some cells at the frames of one piece. */
  private async lines(run: number, name: string, cells: number[], start: number, stop: number): Promise<{ values: Values; bounds: number[] }> {
    const count = stop - start;
    let out: Values | null = null;
    const bounds: number[] = [];
    for (let f = start; f < stop; f++) {
      const { values, bound } = await this.frame(run, name, f);
      out ??= new (values.constructor as { new (n: number): Values })(cells.length * count);
      for (let i = 0; i < cells.length; i++) out[i * count + f - start] = values[cells[i]];
      bounds.push(bound);
    }
    return { values: out!, bounds };
  }

  private async series(run: number, name: string, query: Query): Promise<ArrayBuffer> {
    const [start, wanted] = String(query.frames).split(":").map(Number);
    const piece = this.piece(run, name, start), stop = Math.min(wanted, piece.stop), { cols } = planeSize(piece);
    const cells = String(query.cells).split(";").map((cell) => { const [row, col] = cell.split(",").map(Number); return row * cols + col; });
    const { values, bounds } = await this.lines(run, name, cells, start, stop);
    return message({ start, step: 1, count: stop - start, dtype: dtypeOf(values), bounds }, values);
  }

  private async order(run: number, name: string, frame: number, kind: string): Promise<{ rows: number[]; cols: number[] }> {
    if (kind !== "norm") throw new ViewerError("This page holds no such order; open the recording with weightlapse view.");
    const piece = this.piece(run, name, frame), { rows, cols } = planeSize(piece);
    const own = (n: number) => Array.from({ length: n }, (_, i) => i);
    if (layoutOf(piece).wrapped) return { rows: own(rows), cols: own(cols) }; // units that run over several lines stay as they are
    const { values } = await this.frame(run, name, piece.stop - 1);
    const down = new Float64Array(rows), across = new Float64Array(cols);
    for (let i = 0; i < rows; i++) for (let j = 0; j < cols; j++) {
      const v = Number(values[i * cols + j]), s = Number.isFinite(v) ? v * v : 0;
      down[i] += s;
      across[j] += s;
    }
    const sorted = (sizes: Float64Array) => Array.from(sizes.keys()).sort((a, b) => sizes[b] - sizes[a]);
    return { rows: sorted(down), cols: sorted(across) };
  }

  private async curve(run: number, name: string, kind: string): Promise<unknown> {
    const frames: number[] = [], numbers: (number | null)[] = [];
    let first: Values | null = null, before: Values | null = null;
    const tensor = this.tensor(run, name), last = tensor.pieces[tensor.pieces.length - 1].stop;
    const stride = Math.max(1, Math.ceil(last / 200)), [word, line] = kind.split(":");
    if (word === "row" || word === "col") return this.lineAverage(run, name, tensor, word, Number(line), stride);
    for (const piece of tensor.pieces) for (let f = piece.start; f < piece.stop; f += stride) {
      const { values } = await this.frame(run, name, f);
      if (first?.length !== values.length) first = before = values;
      const base = kind === "distance" ? first : kind === "update" ? before : null;
      const drawn = layoutOf(piece), empty = (i: number) => indexOf(piece, Math.floor(i / drawn.cols), i % drawn.cols) === null;
      const count = piece.shape.reduce((n, size) => n * size, 1);
      let sum = 0;
      for (let i = 0; i < values.length; i++) {
        if (drawn.wrapped && empty(i)) continue;
        const v = Number(values[i]) - (base ? Number(base[i]) : 0);
        sum += kind === "mean" ? v : kind === "mass" ? Math.abs(v) : v * v;
      }
      const value = kind === "mean" ? sum / count : kind === "mass" ? sum : Math.sqrt(sum);
      frames.push(f);
      numbers.push(Number.isFinite(value) ? value : null);
      before = values;
    }
    return { kind, frames, values: numbers, sampled: null };
  }

  private async lineAverage(run: number, name: string, tensor: Tensor, word: string, line: number, stride: number): Promise<unknown> {
    const frames: number[] = [], numbers: number[] = [];
    for (const piece of tensor.pieces) {
      const { rows, cols } = planeSize(piece), count = word === "row" ? cols : rows;
      if (line >= (word === "row" ? rows : cols)) continue;
      for (let f = piece.start; f < piece.stop; f += stride) {
        const { values } = await this.frame(run, name, f);
        let sum = 0, there = 0;
        for (let i = 0; i < count; i++) {
          const [r, c] = word === "row" ? [line, i] : [i, line];
          if (indexOf(piece, r, c) === null) continue;
          sum += Number(values[r * cols + c]);
          there++;
        }
        frames.push(f);
        numbers.push(sum / there);
      }
    }
    return { kind: `${word}:${line}`, frames, values: numbers.map((v) => (Number.isFinite(v) ? v : null)), sampled: null };
  }

  /** The tensor, or all of its layer. */
  private together(run: number, name: string, scope: string): string[] {
    if (scope !== "layer" || !layerOf(name)) return [name];
    const { stream } = this.tensor(run, name);
    return this.data.runs[run].tensors.filter((t) => t.stream === stream && layerOf(t.name) === layerOf(name)).map((t) => t.name);
  }

  private async distribution(run: number, names: string[], of: string, unit: number): Promise<unknown> {
    if (of === "gradients") {
      names = names.map((n) => `gradients:${n}`).filter((n) => this.data.tensors[run]?.[n]);
      if (!names.length) throw new ViewerError("No gradients are recorded; watch(..., streams=('weights', 'gradients')) records them.");
    }
    const rows = new Map<number, number[]>(), updates = of === "updates" ? 1 : 0;
    let read = 0, there = 0;
    for (const name of names) for (const piece of this.tensor(run, name).pieces) {
      if (unit >= piece.shape[0]) throw new ViewerError(`${name} has no unit ${unit}.`);
      const cells = this.cellsOf(piece, unit), size = (shape: number[]) => shape.slice(unit < 0 ? 0 : 1).reduce((a, b) => a * b, 1);
      if (piece === this.tensor(run, name).pieces[0]) { read += cells.length; there += size(piece.whole ?? piece.shape); }
      for (const f of evenly(piece.start + updates, piece.stop - 1, MOMENTS)) {
        const now = (await this.frame(run, name, f)).values, before = updates ? (await this.frame(run, name, f - 1)).values : null;
        const row = rows.get(f) ?? [];
        for (const i of cells) row.push(Number(now[i]) - (before ? Number(before[i]) : 0));
        rows.set(f, row);
      }
    }
    const frames = [...rows.keys()].sort((a, b) => a - b);
    return { frames, sampled: read < there ? [read, there] : null, of, ...summary(frames.map((f) => rows.get(f)!)) };
  }

  /** The cells that hold weights: of one position on the first axis, or (`unit` < 0) all. */
  private cellsOf(piece: Piece, unit: number): number[] {
    const { rows, cols } = planeSize(piece), found: number[] = [];
    for (let r = 0; r < rows; r++) for (let c = 0; c < cols; c++) {
      const index = indexOf(piece, r, c);
      if (index && (unit < 0 || index[0] === unit)) found.push(r * cols + c);
    }
    return found;
  }

  /** For each cell of a piece, the place (in C order) of the weight that it holds; -1 where it holds none. */
  private placesOf(piece: Piece): Int32Array {
    const { rows, cols } = planeSize(piece);
    return Int32Array.from({ length: rows * cols }, (_, i) => {
      const index = indexOf(piece, Math.floor(i / cols), i % cols);
      return index ? index.reduce((at, k, axis) => at * piece.shape[axis] + k, 0) : -1;
    });
  }

  private async units(run: number, name: string): Promise<unknown> {
    const pieces = this.tensor(run, name).pieces, piece = pieces[pieces.length - 1];
    if (piece.shape.length < 2) throw new ViewerError(`${name} has no units of several weights.`);
    const places = this.placesOf(piece), [high, ...others] = piece.shape, width = others.reduce((a, b) => a * b, 1), frames = evenly(piece.start, piece.stop - 1, MOMENTS);
    const lines: (number | null)[][] = Array.from({ length: high }, () => []);
    for (const f of frames) {
      const { values } = await this.frame(run, name, f), sums = new Float64Array(high);
      for (let i = 0; i < places.length; i++) if (places[i] >= 0) sums[Math.floor(places[i] / width)] += Number(values[i]) ** 2;
      sums.forEach((sum, u) => { lines[u].push(Number.isFinite(sum) ? Math.sqrt(sum / width) : null); });
    }
    const whole = (piece.whole ?? piece.shape).slice(1).reduce((a, b) => a * b, 1), every = piece.every?.[0] ?? 1;
    return { frames, units: lines.map((_, u) => u * every), of: (piece.whole ?? piece.shape)[0], lines, sampled: width < whole ? [width, whole] : null };
  }

  private async spectrum(run: number, name: string): Promise<unknown> {
    const pieces = this.tensor(run, name).pieces, piece = pieces[pieces.length - 1];
    const [high, ...others] = piece.shape, wide = others.reduce((a, b) => a * b, 1);
    if (piece.shape.length < 2) throw new ViewerError(`${name} is no matrix, so it has no spectrum.`);
    if (Math.min(high, wide) > 192 || piece.every) throw new ViewerError("The spectrum of so large a tensor takes too long here; open the recording with weightlapse view.");
    const places = this.placesOf(piece);
    const frames: number[] = [], found: number[][] = [];
    for (const f of evenly(piece.start, piece.stop - 1, 6)) {
      const { values } = await this.frame(run, name, f), matrix = new Float64Array(high * wide);
      for (let i = 0; i < places.length; i++) if (places[i] >= 0) matrix[places[i]] = Number(values[i]);
      if (!matrix.every(Number.isFinite)) continue; // a NaN has no spectrum: the moment is left out
      frames.push(f);
      found.push(singularValues(matrix, high, wide));
    }
    return { frames, values: found };
  }

  private async neuron(run: number, group: string, unit: number): Promise<unknown> {
    const found = this.data.runs[run].groups.find((g) => g.name === group);
    const parts: unknown[] = [];
    for (const member of found?.members ?? []) {
      const tensor = this.tensor(run, member.tensor), piece = tensor?.pieces[tensor.pieces.length - 1];
      if (!piece || piece.every) continue; // thinned in space: a unit is no longer whole
      const { rows, cols } = planeSize(piece), cells: number[] = [];
      for (let r = 0; r < rows; r++) for (let c = 0; c < cols && cells.length < 400; c++) {
        const at = indexOf(piece, r, c)?.[member.axis];
        if (at !== undefined && (Array.isArray(member.unit) ? member.unit[at] : Math.floor(at / member.unit)) === unit) cells.push(r * cols + c);
      }
      const { values } = await this.lines(run, member.tensor, cells, piece.start, piece.stop), count = piece.stop - piece.start;
      const line = (i: number) => Array.from(values.subarray(i * count, (i + 1) * count) as ArrayLike<number>, (v) => (Number.isFinite(Number(v)) ? Number(v) : null));
      parts.push({ label: `${member.role.includes("in") ? "outgoing" : "incoming"} ${member.tensor}`, lines: cells.map((_, i) => line(i)),
        frames: Array.from({ length: count }, (_, i) => piece.start + i) });
    }
    return { group, unit, parts };
  }
}

function dtypeOf(values: Values): string {
  return ({ BigInt64Array: "int64", BigUint64Array: "uint64" } as Record<string, string>)[values.constructor.name]
    ?? values.constructor.name.replace("Array", "").toLowerCase();
}

function json(value: unknown): ArrayBuffer { return new TextEncoder().encode(JSON.stringify(value)).buffer as ArrayBuffer; }

function message(header: unknown, values: Values): ArrayBuffer {
  let head = new TextEncoder().encode(JSON.stringify(header));
  const pad = (8 - ((head.length + 4) % 8)) % 8;
  head = new TextEncoder().encode(JSON.stringify(header) + " ".repeat(pad));
  const out = new Uint8Array(4 + head.length + values.byteLength);
  new DataView(out.buffer).setUint32(0, head.length, true);
  out.set(head, 4);
  out.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), 4 + head.length);
  return out.buffer;
}


// Typed questions to a source, and a bounded memory of the answers that come up again.

import type { Mode } from "./picture/thin";
import type { Survey, Surveyed } from "./map/change";
import { jsonOf, unpack, valuesOf, type Additions, type Manifest, type Query, type Run, type Source, type Values } from "./source";

export interface Span { r: [number, number]; c: [number, number] }
export interface Look { ref: string; order: string; mode: Mode; limit: number | null } // null: a scale for each picture

/** One frame of a tensor: all values of a region, or one number for each of its tiles of `f` cells. */
export interface Plane extends Span {
  frame: number;
  f: [number, number];
  dtype: string;
  bound: number | null;
  limit?: number; // of tiles: the end of their scale
  values: Values; // (rows, cols)
  rows: number;
  cols: number;
}

/** Consecutive frames in eight bits (see scene/colour.ts). */
export interface Clip extends Span { frames: number[]; limits: number[]; h: number; w: number; f: [number, number]; pixels: Uint8Array }

export interface Series { start: number; step: number; count: number; dtype: string; bounds: number[] | null; values: Values }
export interface Trend { frames: number[]; rms: (number | null)[] }
export interface Stats extends Trend { limit: number; moved: number; stirred: number }
export interface Curve { kind: string; frames: number[]; values: (number | null)[]; sampled: [number, number] | null }
export interface Neuron { group: string; unit: number; parts: { label: string; frames: number[]; lines: (number | null)[][] }[] }
export interface Finding { kind: string; tensor: string | null; units: number[]; step: number | null; severity: string; text: string }
export interface Findings { findings: Finding[]; reason: string | null }
export interface Pair { frames: number[]; raw: (number | null)[]; aligned: (number | null)[] | null; reason: string | null; run: Run | null;
  number?: number; parting?: Record<string, number | null> } // followed: the step from which on the units of a group have no partner any more

export interface Distribution { frames: number[]; percentiles: (number | null)[][]; counts: number[][]; beyond: number[]; low: number; high: number;
  bad: number[]; sampled: [number, number] | null; of: string }
export interface Units { frames: number[]; units: number[]; of: number; lines: (number | null)[][]; sampled: [number, number] | null }
export interface Spectrum { frames: number[]; values: number[][] }
interface Overview { tensors: Record<string, Surveyed>; next: number | null; of: number }

const PLANE_BYTES = 96e6;

export class Archive {
  private planes = new Map<string, Plane>();
  private used = 0;
  private once = new Map<string, Promise<unknown>>();

  constructor(readonly source: Source) {}

  async manifest(): Promise<Manifest> {
    return jsonOf<Manifest>(await this.source.ask("manifest", {}));
  }

  async live(run: number, since: number, epochs: number): Promise<Additions | { manifest: Run }> {
    return jsonOf(await this.source.ask("live", { run, since, epochs }));
  }

  /** Answers that stay the same for a finished run are asked for once. */
  private remember<T>(word: string, query: Query): Promise<T> {
    const key = word + JSON.stringify(query);
    let answer = this.once.get(key) as Promise<T> | undefined;
    if (!answer) {
      answer = this.source.ask(word, query).then((b) => jsonOf<T>(b));
      answer.catch(() => this.once.delete(key));
      this.once.set(key, answer);
    }
    return answer;
  }

  stats(run: number, tensor: string): Promise<Stats> { return this.remember("stats", { run, tensor }); }
  trend(run: number, tensor: string): Promise<Trend> { return this.remember("trend", { run, tensor }); }
  curve(run: number, tensor: string, kind: string): Promise<Curve> { return this.remember("curve", { run, tensor, kind }); }
  neuron(run: number, group: string, unit: number): Promise<Neuron> { return this.remember("neuron", { run, group, unit }); }
  findings(run: number): Promise<Findings> { return this.remember("findings", { run }); }
  distribution(run: number, tensor: string, of: string, unit: number, scope: string): Promise<Distribution> {
    return this.remember("distribution", { run, tensor, of, unit, scope });
  }
  units(run: number, tensor: string): Promise<Units> { return this.remember("units", { run, tensor }); }
  spectrum(run: number, tensor: string): Promise<Spectrum> { return this.remember("spectrum", { run, tensor }); }

  /** The survey of all tensors, in parts; `some` is told after each. A failure leaves what has come. */
  async survey(run: number, some: (survey: Survey, of: number) => void): Promise<void> {
    const survey: Survey = new Map();
    for (let since: number | null = 0; since !== null;) {
      const part: Overview = jsonOf<Overview>(await this.source.ask("overview", { run, since }));
      for (const [name, found] of Object.entries(part.tensors)) survey.set(name, found);
      some(survey, part.of);
      since = part.next;
    }
  }

  pair(follow = false): Promise<Pair> { return this.remember("pair", follow ? { follow: 1 } : {}); }
  order(run: number, tensor: string, frame: number, order: string): Promise<{ rows: number[]; cols: number[] }> {
    return this.remember("order", { run, tensor, frame, order });
  }

  /** Forget what may change while a run is still being written. */
  forget(): void { this.once.clear(); }

  plane(run: number, tensor: string, frame: number, span: Span, f: [number, number], look: Look): Plane | undefined {
    return this.planes.get(planeKey(run, tensor, frame, span, f, look));
  }

  async fetchPlane(run: number, tensor: string, frame: number, span: Span, f: [number, number], look: Look,
    signal?: AbortSignal): Promise<Plane> {
    const key = planeKey(run, tensor, frame, span, f, look);
    const kept = this.planes.get(key);
    if (kept) return kept;
    const query: Query = { run, tensor, frame, r: span.r.join(":"), c: span.c.join(":"), f: f.join(",") };
    const buffer = await this.source.ask("plane", { ...query, ...lookQuery(look, f) }, signal);
    const { header, offset } = unpack<Omit<Plane, "values" | "rows" | "cols">>(buffer);
    const rows = Math.ceil((header.r[1] - header.r[0]) / header.f[0]);
    const cols = Math.ceil((header.c[1] - header.c[0]) / header.f[1]);
    const plane = { ...header, values: valuesOf(header.dtype, buffer, offset), rows, cols };
    this.planes.set(key, plane);
    this.used += plane.values.byteLength;
    for (const [old, p] of this.planes) {
      if (this.used <= PLANE_BYTES || old === key) break;
      this.planes.delete(old);
      this.used -= p.values.byteLength;
    }
    return plane;
  }

  async clip(query: Query, look: Look, signal?: AbortSignal): Promise<Clip> {
    const buffer = await this.source.ask("clip", { ...query, ...lookQuery(look) }, signal);
    const { header, offset } = unpack<Omit<Clip, "pixels">>(buffer);
    return { ...header, pixels: new Uint8Array(buffer, offset) };
  }

  async series(run: number, tensor: string, cells: [number, number][], frames: [number, number], step: number,
    signal?: AbortSignal): Promise<Series> {
    const query = { run, tensor, cells: cells.map((c) => c.join(",")).join(";"), frames: frames.join(":"), step };
    const buffer = await this.source.ask("series", query, signal);
    const { header, offset } = unpack<Omit<Series, "values">>(buffer);
    return { ...header, values: valuesOf(header.dtype, buffer, offset) };
  }
}

function lookQuery(look: Look, f: [number, number] = [0, 0]): Query {
  const tiled: Query = f[0] === 1 && f[1] === 1 ? {} : { mode: look.mode, limit: look.limit ?? "step" }; // stored values need neither
  return { ...tiled, ...(look.ref ? { ref: look.ref } : {}), ...(look.order ? { order: look.order } : {}) };
}

function planeKey(run: number, tensor: string, frame: number, span: Span, f: [number, number], look: Look): string {
  return JSON.stringify([run, tensor, frame, span.r, span.c, f, lookQuery(look, f)]);
}

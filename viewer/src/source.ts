// Where the page's data comes from. A source answers a word and a flat query with bytes; a server, a file and a notebook are three
// sources, and nothing else in the page knows which one it has.

import type { LayoutJson } from "./picture/layout";

export type Query = Record<string, string | number>;

export interface Source {
  ask(word: string, query: Query, signal?: AbortSignal): Promise<ArrayBuffer>;
}

/** `every` and `whole`: a page in a file may hold only every n-th position of an axis of the whole shape. */
export interface Piece { start: number; stop: number; shape: number[]; layout?: LayoutJson; every?: number[]; whole?: number[] }
export interface Tensor { name: string; dtype: string; kind?: string; stream: string; aliases: string[]; pieces: Piece[];
  strip?: [string, "right" | "below"] } // the tensor beside which a vector stands: along its rows or its columns
export interface Epoch { start: number; stop: number }

export interface Additions {
  since: number;
  frames: number;
  steps: number[];
  scalars: Record<string, (number | null)[]>;
  events: [number, string][];
  gaps: [number, number, string][];
  closed: boolean;
}

export interface Run extends Additions {
  name: string;
  path?: string; // where a server has it
  tensors: Tensor[];
  exact: boolean;
  tolerance: number | null;
  epochs: Epoch[];
  groups: { name: string; size: number; members: { tensor: string; axis: number; role: string; unit: number | number[] }[] }[];
  nbytes: number;
  storedNbytes: number;
}

export interface Manifest { version: number; source: "live" | "file"; note?: string; runs: Run[] }

/** What went wrong, in words for the person who looks at the page. */
export class ViewerError extends Error {}

export type Values = Float32Array | Float64Array | Int8Array | Uint8Array | Int16Array | Uint16Array | Int32Array | Uint32Array
  | BigInt64Array | BigUint64Array;

const ARRAYS: Record<string, { new (buffer: ArrayBuffer, offset: number, length: number): Values; BYTES_PER_ELEMENT: number }> = {
  float32: Float32Array, float64: Float64Array, int8: Int8Array, uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array,
  int32: Int32Array, uint32: Uint32Array, int64: BigInt64Array, uint64: BigUint64Array,
};

/** A message is a JSON header (its length first) and raw little-endian values after it. */
export function unpack<H>(buffer: ArrayBuffer): { header: H; offset: number } {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length))) as H;
  return { header, offset: 4 + length };
}

export function valuesOf(dtype: string, buffer: ArrayBuffer, offset = 0): Values {
  const array = ARRAYS[dtype];
  if (!array) throw new ViewerError(`The values are of a type that this page cannot draw: ${dtype}.`);
  return new array(buffer, offset, (buffer.byteLength - offset) / array.BYTES_PER_ELEMENT);
}

export function jsonOf<T>(buffer: ArrayBuffer): T {
  return JSON.parse(new TextDecoder().decode(buffer)) as T;
}

/** The piece of a tensor (a stretch of frames with one shape) that holds `frame`. */
export function pieceAt(tensor: Tensor, frame: number): Piece | undefined {
  return tensor.pieces.find((p) => p.start <= frame && frame < p.stop);
}

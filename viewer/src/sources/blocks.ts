// The blocks of a page in a file, undone: inflate, join the byte planes, sum over time, and give the numbers their meaning.
// The twin of weightlapse/view/pack.py.

import { valuesOf, ViewerError, type Values } from "../source";

export interface Block { start: number; stop: number; width: number; step: number; bound: number | number[]; data: string }

export interface Frames { start: number; stop: number; cells: number; values: Values; bound(frame: number): number }

async function inflate(text: string): Promise<Uint8Array> {
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

export async function decode(block: Block, dtype: string): Promise<Frames> {
  const planes = await inflate(block.data), { width } = block;
  const count = planes.length / width, frames = block.stop - block.start, cells = count / frames;
  const bytes = new Uint8Array(planes.length);
  for (let b = 0; b < width; b++) for (let i = 0, at = b * count; i < count; i++, at++) bytes[i * width + b] = planes[at];
  sum(bytes.buffer, width, cells);
  const values = block.step === 0 ? exact(bytes.buffer, dtype) : quantised(bytes.buffer, width, block.step, dtype);
  return { start: block.start, stop: block.stop, cells, values,
    bound: (f) => (typeof block.bound === "number" ? block.bound : (block.bound[f - block.start] ?? 0)) };
}

function sum(buffer: ArrayBuffer, width: number, cells: number): void {
  if (width === 8) {
    const a = new BigUint64Array(buffer);
    for (let i = cells; i < a.length; i++) a[i] += a[i - cells];
    return;
  }
  const a = width === 1 ? new Uint8Array(buffer) : width === 2 ? new Uint16Array(buffer) : new Uint32Array(buffer);
  for (let i = cells; i < a.length; i++) a[i] += a[i - cells];
}

function exact(buffer: ArrayBuffer, dtype: string): Values {
  const wire = dtype === "float16" || dtype === "bfloat16" ? "float32" : dtype === "bool" ? "uint8" : dtype;
  return valuesOf(wire, buffer);
}

function quantised(buffer: ArrayBuffer, width: number, step: number, dtype: string): Values {
  if (width > 2) throw new ViewerError("This page holds a block that it cannot read.");
  const codes = width === 1 ? new Int8Array(buffer) : new Int16Array(buffer), top = 2 ** (8 * width - 1) - 2;
  const out = dtype === "float64" ? new Float64Array(codes.length) : new Float32Array(codes.length);
  for (let i = 0; i < codes.length; i++) {
    const c = codes[i];
    out[i] = c > top ? Infinity : c === -top - 1 ? -Infinity : c === -top - 2 ? NaN : c * step;
  }
  return out;
}

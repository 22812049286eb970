// Pictures with fewer cells than weights; the twin of weightlapse/picture/reduce.py and of `reduced` in gl/picture.frag.

import type { Values } from "../source";

export type Mode = "typical" | "extreme" | "mean" | "min" | "max";
export const SPIKE = 0.75; // of the scale: what is farther from zero is drawn even where its cell stands for many weights

/** From where on a value stands out, in float32. */
export function spikeOf(limit: number): number { return Math.fround(SPIKE * limit); }

/** What the tile of `high` x `wide` cells from (row, col) on shows; it may hang over the end of the picture. `spike`: see `spikeOf`. */
export function tile(values: Float32Array, rows: number, cols: number, row: number, col: number, high: number, wide: number, mode: Mode, spike: number): number {
  let low = Infinity, top = -Infinity, sum = 0, count = 0;
  const bottom = Math.min(rows, row + high), right = Math.min(cols, col + wide);
  for (let i = row; i < bottom; i++) for (let j = col; j < right; j++) {
    const v = values[i * cols + j];
    if (Number.isNaN(v)) return v; // NaN wins in its tile
    if (v < low) low = v;
    if (v > top) top = v;
    sum += v;
    count++;
  }
  if (mode === "mean") return sum / count;
  if (mode === "min") return low;
  if (mode === "max") return top;
  const extreme = top >= -low ? top : low;
  if (mode === "extreme" || Math.abs(extreme) > spike) return extreme;
  return values[Math.min(rows - 1, row + (high >> 1)) * cols + Math.min(cols - 1, col + (wide >> 1))];
}

/** The rows r[0] to r[1] and columns c[0] to c[1] of a picture `cols` cells wide by tiles of f[0] x f[1] cells. */
export function thinned(values: Values, cols: number, r: number[], c: number[], f: number[], mode: Mode, limit: number): Float32Array {
  const h = Math.ceil((r[1] - r[0]) / f[0]), w = Math.ceil((c[1] - c[0]) / f[1]), out = new Float32Array(h * w), spike = spikeOf(limit);
  const high = r[1] - r[0], wide = c[1] - c[0], part = new Float32Array(high * wide);
  for (let i = 0; i < high; i++) for (let j = 0; j < wide; j++) part[i * wide + j] = Number(values[(r[0] + i) * cols + c[0] + j]);
  if (f[0] === 1 && f[1] === 1) return part;
  for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) out[y * w + x] = tile(part, high, wide, y * f[0], x * f[1], f[0], f[1], mode, spike);
  return out;
}

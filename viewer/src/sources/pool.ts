// Reduced pictures, as weightlapse/picture/reduce.py makes them; a page in a file has no server to ask.

import { chosen, type Mode } from "../scene/colour";
import type { Values } from "../source";

/** Tiles of `f` cells by min, mean and max, one plane after the other. */
export function pooled(values: Values, width: number, r: number[], c: number[], f: number[]): Float32Array {
  const h = Math.ceil((r[1] - r[0]) / f[0]), w = Math.ceil((c[1] - c[0]) / f[1]), n = h * w;
  const out = new Float32Array(3 * n);
  for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) {
    let low = Infinity, high = -Infinity, sum = 0, count = 0;
    const bottom = Math.min(r[1], r[0] + (y + 1) * f[0]), right = Math.min(c[1], c[0] + (x + 1) * f[1]);
    for (let i = r[0] + y * f[0]; i < bottom; i++) for (let j = c[0] + x * f[1]; j < right; j++) {
      const v = Number(values[i * width + j]);
      low = Math.min(low, v); // NaN wins in its tile
      high = Math.max(high, v);
      sum += v;
      count++;
    }
    const at = y * w + x;
    out[at] = low;
    out[n + at] = sum / count;
    out[2 * n + at] = high;
  }
  return out;
}

export function reducedTo(values: Values, width: number, r: number[], c: number[], f: number[], mode: string): Float32Array {
  if (f[0] > 1 || f[1] > 1) return chosen(pooled(values, width, r, c, f), mode as Mode);
  const out = new Float32Array((r[1] - r[0]) * (c[1] - c[0]));
  for (let i = r[0], at = 0; i < r[1]; i++) for (let j = c[0]; j < c[1]; j++) out[at++] = Number(values[i * width + j]);
  return out;
}

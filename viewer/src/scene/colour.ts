// Values to colours, as weightlapse/picture has them for films, pages and figures alike.

export { STEPS, codeOf, limitOf as scaleLimit } from "../picture/codes";
export { MARKS, lookup, type Theme } from "../picture/palette";

export type Mode = "extreme" | "mean" | "min" | "max";

/** Of reduced planes (min, mean, max one after the other), the numbers that are drawn. */
export function chosen(three: Float32Array, mode: Mode): Float32Array {
  const n = three.length / 3;
  if (mode !== "extreme") return three.subarray({ min: 0, mean: n, max: 2 * n }[mode], { min: n, mean: 2 * n, max: 3 * n }[mode]);
  const out = new Float32Array(n);
  for (let i = 0; i < n; i++) {
    const low = three[i], high = three[2 * n + i];
    out[i] = high >= -low ? high : low; // NaN compares false, and is then in both
  }
  return out;
}

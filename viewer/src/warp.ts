// How the codes of a picture are coloured: as they are, or stretched where the values crowd. A stretch changes the table from code to colour and no
// code, so every path (server, file, graphics processor, plain canvas) draws it alike.

export type Warp = "linear" | "symlog" | "percentile";

const STEPS = 125, ZERO = 128;
const DECADES = 2; // of the symmetric logarithm: an eight-bit code holds no more

/** Where a magnitude of `x` (0 to 1 of the scale) stands on the palette. */
export function symlog(x: number): number { return Math.log1p(x * (10 ** DECADES - 1)) / Math.log(10 ** DECADES); }

/** The share of magnitudes at or below each of the 125 steps from zero, from the codes of a picture. */
export function shares(codes: ArrayLike<number>): Float64Array {
  const counts = new Float64Array(STEPS + 1);
  let all = 0;
  for (let i = 0; i < codes.length; i++) {
    if (codes[i] < 3 || codes[i] > 253) continue;
    counts[Math.abs(codes[i] - ZERO)]++;
    all++;
  }
  let below = 0;
  for (let i = 0; i <= STEPS; i++) {
    const here = counts[i];
    counts[i] = all ? (below + here / 2) / all : i / STEPS;
    below += here;
  }
  counts[0] = 0; // zero stays the colour of the page
  return counts;
}

/** The table of colours (256 x RGBA) with its scale stretched. `ranks`: of `shares`, for percentiles. */
export function warped(table: Uint8Array, warp: Warp, ranks: Float64Array | null): Uint8Array {
  if (warp === "linear" || (warp === "percentile" && !ranks)) return table;
  const out = table.slice();
  for (let i = 1; i <= STEPS; i++) {
    const at = Math.min(STEPS, Math.max(1, Math.round(STEPS * (warp === "symlog" ? symlog(i / STEPS) : ranks![i]))));
    for (const side of [1, -1]) out.set(table.subarray((ZERO + side * at) * 4, (ZERO + side * at) * 4 + 4), (ZERO + side * i) * 4);
  }
  return out;
}

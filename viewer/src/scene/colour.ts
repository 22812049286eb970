// Values to colours. Eight-bit codes are the common ground of every path, the twin of weightlapse/view/pyramid.py:
//   0 NaN   1 -Inf   2 below the scale   3 .. 253 linear, 128 is zero   254 above the scale   255 +Inf
// The palettes run from blue (negative) to red or orange (positive): told apart with any kind of colour vision. Zero has the
// colour of the page, so that what is there is what differs from nothing.

export const STEPS = 125;
export type Theme = "light" | "dark";
type Colour = [number, number, number];

const PALETTES: Record<Theme, Colour[]> = {
  light: [[5, 48, 97], [33, 102, 172], [67, 147, 195], [146, 197, 222], [209, 229, 240], [248, 247, 245], [253, 219, 199], [244, 165, 130],
    [214, 96, 77], [178, 24, 43], [103, 0, 31]],
  dark: [[190, 222, 255], [120, 182, 242], [66, 134, 204], [34, 88, 146], [24, 50, 80], [24, 25, 28], [72, 36, 24], [134, 60, 34],
    [200, 98, 52], [244, 152, 96], [255, 214, 178]],
};
export const MARKS: Record<Theme, { nan: Colour; below: Colour; above: Colour; minus: Colour; plus: Colour }> = {
  light: { nan: [255, 205, 0], below: [0, 22, 54], above: [58, 0, 14], minus: [0, 150, 136], plus: [156, 39, 176] },
  dark: { nan: [255, 225, 60], below: [226, 241, 255], above: [255, 240, 226], minus: [29, 233, 182], plus: [234, 128, 252] },
};

/** The colour of each code, as RGBA bytes. */
export function lookup(theme: Theme): Uint8Array {
  const anchors = PALETTES[theme], marks = MARKS[theme];
  const table = new Uint8Array(256 * 4);
  for (let code = 3; code <= 253; code++) {
    const at = ((code - 3) / (2 * STEPS)) * (anchors.length - 1);
    const low = Math.min(Math.floor(at), anchors.length - 2);
    const colour = anchors[low].map((a, k) => Math.round(a + (anchors[low + 1][k] - a) * (at - low))) as Colour;
    table.set([...colour, 255], code * 4);
  }
  for (const [code, colour] of [[0, marks.nan], [1, marks.minus], [2, marks.below], [254, marks.above], [255, marks.plus]] as
    [number, Colour][]) table.set([...colour, 255], code * 4);
  return table;
}

export function codeOf(value: number, limit: number): number {
  if (Number.isNaN(value)) return 0;
  if (value === -Infinity) return 1;
  if (value === Infinity) return 255;
  const scaled = (value * STEPS) / limit;
  return Math.floor(Math.min(Math.max(scaled, -STEPS - 1), STEPS + 1) + 128.5);
}

/** The end of a scale made for one picture: its largest magnitude, or three times the 99th percentile where that is smaller. */
export function scaleLimit(values: ArrayLike<number>): number {
  const stride = Math.max(1, Math.floor(values.length / 50000));
  const sizes: number[] = [];
  let largest = 0;
  for (let i = 0; i < values.length; i++) {
    const size = Math.abs(values[i]);
    if (!Number.isFinite(size)) continue;
    if (size > largest) largest = size;
    if (i % stride === 0) sizes.push(size);
  }
  sizes.sort((a, b) => a - b);
  const percentile = sizes.length ? sizes[Math.min(sizes.length - 1, Math.floor(sizes.length * 0.99))] : 0;
  const limit = Math.min(largest, 3 * percentile) || largest;
  return limit > 0 ? Math.max(limit, 1e-35) : 1;
}

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

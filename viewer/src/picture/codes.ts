// Values as eight-bit codes, and where a colour scale ends; the twin of weightlapse/picture/codes.py and limits.py.
//   0 NaN   1 -Inf   2 below the scale   3 .. 253 linear, 128 is zero   254 above the scale   255 +Inf

export const STEPS = 125;
export const SMALLEST = 1e-35; // below it float32, in which pictures are drawn, has no digits left
const { fround, min, max } = Math;

/** What a value is multiplied by before 128.5 is added: in float32, as in the shader. */
export function factorOf(limit: number): number {
  return fround(STEPS / (limit > 0 && Number.isFinite(limit) ? limit : 1));
}

export function codeOf(value: number, limit: number): number {
  if (Number.isNaN(value)) return 0;
  if (value === -Infinity) return 1;
  if (value === Infinity) return 255;
  const scaled = fround(fround(value) * factorOf(limit));
  return Math.floor(fround(min(max(scaled, -STEPS - 1), STEPS + 1) + 128.5));
}

/** Where the scale of these values ends: the largest finite magnitude that is no more than three times the 99th percentile. */
export function limitOf(values: ArrayLike<number | bigint>): number {
  const sizes = new Float64Array(values.length);
  let n = 0, largest = 0;
  for (let i = 0; i < values.length; i++) {
    const size = Math.abs(Number(values[i]));
    if (!Number.isFinite(size)) continue;
    sizes[n++] = size;
    if (size > largest) largest = size;
  }
  if (largest === 0) return 1;
  const usual = nth(sizes.subarray(0, n), Math.floor(0.99 * (n - 1) + 0.5));
  if (usual > 0 && largest > 3 * usual) {
    largest = 0;
    for (let i = 0; i < n; i++) if (sizes[i] <= 3 * usual && sizes[i] > largest) largest = sizes[i];
  }
  return max(largest, SMALLEST);
}

/** The value of rank `k`, counted from 0 (Hoare's selection; the array is put in another order). */
function nth(a: Float64Array, k: number): number {
  let low = 0, high = a.length - 1;
  while (low < high) {
    const pivot = a[(low + high) >> 1];
    let i = low, j = high;
    while (i <= j) {
      while (a[i] < pivot) i++;
      while (a[j] > pivot) j--;
      if (i <= j) { const t = a[i]; a[i++] = a[j]; a[j--] = t; }
    }
    if (k <= j) high = j;
    else if (k >= i) low = i;
    else break;
  }
  return a[k];
}

// Distributions, norms of units and spectra for a page in a file, which has no server to ask; the twin of weightlapse/view/distributions.py.

import { scaleLimit } from "../scene/colour";

export const PERCENTILES = [0, 7, 16, 31, 50, 69, 84, 93, 100];
export const BINS = 48;

/** A percentile of sorted numbers, between neighbours by their distance (NumPy's rule). */
export function percentile(sorted: ArrayLike<number>, p: number): number {
  const at = (p / 100) * (sorted.length - 1), low = Math.floor(at), high = Math.min(sorted.length - 1, low + 1);
  return sorted[low] + (sorted[high] - sorted[low]) * (at - low);
}

/** Percentiles and histograms of rows of numbers, on bins common to all of them. */
export function summary(rows: ArrayLike<number>[]): { percentiles: (number | null)[][]; counts: number[][]; beyond: number[]; low: number; high: number; bad: number[] } {
  const finite = rows.map((row) => Float64Array.from(Array.from(row).filter(Number.isFinite)).sort());
  let low = Infinity, high = -Infinity;
  for (const row of finite) if (row.length) { low = Math.min(low, row[0]); high = Math.max(high, row[row.length - 1]); }
  if (low > high) { low = 0; high = 1; }
  const all = new Float64Array(finite.reduce((n, r) => n + r.length, 0));
  let at = 0;
  for (const row of finite) { all.set(row, at); at += row.length; }
  const limit = scaleLimit(all);
  low = Math.max(low, -limit);
  high = Math.min(high, limit);
  if (!(low < high)) [low, high] = [low - (Math.abs(low) || 1) * 0.5, high + (Math.abs(high) || 1) * 0.5];
  const counts = finite.map((row) => {
    const found = new Array<number>(BINS).fill(0);
    for (const v of row) if (v >= low && v <= high) found[Math.min(BINS - 1, Math.floor(((v - low) / (high - low)) * BINS))]++;
    return found;
  });
  return { counts, low, high, beyond: finite.map((row, i) => row.length - counts[i].reduce((a, b) => a + b, 0)),
    percentiles: finite.map((row) => PERCENTILES.map((p) => (row.length ? percentile(row, p) : null))), bad: rows.map((row, i) => row.length - finite[i].length) };
}

/** The singular values of `rows` x `cols` numbers, largest first: the roots of the eigenvalues of the smaller Gram matrix (Jacobi's rotations). */
export function singularValues(values: ArrayLike<number>, rows: number, cols: number): number[] {
  const n = Math.min(rows, cols), tall = rows >= cols, a = Array.from({ length: n }, () => new Float64Array(n));
  for (let i = 0; i < n; i++) for (let j = i; j < n; j++) {
    let sum = 0;
    if (tall) for (let r = 0; r < rows; r++) sum += values[r * cols + i] * values[r * cols + j];
    else for (let c = 0; c < cols; c++) sum += values[i * cols + c] * values[j * cols + c];
    a[i][j] = a[j][i] = sum;
  }
  let size = 0;
  for (let i = 0; i < n; i++) size += a[i][i] ** 2;
  for (let sweep = 0; sweep < 30; sweep++) {
    let off = 0;
    for (let i = 0; i < n; i++) for (let j = i + 1; j < n; j++) off += a[i][j] ** 2;
    if (off <= 1e-22 * size) break;
    for (let p = 0; p < n; p++) for (let q = p + 1; q < n; q++) {
      if (a[p][q] === 0) continue;
      const theta = (a[q][q] - a[p][p]) / (2 * a[p][q]), t = (theta >= 0 ? 1 : -1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
      const c = 1 / Math.sqrt(t * t + 1), s = t * c;
      for (let k = 0; k < n; k++) {
        const x = a[k][p], y = a[k][q];
        a[k][p] = c * x - s * y;
        a[k][q] = s * x + c * y;
      }
      for (let k = 0; k < n; k++) {
        const x = a[p][k], y = a[q][k];
        a[p][k] = c * x - s * y;
        a[q][k] = s * x + c * y;
      }
    }
  }
  return Array.from({ length: n }, (_, i) => Math.sqrt(Math.max(0, a[i][i]))).sort((x, y) => y - x);
}

/** About `count` of the whole numbers from `first` to `last`, both ends among them. */
export function evenly(first: number, last: number, count: number): number[] {
  if (last < first) return [];
  const n = Math.max(2, Math.min(count, last - first + 1));
  return [...new Set(Array.from({ length: n }, (_, i) => Math.round(first + ((last - first) * i) / (n - 1))))];
}

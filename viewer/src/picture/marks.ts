// The signs in cells whose value is no ordinary number; the twin of `sign` in weightlapse/picture/cells.py and of gl/picture.frag.

export const SIGNED = 6; // pixels from which a cell has room for a sign

/** Whether pixel (x, y) of a cell of w x h pixels carries the sign of `code`: a cross for NaN, a triangle for an infinity, a dot beyond the scale. */
export function signed(code: number, x: number, y: number, w: number, h: number): boolean {
  const u = 2 * x + 1 - w, v = 2 * y + 1 - h, side = Math.min(w, h);
  if (code === 2 || code === 254) return 25 * (u * u + v * v) <= Math.max(4 * side * side, 64);
  if (100 * Math.max(Math.abs(u), Math.abs(v)) > 68 * side) return false;
  if (code === 0) return 100 * Math.abs(Math.abs(u) - Math.abs(v)) <= Math.max(16 * side, 120);
  if (code === 255) return 200 * Math.abs(u) <= 100 * v + 68 * side;
  return code === 1 && 200 * Math.abs(u) <= 68 * side - 100 * v;
}

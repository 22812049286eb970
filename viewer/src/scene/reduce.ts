// How much a picture is reduced so that a cell is not much smaller than a pixel of the screen.

import type { Span } from "../archive";

/** The largest power of two that keeps a reduced cell at or below one device pixel (exact pictures: no loss that could be seen). */
export function finest(cellPixels: number): number {
  return 2 ** Math.max(0, Math.floor(Math.log2(1 / Math.max(cellPixels, 1e-9)) + 1e-9));
}

/** The smallest power of two that brings a reduced cell to at least one device pixel (playing: no more than can be seen). */
export function display(cellPixels: number): number {
  return 2 ** Math.max(0, Math.ceil(Math.log2(1 / Math.max(cellPixels, 1e-9)) - 1e-9));
}

/** The cells of a picture that are on the screen, with a margin, on a grid of whole tiles. */
export function visible(rows: number, cols: number, cells: { x: number; y: number; dx: number; dy: number }, w: number, h: number,
  f: [number, number]): Span | null {
  const side = (count: number, start: number, size: number, screen: number, factor: number): [number, number] | null => {
    const first = -start / size, last = (screen - start) / size;
    if (last <= 0 || first >= count) return null;
    const margin = (last - first) * 0.25, grain = Math.max(factor, 2 ** Math.ceil(Math.log2(Math.max(1, margin))));
    const a = Math.max(0, Math.floor((first - margin) / grain) * grain);
    const b = Math.min(count, Math.ceil((last + margin) / grain) * grain);
    return [a, b];
  };
  const r = side(rows, cells.y, cells.dy, h, f[0]), c = side(cols, cells.x, cells.dx, w, f[1]);
  return r && c ? { r, c } : null;
}

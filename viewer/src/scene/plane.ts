// A tensor of any shape as rows x columns, by the layout that its piece of the recording brings along.

import { cellOf as cell, indexOf as index, layoutOf, type Laid } from "../picture/layout";

export function planeSize(piece: Laid): { rows: number; cols: number } { return layoutOf(piece); }

/** The tensor's own index of the cell (row, col); null where a last line holds no weight. */
export function indexOf(piece: Laid, row: number, col: number): number[] | null { return index(layoutOf(piece), row, col); }

/** The cell in which the value at `at` is drawn. */
export function cellOf(piece: Laid, at: number[]): [number, number] { return cell(layoutOf(piece), at); }

/** The index in the recording of a cell of a piece, which may hold only every n-th position. */
export function ownIndex(piece: Laid & { every?: number[] }, row: number, col: number): number[] | null {
  return indexOf(piece, row, col)?.map((i, axis) => i * (piece.every?.[axis] ?? 1)) ?? null;
}

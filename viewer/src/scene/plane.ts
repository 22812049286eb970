// A tensor of any shape as rows x columns; the twin of weightlapse/view/plane.py.

export function planeAxes(ndim: number): [number[], number[]] {
  if (ndim < 2) return [[], Array.from({ length: ndim }, (_, i) => i)];
  if (ndim === 2) return [[0], [1]];
  return [[0, ...Array.from({ length: ndim - 3 }, (_, i) => i + 2)], [1, ndim - 1]];
}

export function planeSize(shape: number[]): { rows: number; cols: number } {
  const [down, across] = planeAxes(shape.length);
  return { rows: down.reduce((n, a) => n * shape[a], 1), cols: across.reduce((n, a) => n * shape[a], 1) };
}

/** The tensor's own index of the cell (row, col). */
export function indexOf(shape: number[], row: number, col: number): number[] {
  const index = shape.map(() => 0);
  const axes = planeAxes(shape.length);
  for (const [which, place] of [[axes[0], row], [axes[1], col]] as [number[], number][]) {
    let rest = place;
    for (const axis of [...which].reverse()) {
      index[axis] = rest % shape[axis];
      rest = Math.floor(rest / shape[axis]);
    }
  }
  return index;
}

/** The cell in which the value at `index` is drawn. */
export function cellOf(shape: number[], index: number[]): [number, number] {
  const [down, across] = planeAxes(shape.length);
  const at = (axes: number[]) => axes.reduce((n, a) => n * shape[a] + (index[a] ?? 0), 0);
  return [at(down), at(across)];
}

/** How many rows and columns a tile of the innermost axes has: where the borders between kernels are drawn. */
export function tileSize(shape: number[]): [number, number] {
  const [down, across] = planeAxes(shape.length);
  const inner = (axes: number[]) => axes.slice(1).reduce((n, a) => n * shape[a], 1);
  return [inner(down), inner(across)];
}

/** The index in the recording of a cell of a piece, which may hold only every n-th position. */
export function ownIndex(piece: { shape: number[]; every?: number[] }, row: number, col: number): number[] {
  return indexOf(piece.shape, row, col).map((i, axis) => i * (piece.every?.[axis] ?? 1));
}

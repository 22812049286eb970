// Where each weight of a tensor is drawn; the twin of weightlapse/picture/arrangement.py and cells.py. An arrangement comes with the manifest: what a
// tensor is, is decided once, in Python; here is only the arithmetic of levels. picture/cases.json holds both sides together.

/** `count` entries of `axis`, `stride` indices apart; `gap` 0: they touch, 1: set apart, 2: set apart clearly. */
export interface Level { axis: number; count: number; stride: number; gap: number; unit: string; names: string[] }

export type LevelJson = [axis: number, count: number, stride?: number, gap?: number, unit?: string, names?: string[]];
export interface LayoutJson { shape: number[]; down: LevelJson[]; across: LevelJson[] }

export interface Layout { shape: number[]; down: Level[]; across: Level[]; rows: number; cols: number; wrapped: boolean }

export interface Laid { shape: number[]; layout?: LayoutJson }

const product = (levels: Level[]) => levels.reduce((n, level) => n * level.count, 1);
const level = ([axis, count, stride = 1, gap = 0, unit = "", names = []]: LevelJson): Level => ({ axis, count, stride, gap, unit, names });

export function layout(json: LayoutJson): Layout {
  const down = json.down.map(level), across = json.across.map(level), rows = product(down), cols = product(across);
  return { shape: json.shape, down, across, rows, cols, wrapped: rows * cols !== json.shape.reduce((n, size) => n * size, 1) };
}

/** A tensor by its axes alone: a vector as one row, a matrix as it is, more axes tiled first x second. */
export function plain(shape: number[]): Layout {
  const n = shape.length, one = (axis: number): LevelJson => [axis, shape[axis]];
  if (n < 2) return layout({ shape, down: [], across: shape.map((_, axis) => one(axis)) });
  const inner = Array.from({ length: Math.max(0, n - 3) }, (_, i) => one(i + 2));
  return layout({ shape, down: [one(0), ...inner], across: n === 2 ? [one(1)] : [one(1), one(n - 1)] });
}

const known = new WeakMap<Laid, Layout>();

/** The layout of a piece of a recording. */
export function layoutOf(piece: Laid): Layout {
  let found = known.get(piece);
  if (!found) known.set(piece, (found = piece.layout ? layout(piece.layout) : plain(piece.shape)));
  return found;
}

/** The tensor's own index of the cell (row, col); null where a last line holds no weight. */
export function indexOf(drawn: Layout, row: number, col: number): number[] | null {
  const index = drawn.shape.map(() => 0);
  for (const [levels, place] of [[drawn.down, row], [drawn.across, col]] as [Level[], number][]) {
    let rest = place;
    for (let i = levels.length - 1; i >= 0; i--) {
      const { axis, count, stride } = levels[i];
      index[axis] += (rest % count) * stride;
      rest = Math.floor(rest / count);
    }
  }
  return index.every((i, axis) => i < drawn.shape[axis]) ? index : null;
}

/** The cell in which the value at `index` is drawn. */
export function cellOf(drawn: Layout, index: number[]): [number, number] {
  const at = (levels: Level[]) => levels.reduce((n, l) => n * l.count + (Math.floor((index[l.axis] ?? 0) / l.stride) % l.count), 0);
  return [at(drawn.down), at(drawn.across)];
}

/** How many cells of the last line, in columns of the picture, hold weights; all of them unless the layout is wrapped. */
export function blank(drawn: Layout, row: number, col: number): boolean {
  return drawn.wrapped && indexOf(drawn, row, col) === null;
}

/** Pixels between entries of a level of class `gap` where a cell has `cell` pixels; even, never more than half a cell. */
export function gapPixels(gap: number, cell: number): number {
  if (gap >= 2) return cell >= 12 ? 4 : cell >= 4 ? 2 : 0;
  return gap === 1 && cell >= 6 ? 2 : 0;
}

/** [every so many cells, pixels of ground at their beginning], outermost first, where there are any. */
export function gaps(levels: Level[], cell: number): [number, number][] {
  const found: [number, number][] = [];
  levels.forEach((l, i) => {
    const pixels = gapPixels(l.gap, cell);
    if (pixels && l.count > 1) found.push([product(levels.slice(i + 1)), pixels]);
  });
  return found;
}

/** Rectangles of cells without a weight: [row, column, rows, columns]. They are at the ends of lines. */
export function blanks(drawn: Layout): [number, number, number, number][] {
  if (!drawn.wrapped) return [];
  const found: [number, number, number, number][] = [];
  for (const l of drawn.across) {
    const line = drawn.down.find((other) => other.axis === l.axis && other.stride > l.stride);
    if (!line) continue;
    // the wrapped axis: entries from `size` on are missing in every block of lines
    const size = drawn.shape[l.axis], full = Math.floor(size / line.stride), rest = Math.ceil((size % line.stride) / l.stride);
    if (full >= line.count) continue;
    const wide = product(drawn.across.slice(drawn.across.indexOf(l) + 1)), high = product(drawn.down.slice(drawn.down.indexOf(line) + 1));
    const outer = product(drawn.down.slice(0, drawn.down.indexOf(line))), block = high * line.count;
    for (let o = 0; o < outer; o++) found.push([o * block + full * high, rest * wide, high, (l.count - rest) * wide]);
  }
  return found;
}

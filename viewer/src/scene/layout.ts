// Where the panels stand. The world is measured in CSS pixels of the unzoomed stage; a camera moves it.

export interface Rect { x: number; y: number; w: number; h: number }
export interface Camera { k: number; x: number; y: number } // screen = world * k + (x, y)
/** `of`: the number of the picture beside which this one is a strip; `along`: whether its cells are the columns of that one. */
export interface Sized { rows: number; cols: number; layer: string; of?: number; along?: boolean }

const LABEL = 20, GAP = 22, STRIP = 4;
const LONGEST = 14; // a panel is at most this many times longer than it is high: thinner tensors get oblong cells

/** The largest box of a rows x cols picture in w x h; cells are square unless the tensor is very thin, and whole pixels when large. */
export function fitBox(rows: number, cols: number, w: number, h: number): { w: number; h: number } {
  rows = Math.max(1, rows); // an empty tensor has a frame all the same
  cols = Math.max(1, cols);
  const aspect = Math.min(LONGEST, Math.max(1 / LONGEST, cols / Math.max(1, rows)));
  let width = Math.min(w, h * aspect, cols * 96), height = Math.min(width / aspect, rows * 96);
  width = Math.min(width, Math.max(height * aspect, 1));
  const dx = width / cols, dy = height / rows;
  if (dx >= 4) width = Math.floor(dx) * cols;
  if (dy >= 4) height = Math.floor(dy) * rows;
  return { w: width, h: height };
}

/** One panel, or a few of the same size beside each other (two runs): centred, with room for labels. */
export function sideBySide(sizes: Sized[], w: number, h: number, labels: boolean): Rect[] {
  const n = sizes.length, top = labels ? LABEL : 0;
  let best: { rects: Rect[]; area: number } = { rects: [], area: -1 };
  for (let columns = 1; columns <= n; columns++) {
    const lines = Math.ceil(n / columns);
    const cw = (w - GAP * (columns - 1)) / columns, ch = (h - GAP * (lines - 1)) / lines - top;
    if (cw < 8 || ch < 8) continue;
    const boxes = sizes.map((s) => fitBox(s.rows, s.cols, cw, ch));
    const bw = Math.max(...boxes.map((b) => b.w)), bh = Math.max(...boxes.map((b) => b.h));
    const totalW = columns * bw + (columns - 1) * GAP, totalH = lines * (bh + top) + (lines - 1) * GAP;
    const x0 = Math.round((w - totalW) / 2), y0 = Math.round((h - totalH) / 2);
    const rects = boxes.map((b, i) => ({ x: x0 + (i % columns) * (bw + GAP), y: y0 + Math.floor(i / columns) * (bh + top + GAP) + top,
      w: b.w, h: b.h }));
    const area = boxes.reduce((a, b) => a + b.w * b.h, 0);
    if (area > best.area) best = { rects, area };
  }
  return best.rects;
}

/** Many tensors, layer after layer: each layer's tensors stay together, larger tensors get more room but not all of it. */
export function byLayer(sizes: Sized[], w: number, h: number): Rect[] {
  const natural = sizes.map((s) => {
    const side = (n: number) => 10 + 7 * Math.sqrt(n);
    let bw = side(s.cols), bh = s.rows === 1 ? 8 : side(s.rows); // a vector is a strip beside its matrix
    bw = Math.min(bw, Math.max(bh, 12) * LONGEST * 1.6);
    bh = Math.min(bh, bw * LONGEST);
    return { w: bw, h: bh };
  });
  let low = 0.02, high = 12;
  let best = flow(sizes, natural, low, w);
  for (let i = 0; i < 24; i++) {
    const mid = Math.sqrt(low * high);
    const tried = flow(sizes, natural, mid, w);
    if (tried.height <= h && tried.width <= w) { low = mid; best = tried; } else high = mid;
  }
  const x = Math.max(0, (w - best.width) / 2), y = Math.max(0, (h - best.height) / 2);
  return best.rects.map((r) => ({ ...r, x: r.x + x, y: r.y + y }));
}

function flow(sizes: Sized[], natural: { w: number; h: number }[], scale: number, width: number): { rects: Rect[]; height: number;
  width: number } {
  const rects: Rect[] = sizes.map(() => ({ x: 0, y: 0, w: 0, h: 0 }));
  let x = 0, y = 0, shelf = 0, widest = 0;
  for (let i = 0; i < sizes.length;) {
    let j = i;
    while (j < sizes.length && sizes[j].layer === sizes[i].layer) j++;
    // one layer: its tensors stacked, each with its strips below it; a strip along the columns is as wide as they are, so that each of its cells stands under its column
    const blockW = Math.max(...natural.slice(i, j).map((b) => b.w * scale));
    let top = LABEL;
    const placed: [number, number, number, number][] = [], stack = stacked(sizes, i, j);
    stack.forEach((k, n) => {
      const main = sizes[k].along ? natural[sizes[k].of!] : natural[k];
      const bw = Math.max(6, main.w * scale), bh = Math.max(4, natural[k].h * scale);
      placed.push([k, top, bw, bh]);
      top += bh + (n === stack.length - 1 ? 0 : sizes[stack[n + 1]].of === undefined ? 8 : STRIP);
    });
    if (x > 0 && x + blockW > width) { x = 0; y += shelf + GAP; shelf = 0; }
    for (const [k, dy, bw, bh] of placed) rects[k] = { x, y: y + dy, w: bw, h: bh };
    x += blockW + GAP;
    widest = Math.max(widest, x - GAP);
    shelf = Math.max(shelf, top);
    i = j;
  }
  return { rects, height: y + shelf, width: widest };
}

/** The pictures `from`..`to` with each strip right after what it belongs to, where that is among them. */
function stacked(sizes: Sized[], from: number, to: number): number[] {
  const all = Array.from({ length: to - from }, (_, n) => from + n), inside = (k: number | undefined) => k !== undefined && k >= from && k < to;
  return all.filter((k) => !inside(sizes[k].of)).flatMap((k) => [k, ...all.filter((s) => sizes[s].of === k)]);
}

/** The layer of a tensor: its name without the last part. */
export function layerOf(name: string): string {
  const cut = Math.max(name.lastIndexOf("."), name.lastIndexOf("/"));
  return cut > 0 ? name.slice(0, cut) : "";
}

/** The same tensor of every expert, where the experts of a mixture are modules of their own (`experts.0.w1`, `experts.1.w1`): they are looked at together. */
export function fellows(names: string[], name: string): string[] {
  const own = /^(.*\bexperts?[./])\d+([./].+)$/.exec(name);
  return own ? names.filter((other) => other.startsWith(own[1]) && other.endsWith(own[2]) && /^\d+$/.test(other.slice(own[1].length, other.length - own[2].length))) : [];
}

export function leafOf(name: string): string {
  const layer = layerOf(name);
  return layer ? name.slice(layer.length + 1) : name;
}

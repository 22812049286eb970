// What lies over the cells of a picture: the gaps between filters, heads and gates, the empty ends of last lines, and the numbers along its sides.

import { blanks, gaps, type Layout } from "./layout";
import { GAPS, GROUNDS, type Theme } from "./palette";
import { side } from "./ticks";

export interface Cells { x: number; y: number; dx: number; dy: number } // in CSS pixels

/** Gaps, and empty cells in the colour of the ground; `w`, `h`: the screen, beyond which nothing is drawn. */
export function drawGround(g: CanvasRenderingContext2D, drawn: Layout, b: Cells, theme: Theme, w: number, h: number): void {
  const ratio = devicePixelRatio || 1, px = (v: number) => Math.round(v * ratio) / ratio;
  const left = Math.max(px(b.x), 0), right = Math.min(px(b.x + drawn.cols * b.dx), w);
  const top = Math.max(px(b.y), 0), bottom = Math.min(px(b.y + drawn.rows * b.dy), h);
  g.fillStyle = `#${GAPS[theme]}`;
  for (const [every, pixels] of gaps(drawn.down, b.dy * ratio))
    for (let row = Math.max(1, Math.floor(-b.y / (every * b.dy))) * every; row < drawn.rows; row += every) {
      const y = px(b.y + row * b.dy);
      if (y > h) break;
      g.fillRect(left, y, right - left, pixels / ratio);
    }
  for (const [every, pixels] of gaps(drawn.across, b.dx * ratio))
    for (let col = Math.max(1, Math.floor(-b.x / (every * b.dx))) * every; col < drawn.cols; col += every) {
      const x = px(b.x + col * b.dx);
      if (x > w) break;
      g.fillRect(x, top, pixels / ratio, bottom - top);
    }
  g.fillStyle = `#${GROUNDS[theme]}`;
  for (const [row, col, rows, cols] of blanks(drawn)) {
    const x = px(b.x + col * b.dx), y = px(b.y + row * b.dy);
    g.fillRect(x, y, px(b.x + (col + cols) * b.dx) - x, px(b.y + (row + rows) * b.dy) - y);
  }
}

const SIZE = 10; // pixels of the letters
const ROOM = 26; // pixels that a number and the space around it need

/** Numbers and names along the left and the upper side, and what they count, where there is room for them beside the picture. */
export function drawTicks(g: CanvasRenderingContext2D, drawn: Layout, b: Cells, tone: string, w: number, h: number): void {
  const down = side(drawn, true, b.dy, ROOM), across = side(drawn, false, b.dx, ROOM + 8);
  g.save();
  g.fillStyle = tone;
  g.font = g.font.replace(/[\d.]+px/, `${SIZE}px`);
  g.textBaseline = "middle";
  g.textAlign = "right";
  const widest = down.ticks.reduce((n, t) => Math.max(n, g.measureText(t.text).width), 0);
  if (b.x - 6 >= widest) for (const t of down.ticks) {
    const y = b.y + (t.first + t.cells / 2) * b.dy;
    if (y > 8 && y < h - 8) g.fillText(t.text, b.x - 5, y);
  }
  g.textAlign = "center";
  if (b.y >= SIZE + 6) for (const t of across.ticks) {
    const x = b.x + (t.first + t.cells / 2) * b.dx;
    if (x > 8 && x < w - 8) g.fillText(t.text, x, b.y - 5 - SIZE / 2);
  }
  g.textAlign = "left";
  const bottom = b.y + drawn.rows * b.dy;
  if (across.ticks.length && b.y >= 2 * SIZE + 6) g.fillText(`${across.unit} →`, Math.max(2, b.x), b.y - 7 - 1.5 * SIZE);
  if (down.ticks.length && b.x - 6 >= widest && bottom <= h - SIZE - 4) g.fillText(`↓ ${down.unit}`, Math.max(2, b.x), bottom + 4 + SIZE / 2);
  g.restore();
}

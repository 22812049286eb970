import { codeOf } from "../scene/colour";
import type { Item, Painter, Texture } from "./painter";

interface Held extends Texture { data: Uint8Array | Float32Array }

/** The same pictures without WebGL2: every pixel looked up here. */
export function canvasPainter(canvas: HTMLCanvasElement): Painter {
  const g = canvas.getContext("2d", { alpha: false })!;
  return {
    kind: "canvas",
    upload: (_old, data, rows, cols): Held => ({ width: cols, height: rows, bytes: data instanceof Uint8Array, data }),
    free() { /* memory is freed with the last reference */ },
    draw(items, lookup, background) {
      g.fillStyle = `rgb(${background.join(",")})`;
      g.fillRect(0, 0, canvas.width, canvas.height);
      const colours = new Uint32Array(lookup.buffer, lookup.byteOffset, 256);
      for (const item of items) paint(g, canvas, item, colours);
    },
  };
}

function paint(g: CanvasRenderingContext2D, canvas: HTMLCanvasElement, item: Item, colours: Uint32Array): void {
  const x0 = Math.max(0, Math.round(item.x)), y0 = Math.max(0, Math.round(item.y));
  const x1 = Math.min(canvas.width, Math.round(item.x + item.w)), y1 = Math.min(canvas.height, Math.round(item.y + item.h));
  if (x1 <= x0 || y1 <= y0) return;
  const { data, bytes, width, height } = item.texture as Held;
  const image = g.createImageData(x1 - x0, y1 - y0);
  const out = new Uint32Array(image.data.buffer);
  const spanX = Math.min(8, Math.max(1, Math.ceil(width / item.w - 0.01))), spanY = Math.min(8, Math.max(1, Math.ceil(height / item.h - 0.01)));
  for (let y = y0, at = 0; y < y1; y++) {
    const row = Math.min(height - 1, Math.max(0, Math.floor(((y + 0.5 - item.y) / item.h) * height)));
    for (let x = x0; x < x1; x++) {
      const col = Math.min(width - 1, Math.max(0, Math.floor(((x + 0.5 - item.x) / item.w) * width)));
      const code = bytes ? data[row * width + col] : codeOf(reduced(item, data, row, col, spanX, spanY), item.limit);
      out[at++] = colours[code];
    }
  }
  g.putImageData(image, x0, y0);
}

function reduced(item: Item, data: Uint8Array | Float32Array, row: number, col: number, spanX: number, spanY: number): number {
  const { width, height } = item.texture;
  if (spanX === 1 && spanY === 1) return data[row * width + col];
  let low = Infinity, high = -Infinity, sum = 0, count = 0;
  for (let i = row; i < Math.min(height, row + spanY); i++)
    for (let j = col; j < Math.min(width, col + spanX); j++) {
      const v = data[i * width + j];
      if (Number.isNaN(v)) return v;
      low = Math.min(low, v); high = Math.max(high, v); sum += v; count++;
    }
  if (item.mode === "mean") return sum / count;
  if (item.mode === "min") return low;
  if (item.mode === "max") return high;
  return high >= -low ? high : low;
}

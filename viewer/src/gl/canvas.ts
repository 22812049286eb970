import { codeOf } from "../picture/codes";
import { SIGNED, signed } from "../picture/marks";
import { isLight } from "../picture/palette";
import { spikeOf, tile } from "../picture/thin";
import type { Item, Painter, Texture } from "./painter";

interface Held extends Texture { data: Uint8Array | Float32Array }

/** The same pictures without a graphics processor: every pixel looked up here. */
export function canvasPainter(canvas: HTMLCanvasElement): Painter {
  const g = canvas.getContext("2d", { alpha: false })!;
  const kept = new Map<string, ImageData>(); // one of each size: new memory for every picture would cost more than the picture
  const image = (w: number, h: number): ImageData => {
    const size = `${w}x${h}`;
    let found = kept.get(size);
    if (!found) {
      if (kept.size >= 64) kept.clear();
      kept.set(size, (found = g.createImageData(w, h)));
    }
    return found;
  };
  return {
    kind: "canvas",
    upload: (_old, data, rows, cols): Held => ({ width: cols, height: rows, bytes: data instanceof Uint8Array, data }),
    free() { /* memory is freed with the last reference */ },
    draw(items, lookup, background) {
      g.fillStyle = `rgb(${background.join(",")})`;
      g.fillRect(0, 0, canvas.width, canvas.height);
      const colours = new Uint32Array(lookup.buffer, lookup.byteOffset, 256);
      for (const item of items) paint(g, canvas, item, colours, image);
    },
  };
}

function paint(g: CanvasRenderingContext2D, canvas: HTMLCanvasElement, item: Item, colours: Uint32Array, made: (w: number, h: number) => ImageData): void {
  const x0 = Math.max(0, Math.round(item.x)), y0 = Math.max(0, Math.round(item.y));
  const x1 = Math.min(canvas.width, Math.round(item.x + item.w)), y1 = Math.min(canvas.height, Math.round(item.y + item.h));
  if (x1 <= x0 || y1 <= y0) return;
  const { data, bytes, width, height } = item.texture as Held;
  const image = made(x1 - x0, y1 - y0);
  const out = new Uint32Array(image.data.buffer);
  const px = item.w / width, py = item.h / height;
  const spanX = Math.min(8, Math.max(1, Math.ceil(1 / px - 0.01))), spanY = Math.min(8, Math.max(1, Math.ceil(1 / py - 0.01)));
  const spike = spikeOf(item.limit), marked = Math.min(px, py) >= SIGNED;
  const cell = (at: number, start: number, size: number, count: number) => Math.min(count - 1, Math.max(0, Math.floor((at + 0.5 - start) / size)));
  const columns = Int32Array.from({ length: x1 - x0 }, (_, i) => cell(x0 + i, item.x, px, width));
  let before = -1;
  for (let y = y0, at = 0; y < y1; y++) {
    const row = cell(y, item.y, py, height), first = row * width, w = columns.length;
    if (row === before && !marked) { out.copyWithin(at, at - w, at); at += w; continue; } // the same cells as one pixel above
    before = row;
    if (bytes && !marked) { // a playing picture: nothing but two look-ups for a pixel
      for (let i = 0; i < w; i++) out[at++] = colours[data[first + columns[i]]];
      continue;
    }
    let last = -1, colour = 0, code = 0;
    for (let i = 0; i < w; i++, at++) {
      const col = columns[i];
      if (col !== last) {
        code = bytes ? data[first + col] : codeOf(spanX * spanY === 1 ? data[first + col] : tile(data as Float32Array, height, width, row, col, spanY, spanX, item.mode, spike), item.limit);
        colour = colours[code];
        last = col;
      }
      out[at] = marked && (code < 3 || code > 253) && signed(code, Math.floor(x0 + i + 0.5 - item.x - col * px), Math.floor(y + 0.5 - item.y - row * py), Math.floor(px + 0.001), Math.floor(py + 0.001))
        ? contrast(colour) : colour;
    }
  }
  g.putImageData(image, x0, y0);
}

function contrast(colour: number): number {
  return isLight(colour & 255, (colour >> 8) & 255, (colour >> 16) & 255) ? 0xff000000 : 0xffffffff;
}

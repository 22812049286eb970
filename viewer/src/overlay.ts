// What lies over the pictures: gaps, frames, names, numbers, the cell under the pointer, marked weights.

import { css, fit } from "./dom";
import { leafOf } from "./scene/layout";
import { drawGround, drawTicks } from "./picture/ground";
import { layoutOf } from "./picture/layout";
import type { Stage } from "./stage";

export function drawOverlay(canvas: HTMLCanvasElement, stage: Stage, frame: number): void {
  const { g, w, h } = fit(canvas);
  const ink = css("--ink"), soft = css("--soft"), line = css("--line"), focus = css("--focus");
  const several = stage.panels.length > 1;
  g.font = `500 11.5px ${css("--font")}`;
  g.textBaseline = "alphabetic";
  let lastLayer = "";
  for (const panel of stage.visible) {
    const b = stage.boxOf(panel, frame), { rows, cols } = panel.size(frame);
    const box = { x: b.x, y: b.y, w: b.dx * cols, h: b.dy * rows };
    if (box.x > w || box.y > h || box.x + box.w < 0 || box.y + box.h < 0) continue;
    const piece = panel.pieceAt(frame);
    if (piece) drawGround(g, layoutOf(piece), b, stage.theme, w, h);
    g.lineWidth = 1;
    g.strokeStyle = line;
    g.strokeRect(Math.round(box.x) - 0.5, Math.round(box.y) - 0.5, Math.round(box.w) + 1, Math.round(box.h) + 1);
    if (piece) { if (!several) drawTicks(g, layoutOf(piece), b, soft, w, h); }
    else { g.fillStyle = soft; g.fillText(rows * cols ? "not there at this step" : "no values", box.x + 6, box.y + 16); }
    if (several) {
      const many = stage.panels.length > 4;
      const layer = panel.source.tensor.stream + panel.source.title.slice(0, -leafOf(panel.source.title).length);
      const stream = panel.source.tensor.stream;
      const first = !many || layer !== lastLayer;
      lastLayer = layer;
      if (first) {
        const place = layer.slice(stream.length).replace(/[./]$/, "") || panel.source.title;
        const name = !many ? panel.source.title : stream === "weights" ? place : `${place} ${stream}`;
        g.fillStyle = ink;
        g.fillText(shortened(g, name, Math.max(many ? box.w + 14 : box.w, 44)), Math.max(2, box.x), box.y - 6);
      }
    }
  }
  for (const mark of stage.marks) {
    for (const panel of stage.visible) {
      if (panel.source.tensor.name !== mark.tensor || panel.source.run !== mark.run) continue;
      const order = stage.orderOf(panel);
      const row = order ? order.rows.indexOf(mark.row) : mark.row, col = order ? order.cols.indexOf(mark.col) : mark.col;
      ring(g, stage.boxOf(panel, frame), row, col, mark.colour, css("--paper"));
    }
  }
  if (stage.framed) for (const panel of stage.visible) {
    if (panel.source.tensor.name !== stage.framed.tensor || panel.source.run !== 0) continue;
    const b = stage.boxOf(panel, frame), { rows, cols } = panel.size(frame), order = stage.orderOf(panel), high = Math.max(3, b.dy);
    g.strokeStyle = css("--warn");
    g.lineWidth = 2;
    for (const own of stage.framed.rows) {
      const row = order ? order.rows.indexOf(own) : own;
      if (row >= 0 && row < rows) g.strokeRect(b.x - 2, b.y + (row + 0.5) * b.dy - high / 2 - 1, b.dx * cols + 4, high + 2);
    }
  }
  const at = stage.cursor ?? stage.hover;
  if (!at) return;
  for (const panel of stage.visible) {
    const { rows, cols } = panel.size(frame);
    const linked = panel === at.panel || (panel.source.tensor.name === at.panel.source.tensor.name && at.row < rows && at.col < cols);
    if (linked) ring(g, stage.boxOf(panel, frame), at.row, at.col, focus, css("--paper"));
  }
}

function ring(g: CanvasRenderingContext2D, b: { x: number; y: number; dx: number; dy: number }, row: number, col: number, colour: string,
  halo: string): void {
  if (row < 0 || col < 0) return;
  const size = Math.max(5, b.dx), high = Math.max(5, b.dy);
  const x = b.x + (col + 0.5) * b.dx - size / 2, y = b.y + (row + 0.5) * b.dy - high / 2;
  g.lineWidth = 4;
  g.strokeStyle = halo;
  g.strokeRect(x - 1, y - 1, size + 2, high + 2);
  g.lineWidth = 2;
  g.strokeStyle = colour;
  g.strokeRect(x - 1, y - 1, size + 2, high + 2);
}

function shortened(g: CanvasRenderingContext2D, text: string, width: number): string {
  if (g.measureText(text).width <= width) return text;
  let cut = text;
  while (cut.length > 1 && g.measureText(`${cut}…`).width > width) cut = cut.slice(0, -1);
  return `${cut}…`;
}

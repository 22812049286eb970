// Lines over time: trajectories, curves, losses, sparklines. Many points are thinned to the smallest and largest of each pixel.

import { css, fit } from "../dom";
import { brief } from "../numbers";

export interface Line { x: ArrayLike<number>; y: ArrayLike<number | null>; colour: string; width?: number; dash?: number[] }

export interface ChartOptions {
  lines: Line[];
  place(x: number): number; // 0 to 1
  log?: boolean;
  axis?: boolean; // labels of the largest and smallest value
  zero?: boolean;
  pad?: { left: number; right: number; top: number; bottom: number };
}

export interface Scale { low: number; high: number; log: boolean; y(value: number): number }

/** The range of some lines; logarithmic only where all values are positive. */
export function range(lines: Line[], log: boolean): { low: number; high: number; log: boolean } {
  let low = Infinity, high = -Infinity, least = Infinity;
  for (const { y } of lines) for (let i = 0; i < y.length; i++) {
    const v = y[i];
    if (v === null || !Number.isFinite(v)) continue;
    if (v < low) low = v;
    if (v > high) high = v;
    if (v > 0 && v < least) least = v;
  }
  if (low > high) return { low: 0, high: 1, log: false };
  log = log && low >= 0 && least < Infinity && high / least > 20;
  if (log) return { low: Math.log10(Math.max(least, high * 1e-9)), high: Math.log10(high), log };
  if (high === low) { const d = Math.abs(high) * 0.1 || 1; low -= d; high += d; }
  return { low, high, log };
}

export function drawChart(canvas: HTMLCanvasElement, options: ChartOptions): Scale {
  const { g, w, h } = fit(canvas);
  const pad = options.pad ?? { left: 0, right: 0, top: 4, bottom: 4 };
  const iw = Math.max(1, w - pad.left - pad.right), ih = Math.max(1, h - pad.top - pad.bottom);
  const r = range(options.lines, options.log ?? false);
  const y = (v: number) => pad.top + ih * (1 - ((r.log ? Math.log10(Math.max(v, 10 ** r.low)) : v) - r.low) / (r.high - r.low || 1));
  if (options.zero && !r.log && r.low < 0 && r.high > 0) {
    g.strokeStyle = css("--line");
    g.lineWidth = 1;
    g.beginPath();
    g.moveTo(pad.left, Math.round(y(0)) + 0.5);
    g.lineTo(w - pad.right, Math.round(y(0)) + 0.5);
    g.stroke();
  }
  g.lineJoin = "round";
  for (const line of options.lines) {
    g.strokeStyle = line.colour;
    g.lineWidth = line.width ?? 1.5;
    g.setLineDash(line.dash ?? []);
    trace(g, line, (x) => pad.left + options.place(x) * iw, y);
    g.setLineDash([]);
  }
  if (options.axis) {
    g.font = `10.5px ${css("--font")}`;
    g.fillStyle = css("--soft");
    g.textAlign = "right";
    const ends = r.log ? [10 ** r.high, 10 ** r.low] : [r.high, r.low];
    g.textBaseline = "top";
    g.fillText(brief(ends[0]), pad.left - 6, pad.top - 2);
    g.textBaseline = "bottom";
    g.fillText(brief(ends[1]), pad.left - 6, pad.top + ih + 2);
  }
  return { ...r, y };
}

function trace(g: CanvasRenderingContext2D, line: Line, px: (x: number) => number, py: (y: number) => number): void {
  g.beginPath();
  let pen = false, column = NaN, low = 0, high = 0, end = 0;
  const flush = () => {
    if (Number.isNaN(column)) return;
    if (pen) g.lineTo(column, py(low)); else { g.moveTo(column, py(low)); pen = true; }
    if (high !== low) g.lineTo(column, py(high));
    if (end !== high) g.lineTo(column, py(end));
  };
  const dense = line.x.length > 1500;
  for (let i = 0; i < line.x.length; i++) {
    const v = line.y[i];
    if (v === null || v === undefined || !Number.isFinite(v)) {
      flush();
      column = NaN;
      // where a scalar is logged now and then the line goes on; a NaN between numbers of every frame breaks it
      if (i > 0 && Number.isFinite(line.y[i - 1] ?? NaN) && Number.isFinite(line.y[i + 1] ?? NaN)) pen = false;
      continue;
    }
    const x = dense ? Math.round(px(line.x[i]) * 2) / 2 : px(line.x[i]);
    if (x === column) { low = Math.min(low, v); high = Math.max(high, v); end = v; continue; }
    flush();
    column = x;
    low = high = end = v;
  }
  flush();
  g.stroke();
}

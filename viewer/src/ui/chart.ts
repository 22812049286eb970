// Lines over time: trajectories, curves, losses, sparklines. Many points are thinned to the smallest and largest of each pixel.

import { css, fit } from "../dom";
import { labels, logTicks, ticks } from "./axis";

export interface Line { x: ArrayLike<number>; y: ArrayLike<number | null>; colour: string; width?: number; dash?: number[] }

export interface Pad { left: number; right: number; top: number; bottom: number }
export const PAD: Pad = { left: 54, right: 4, top: 6, bottom: 6 };

export interface ChartOptions {
  lines: Line[];
  place(x: number): number; // 0 to 1 within the chart; what lies beyond is cut off
  log?: boolean;
  axis?: boolean; // numbered lines at round values
  pad?: Pad;
  ends?: [number, number]; // the range of values, where it is known
}

export interface Scale { low: number; high: number; log: boolean; y(value: number): number }

/** The range of some lines (of what is within the chart); logarithmic only where all values are positive. */
export function range(lines: Line[], log: boolean, place?: (x: number) => number): { low: number; high: number; log: boolean } {
  let low = Infinity, high = -Infinity, least = Infinity;
  for (const { x, y } of lines) for (let i = 0; i < y.length; i++) {
    const v = y[i];
    if (v === null || !Number.isFinite(v)) continue;
    if (place) { const at = place(x[i]); if (at < -1e-6 || at > 1 + 1e-6) continue; }
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

/** A scale of values from the lower to the upper edge of a chart. */
export function scaleOf(r: { low: number; high: number; log: boolean }, h: number, pad: Pad): Scale {
  const ih = Math.max(1, h - pad.top - pad.bottom);
  return { ...r, y: (v) => pad.top + ih * (1 - ((r.log ? Math.log10(Math.max(v, 10 ** r.low)) : v) - r.low) / (r.high - r.low || 1)) };
}

/** Numbered lines at round values. */
export function drawAxis(g: CanvasRenderingContext2D, scale: Scale, w: number, h: number, pad: Pad): void {
  const count = Math.max(2, Math.round((h - pad.top - pad.bottom) / 34));
  const at = scale.log ? logTicks(scale.low, scale.high, count) : ticks(scale.low, scale.high, count), told = labels(at);
  g.font = `10.5px ${css("--font")}`;
  g.textAlign = "right";
  g.textBaseline = "middle";
  g.lineWidth = 1;
  at.forEach((v, i) => {
    const y = Math.round(scale.y(v)) + 0.5;
    g.strokeStyle = css("--line");
    g.globalAlpha = v === 0 ? 1 : 0.55;
    g.beginPath(); g.moveTo(pad.left, y); g.lineTo(w - pad.right, y); g.stroke();
    g.globalAlpha = 1;
    g.fillStyle = css("--soft");
    g.fillText(told[i], pad.left - 6, Math.min(h - 5, Math.max(6, y)), pad.left - 8);
  });
}

export function drawChart(canvas: HTMLCanvasElement, options: ChartOptions): Scale {
  const { g, w, h } = fit(canvas);
  const pad = options.pad ?? { left: 0, right: 0, top: 4, bottom: 4 }, iw = Math.max(1, w - pad.left - pad.right);
  const r = options.ends ? { low: options.ends[0], high: options.ends[1], log: false } : range(options.lines, options.log ?? false, options.place);
  const scale = scaleOf(r, h, pad);
  if (options.axis) drawAxis(g, scale, w, h, pad);
  g.save();
  g.beginPath();
  g.rect(pad.left, 0, iw, h);
  g.clip();
  g.lineJoin = "round";
  for (const line of options.lines) {
    g.strokeStyle = line.colour;
    g.lineWidth = line.width ?? 1.5;
    g.setLineDash(line.dash ?? []);
    trace(g, line, (x) => pad.left + options.place(x) * iw, scale.y);
    g.setLineDash([]);
  }
  g.restore();
  return scale;
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

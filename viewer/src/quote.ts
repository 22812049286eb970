// What is shown, as text for elsewhere: the line of Python that makes the same figure, and tables for a spreadsheet.

import { shortest } from "./numbers";
import type { Plane } from "./archive";
import type { View } from "./state";

/** A Python string literal. */
export function quoted(text: string): string {
  const escaped = [...text].map((c) => (c === "\\" || c === '"' ? `\\${c}` : c === "\n" ? "\\n" : c === "\t" ? "\\t"
    : /[\p{C}\p{Zl}\p{Zp}]/u.test(c) ? `\\U${c.codePointAt(0)!.toString(16).padStart(8, "0")}` : c)).join("");
  return `"${escaped}"`;
}

export interface Pinned { run: number; tensor: string; index: number[] }
export interface Shown { view: View; paths: string[]; frames: number; start: number; limit: number | null; pins: Pinned[] }

/** Python that draws what the page shows: the picture, then the chosen weights. `start`: first frame of the shape shown; `limit`: end of the scale. */
export function pythonOf({ view, paths, start, limit, pins }: Shown): string {
  const { tensor, frame, diff, scale, show, against } = view, name = quoted(tensor);
  const used = Math.max(show === "pair" && !against ? 1 : 0, ...pins.map((p) => p.run));
  const run = (k: number) => (k === 0 ? "run" : `run${k + 1}`);
  const lines = ["import weightlapse as wl", ...paths.slice(0, used + 1).map((p, k) => `${run(k)} = wl.load(${quoted(p)})`)];
  const end = limit === null ? '"step"' : String(Number(limit.toPrecision(7)));
  let drawn = false;
  const minus = (a: string, b: string) => { drawn = true; lines.push(`plt.imshow(${a} - ${b}, cmap="RdBu_r"${limit === null ? "" : `, vmin=-${end}, vmax=${end}`})`); };
  if (show === "all") lines.push('wl.make_film(run, "weights.mp4")');
  else if (show === "pair") {
    const other = against ? `run[${name}][${against.slice(6)}]` : `run2.state(step=int(run.steps[${frame}]))[${name}]`;
    minus(`run[${name}][${frame}]`, other);
  } else if (diff) minus(`run[${name}][${frame}]`, `run[${name}][${diff === "first" ? start : diff === "prev" ? Math.max(start, frame - 1) : diff.slice(6)}]`);
  else lines.push(`wl.plot.heatmap(run, ${name}, frame=${frame}, scale=${scale === "layer" ? end : quoted(scale)})`);
  for (const { run: k, tensor: t, index } of pins) {
    drawn = true;
    lines.push(`plt.plot(${run(k)}.steps, ${run(k)}[${quoted(t)}][${[":", ...index].join(", ")}], label=${quoted(`${t}[${index.join(", ")}]`)})`);
  }
  if (drawn) lines.splice(1, 0, "import matplotlib.pyplot as plt");
  return `${lines.join("\n")}\n`;
}

const cell = (text: string) => (/[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);
export function csv(rows: (string | number)[][]): string { return `${rows.map((r) => r.map((v) => cell(String(v))).join(",")).join("\r\n")}\r\n`; }

/** The stored values of a picture, one a line, each with its own index. */
export function valuesTable(plane: Plane, dtype: string, indexOf: (row: number, col: number) => number[] | null): string {
  const rows: (string | number)[][] = [];
  let axes = 0;
  for (let r = 0; r < plane.rows; r++) for (let c = 0; c < plane.cols; c++) {
    const index = indexOf(plane.r[0] + r, plane.c[0] + c);
    if (!index) continue;
    axes = index.length;
    rows.push([...index, shortest(plane.values[r * plane.cols + c], dtype)]);
  }
  return csv([[...Array.from({ length: axes }, (_, i) => `axis ${i}`), "value"], ...rows]);
}

/** Lines over the frames of a run, a column each; empty where a line has no value. */
export function linesTable(steps: number[], lines: { label: string; frames: ArrayLike<number>; values: ArrayLike<number | null> }[]): string {
  const columns = lines.map(({ frames, values }) => new Map(Array.from(frames, (f, i) => [f, values[i]])));
  const frames = [...new Set(columns.flatMap((c) => [...c.keys()]))].sort((a, b) => a - b);
  return csv([["frame", "step", ...lines.map((l) => l.label)], ...frames.map((f) => [f, steps[f] ?? "", ...columns.map((c) => c.get(f) ?? "")])]);
}

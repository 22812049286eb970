// Distributions over time, all units at once, and spectra: three figures that are made when they are opened.

import type { Archive, Distribution, Spectrum, Units } from "../archive";
import { choice, css, fit, h } from "../dom";
import { brief, grouped } from "../numbers";
import { layerOf } from "../scene/layout";
import { ViewerError, type Run } from "../source";
import { windowOf, type Store, type View } from "../state";
import { labels, ticks } from "./axis";
import { drawAxis, drawChart, PAD, range, scaleOf, type Line } from "./chart";

const RIDGES = 22;
const RIDGE = 40; // pixels above the first ridge, which no ridge is higher than
const MARKED = 4; // units drawn in colours of their own

interface Part { name: string; details: HTMLDetailsElement; body: HTMLElement; canvas: HTMLCanvasElement; note: HTMLElement; key: string; draw: (() => void) | null }

export class Figures {
  readonly element: HTMLElement;
  private run: Run | null = null;
  private parts: Part[];
  private place: () => (frame: number) => number;
  private selects: { of: HTMLSelectElement; spread: HTMLSelectElement; scope: HTMLSelectElement };
  private unitList = h("ul", { class: "pins" });

  constructor(private store: Store, private archive: Archive, place: () => (frame: number) => number) {
    this.place = place;
    const of = choice("Of", [["weights", "weights"], ["updates", "updates"], ["gradients", "gradients"]], "weights", (v) => store.set({ of: v as View["of"] }),
      { "aria-label": "Distribution of" });
    const spread = choice("As", [["bands", "bands"], ["ridge", "ridgeline"]], "bands", (v) => store.set({ spread: v as View["spread"] }), { "aria-label": "Distribution as" });
    const scope = choice("Over", [["tensor", "the tensor"], ["layer", "the layer"], ["unit", "one unit"]], "tensor", (v) => this.scope(v), { "aria-label": "Distribution over" });
    this.selects = { of: of.select, spread: spread.select, scope: scope.select };
    this.parts = [this.part("distribution", "Distribution over time", [of.element, spread.element, scope.element], []),
      this.part("units", "All units over time", [], [this.unitList]), this.part("spectrum", "Singular values", [], [])];
    this.element = h("section", { class: "figures", "aria-label": "Figures" }, ...this.parts.map((p) => p.details));
    this.brush(this.parts[0].canvas);
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  fill(run: Run): void { this.run = run; this.follow(); }

  private part(name: string, title: string, controls: HTMLElement[], after: HTMLElement[]): Part {
    const canvas = h("canvas", { class: "chart figure", role: "img", "aria-label": name === "units" ? "Figure: each neuron over time" : `Figure: ${title}` }), note = h("p", { class: "hint" });
    const body = h("div", {}, h("div", { class: "choices" }, ...controls), canvas, ...after, note);
    const details = h("details", { "data-testid": `figure-${name}` }, h("summary", {}, title), body);
    const part: Part = { name, details, body, canvas, note, key: "", draw: null };
    details.addEventListener("toggle", () => {
      const { panels } = this.store.view, open = panels.includes(name);
      if (details.open !== open) this.store.set({ panels: details.open ? [...panels, name] : panels.filter((p) => p !== name) });
    });
    return part;
  }

  private scope(value: string): void {
    if (value !== "unit") { this.store.set({ scope: value as View["scope"], unit: -1 }); return; }
    const { pins, tensor } = this.store.view, pin = [...pins].reverse().find((p) => p.split("|").slice(1, -1).join("|") === tensor);
    this.store.set({ scope: "unit", unit: Math.max(0, this.store.view.unit, pin ? Number(pin.split("|").pop()!.split(",")[0]) : 0) });
  }

  /** Opens what the view says is open, and makes what is open and not yet made for this view. */
  follow(): void {
    const { panels, of, spread, scope, unit, tensor } = this.store.view;
    if (!this.run || !tensor) return;
    this.selects.of.value = of;
    this.selects.spread.value = spread;
    this.selects.scope.options[2].textContent = unit >= 0 ? `unit ${unit}` : "one unit";
    this.selects.scope.value = scope;
    for (const part of this.parts) {
      const open = panels.includes(part.name);
      if (part.details.open !== open) part.details.open = open;
      if (!open) continue;
      const key = JSON.stringify([tensor, part.name === "distribution" ? [of, scope, unit] : 0, this.run.frames >> 6]);
      if (part.key === key) continue;
      part.key = key;
      void this.make(part, key);
    }
    this.draw();
  }

  private async make(part: Part, key: string): Promise<void> {
    const { tensor, of, scope, unit } = this.store.view;
    const say = (text: string) => { part.note.textContent = text; };
    say("…");
    try {
      this.refuse(part.name, tensor, of, scope);
      let draw: () => void, told: (spread: string) => string;
      if (part.name === "distribution") {
        const d = await this.archive.distribution(0, tensor, of, scope === "unit" ? unit : -1, scope === "layer" ? "layer" : "tensor");
        draw = () => { say(told(this.store.view.spread)); this.distribution(part.canvas, d); };
        const bad = d.bad.reduce((a, b) => a + b, 0), beyond = d.beyond.reduce((a, b) => a + b, 0);
        const what = scope === "layer" ? layerOf(tensor) || tensor : scope === "unit" ? `unit ${unit} of ${tensor}` : tensor;
        told = (spread) => [`${of} of ${what}.`, d.sampled ? `From ${grouped(d.sampled[0])} of ${grouped(d.sampled[1])} values.` : "", bad ? `${grouped(bad)} NaN or infinite, left out.` : "",
          beyond ? `${grouped(beyond)} beyond the histogram.` : "", spread === "ridge" ? "Each line is the histogram of one step, the latest below; this step's is filled." : "Bands: 0, 7, 16, 31, 50, 69, 84, 93, 100 %.",
          "Drag to zoom into a stretch of time, double-click for all."].filter(Boolean).join(" ");
      } else if (part.name === "units") {
        const u = await this.archive.units(0, tensor);
        draw = () => this.units(part.canvas, u);
        told = () => [`Root mean square of the weights of ${u.units.length < u.of ? `${u.units.length} of ${grouped(u.of)}` : `all ${grouped(u.of)}`} units (first axis).`,
          u.sampled ? `From ${grouped(u.sampled[0])} of the ${grouped(u.sampled[1])} weights of each.` : "", "In colour: those that changed most."].filter(Boolean).join(" ");
        this.listUnits(u);
      } else {
        const s = await this.archive.spectrum(0, tensor);
        draw = () => this.spectrum(part.canvas, s);
        told = () => s.frames.length ? `Largest to smallest, at steps ${s.frames.map((f) => this.run!.steps[f]).join(", ")}: the darker, the later.` : "No moment without NaN or infinities.";
      }
      if (part.key !== key) return;
      part.draw = draw;
      say(told(this.store.view.spread));
      draw();
    } catch (error) {
      if (part.key !== key) return;
      part.draw = null;
      part.key = "";
      fit(part.canvas);
      say((error as Error).message);
    }
  }

  /** What has no figure is known without asking. */
  private refuse(part: string, tensor: string, of: string, scope: string): void {
    const { tensors } = this.run!, found = tensors.find((t) => t.name === tensor), flat = !found || found.pieces[found.pieces.length - 1].shape.length < 2;
    const near = tensors.filter((t) => t.name === `gradients:${tensor}` || t.name === tensor || (scope === "layer" && layerOf(t.name) === layerOf(`gradients:${tensor}`)));
    if (part === "distribution" && of === "gradients" && !near.some((t) => t.stream === "gradients"))
      throw new ViewerError(`No gradient of ${tensor} is recorded; watch(..., streams=("weights", "gradients")) records it.`);
    if (part !== "distribution" && flat) throw new ViewerError(`${tensor} is no matrix: it has no ${part === "units" ? "units of several weights" : "singular values"}.`);
  }

  draw(): void { for (const part of this.parts) if (part.details.open) part.draw?.(); }

  /** The theme has changed. */
  recolour(): void { this.draw(); }

  // -- distributions ------------------------------------------------------------------------------------------------------

  private distribution(canvas: HTMLCanvasElement, d: Distribution): void {
    if (this.store.view.spread === "ridge") this.ridge(canvas, d); else this.bands(canvas, d);
  }

  private bands(canvas: HTMLCanvasElement, d: Distribution): void {
    const { g, w, h: hh } = fit(canvas), place = this.place(), iw = w - PAD.left - PAD.right;
    const column = (k: number) => d.percentiles.map((p) => p[k]);
    const ends: Line[] = [0, 8].map((k) => ({ x: d.frames, y: column(k), colour: "" }));
    const scale = scaleOf(range(ends, false, place), hh, PAD);
    drawAxis(g, scale, w, hh, PAD);
    g.save();
    g.beginPath(); g.rect(PAD.left, 0, iw, hh); g.clip();
    const x = (i: number) => PAD.left + place(d.frames[i]) * iw;
    g.fillStyle = css("--accent");
    [0, 1, 2, 3].forEach((k) => {
      g.globalAlpha = 0.16 + 0.08 * k;
      let from = 0;
      for (let i = 0; i <= d.frames.length; i++) { // a moment without finite numbers leaves a gap
        if (i < d.frames.length && d.percentiles[i][0] !== null) continue;
        if (i - from > 1) {
          g.beginPath();
          for (let j = from; j < i; j++) g.lineTo(x(j), scale.y(d.percentiles[j][k]!));
          for (let j = i - 1; j >= from; j--) g.lineTo(x(j), scale.y(d.percentiles[j][8 - k]!));
          g.fill();
        }
        from = i + 1;
      }
    });
    g.globalAlpha = 1;
    g.restore();
    drawMedian(g, d.frames.map((_, i) => [x(i), d.percentiles[i][4]] as [number, number | null]), scale.y);
    this.playhead(g, PAD.left + place(this.store.view.frame) * iw, hh);
  }

  private ridge(canvas: HTMLCanvasElement, d: Distribution): void {
    const { g, w, h: hh } = fit(canvas), [a, b] = windowOf(this.store.view, this.run!.frames);
    const inside = d.frames.flatMap((f, i) => (f >= a && f <= b ? [i] : [])), stride = Math.max(1, Math.ceil(inside.length / RIDGES));
    const rows = inside.filter((_, k) => k % stride === 0 || k === inside.length - 1);
    const most = Math.max(1, ...rows.map((i) => Math.max(...d.counts[i]))), left = 40, right = 6, bottom = 18, top = RIDGE, iw = w - left - right, { frame } = this.store.view;
    const step = (hh - top - bottom) / Math.max(1, rows.length - 1 || 1), high = Math.min(RIDGE - 4, Math.max(18, step * 4));
    const now = frame < a || frame > b ? -1 : rows.reduce((best, i) => (Math.abs(d.frames[i] - frame) < Math.abs(d.frames[best] - frame) ? i : best), rows[0]);
    g.font = `10px ${css("--font")}`;
    rows.forEach((i, k) => {
      const y = top + k * step, counts = d.counts[i];
      g.beginPath();
      g.moveTo(left, y);
      counts.forEach((n, bin) => { g.lineTo(left + ((bin + 0.5) / counts.length) * iw, y - (n / most) * high); });
      g.lineTo(left + iw, y);
      g.closePath();
      g.globalAlpha = 0.86;
      g.fillStyle = i === now ? css("--focus") : css("--chosen");
      g.fill();
      g.globalAlpha = 1;
      g.strokeStyle = i === now ? css("--ink") : css("--accent");
      g.lineWidth = 1;
      g.stroke();
      if (k % Math.ceil(12 / Math.max(1, step)) === 0 || k === rows.length - 1) {
        g.fillStyle = css("--soft");
        g.textAlign = "right";
        g.textBaseline = "middle";
        g.fillText(String(this.run!.steps[d.frames[i]]), left - 4, y, left - 6);
      }
    });
    g.fillStyle = css("--soft");
    g.textBaseline = "bottom";
    g.textAlign = "center";
    const at = ticks(d.low, d.high, 4), told = labels(at);
    at.forEach((v, i) => { g.fillText(told[i], Math.min(w - 14, left + ((v - d.low) / (d.high - d.low)) * iw), hh); });
  }

  /** A drag over the figure chooses a stretch of time for all charts; a click goes there; two clicks show all of it again. */
  private brush(canvas: HTMLCanvasElement): void {
    const frameAt = (e: PointerEvent) => {
      const box = canvas.getBoundingClientRect(), [a, b] = windowOf(this.store.view, this.run!.frames), ridge = this.store.view.spread === "ridge";
      const share = ridge ? (e.clientY - box.top - RIDGE) / (box.height - RIDGE - 18) : (e.clientX - box.left - PAD.left) / (box.width - PAD.left - PAD.right);
      const place = this.place();
      if (ridge) return Math.round(Math.min(b, Math.max(a, a + share * (b - a))));
      let best = a;
      for (let f = a; f <= b; f++) if (Math.abs(place(f) - share) < Math.abs(place(best) - share)) best = f;
      return best;
    };
    let from = -1, x = 0;
    canvas.addEventListener("pointerdown", (e) => { from = frameAt(e); x = e.clientX + e.clientY; canvas.setPointerCapture(e.pointerId); });
    canvas.addEventListener("pointerup", (e) => {
      if (from < 0) return;
      const to = frameAt(e), moved = Math.abs(e.clientX + e.clientY - x) > 6;
      if (moved && Math.abs(to - from) >= 1) this.store.set({ window: `${Math.min(from, to)}:${Math.max(from, to)}` });
      else if (!moved) this.store.set({ frame: to });
      from = -1;
    });
    canvas.addEventListener("dblclick", () => this.store.set({ window: "" }));
  }

  private playhead(g: CanvasRenderingContext2D, x: number, h: number): void {
    g.strokeStyle = css("--focus");
    g.globalAlpha = 0.7;
    g.lineWidth = 1;
    g.beginPath(); g.moveTo(x, 0); g.lineTo(x, h); g.stroke();
    g.globalAlpha = 1;
  }

  // -- units and spectra --------------------------------------------------------------------------------------------------

  private most(u: Units): number[] {
    const change = (line: (number | null)[]) => Math.abs((line[line.length - 1] ?? 0) - (line[0] ?? 0));
    return u.lines.map((_, i) => i).sort((a, b) => change(u.lines[b]) - change(u.lines[a])).slice(0, MARKED);
  }

  private listUnits(u: Units): void {
    this.unitList.replaceChildren(...this.most(u).map((i, k) => {
      const line = u.lines[i], chip = h("i", { class: "chip" });
      chip.style.background = css(`--h${k}`);
      return h("li", {}, chip, h("button", { class: "offer", "data-testid": "unit-line", "data-unit": u.units[i],
        click: () => this.store.set({ scope: "unit", unit: u.units[i], panels: [...new Set([...this.store.view.panels, "distribution"])] }) },
      `unit ${u.units[i]}: ${brief(line[0])} → ${brief(line[line.length - 1])}`));
    }));
  }

  private units(canvas: HTMLCanvasElement, u: Units): void {
    const marked = this.most(u), soft = css("--soft"), alpha = u.lines.length > 120 ? "2e" : u.lines.length > 40 ? "55" : "88", place = this.place();
    const lines: Line[] = u.lines.map((y) => ({ x: u.frames, y, colour: soft + alpha, width: 1 }));
    marked.forEach((i, k) => { lines.push({ x: u.frames, y: u.lines[i], colour: css(`--h${k}`), width: 1.75 }); });
    drawChart(canvas, { axis: true, place, pad: PAD, lines });
    this.playhead(canvas.getContext("2d")!, PAD.left + place(this.store.view.frame) * (canvas.clientWidth - PAD.left - PAD.right), canvas.clientHeight);
  }

  private spectrum(canvas: HTMLCanvasElement, s: Spectrum): void {
    const n = Math.max(1, ...s.values.map((v) => v.length)), accent = css("--accent");
    const lines: Line[] = s.values.map((y, k) => ({ x: Array.from(y, (_, i) => i), y, width: k === s.values.length - 1 ? 2 : 1.25,
      colour: accent + Math.round(60 + (195 * (k + 1)) / s.values.length).toString(16).padStart(2, "0") }));
    drawChart(canvas, { axis: true, log: true, place: (i) => i / Math.max(1, n - 1), pad: PAD, lines });
  }
}

function drawMedian(g: CanvasRenderingContext2D, points: [number, number | null][], y: (v: number) => number): void {
  g.strokeStyle = css("--accent");
  g.lineWidth = 1.75;
  g.beginPath();
  let pen = false;
  for (const [x, v] of points) {
    if (v === null || x < PAD.left - 1) { pen = false; continue; }
    if (pen) g.lineTo(x, y(v)); else g.moveTo(x, y(v));
    pen = true;
  }
  g.stroke();
}

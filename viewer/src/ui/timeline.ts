// The strip of time: a slider with the loss (or any scalar) on it, events, gaps, new layouts and findings marked.

import type { Finding } from "../archive";
import { choice, css, h, icon } from "../dom";
import { brief, grouped } from "../numbers";
import { fractionOfFrame, fractionOfStep, frameAt, type TimeScale } from "../scene/time";
import type { Run } from "../source";
import { windowOf, type Store } from "../state";
import { drawChart, type Line } from "./chart";

const PLAY = "M4 2.5v11l9-5.5z", PAUSE = "M3.5 2.5h3v11h-3zM9.5 2.5h3v11h-3z";
const GRAVITY = ["error", "warning", "note"];
const SPEEDS = [1, 2, 5, 10, 15, 24, 30, 60, 120, 240, 480];

export class Timeline {
  readonly element: HTMLElement;
  readonly slider: HTMLDivElement;
  findings: Finding[] = [];
  onPlay: () => void = () => undefined;
  onScrub: (active: boolean) => void = () => undefined;
  private chart: HTMLCanvasElement;
  private head: HTMLDivElement;
  private tip: HTMLDivElement;
  private play: HTMLButtonElement;
  private step: HTMLDivElement;
  private number: HTMLElement;
  private reading: HTMLElement;
  private speed: HTMLSelectElement;
  private scalar: HTMLSelectElement;
  private time: HTMLSelectElement;
  private scalarLabel: HTMLElement;
  private run: Run | null = null;
  private ends: [HTMLElement, HTMLElement];

  constructor(private store: Store) {
    this.chart = h("canvas", { "aria-hidden": "true" });
    this.head = h("div", { class: "playhead", "aria-hidden": "true" });
    this.tip = h("div", { class: "tip", hidden: true, "aria-hidden": "true" });
    this.slider = h("div", { "data-testid": "timeline", class: "strip", role: "slider", tabindex: 0, "aria-label": "Time", "aria-valuemin": 0,
      "aria-valuemax": 0, "aria-valuenow": 0 }, this.chart, this.head, this.tip);
    this.play = h("button", { "data-testid": "play", class: "play", "aria-pressed": "false", "aria-label": "Play", title: "Play (Space)",
      click: () => this.onPlay() }, icon(PLAY));
    this.number = h("b", {});
    this.reading = h("span", { class: "reading" });
    this.step = h("div", { "data-testid": "step", class: "step" }, h("span", { class: "word" }, "step "), this.number);
    const speeds = choice("Speed", SPEEDS.map((s) => [String(s), `${s} frames/s`]), "30", (v) => store.set({ fps: Number(v) }),
      { "data-testid": "speed", "aria-label": "Frames per second" });
    const scalars = choice("Curve", [], "", (v) => store.set({ scalar: v }), { "aria-label": "Scalar on the timeline" });
    const times = choice("Time", [["frames", "by frame"], ["steps", "by step"], ["log", "log steps"]], "frames",
      (v) => store.set({ time: v as TimeScale }), { "aria-label": "Scale of time" });
    this.speed = speeds.select;
    this.scalar = scalars.select;
    this.scalarLabel = scalars.element;
    this.time = times.select;
    this.ends = [h("span", {}), h("span", {})];
    this.element = h("section", { class: "timeline", "aria-label": "Time" },
      h("div", { class: "transport" }, this.play, this.step, this.reading, h("span", { class: "grow" }),
        this.scalarLabel, times.element, speeds.element),
      this.slider, h("div", { class: "ends", "aria-hidden": "true" }, ...this.ends));
    this.listen();
    new ResizeObserver(() => this.draw()).observe(this.slider);
  }

  fill(run: Run): void {
    this.run = run;
    const names = Object.keys(run.scalars);
    const chosen = names.includes(this.store.view.scalar) ? this.store.view.scalar : (names.find((n) => /loss/i.test(n)) ?? names[0] ?? "");
    this.scalar.replaceChildren(...names.map((n) => h("option", { value: n, selected: n === chosen }, n)));
    this.scalarLabel.hidden = names.length === 0;
    this.slider.setAttribute("aria-valuemax", String(run.frames - 1));
    this.ends[0].textContent = `step ${grouped(run.steps[0] ?? 0)}`;
    this.ends[1].textContent = `step ${grouped(run.steps[run.steps.length - 1] ?? 0)}`;
    this.update();
    this.draw();
  }

  /** Follows the view: playhead, step, speed. */
  update(): void {
    const { fps, time } = this.store.view;
    if (![...this.speed.options].some((o) => o.value === String(fps)))
      this.speed.append(h("option", { value: String(fps) }, `${fps} frames/s`));
    this.speed.value = String(fps);
    this.time.value = time;
    this.move();
  }

  /** The slider and its playhead at the frame of the view. */
  move(): void {
    if (!this.run) return;
    const { frame, time } = this.store.view;
    this.slider.setAttribute("aria-valuenow", String(frame));
    this.head.style.left = `${fractionOfFrame(this.run.steps, Math.min(frame, this.run.frames - 1), time) * 100}%`;
  }

  /** The frame that is on the stage now. */
  shown(frame: number): void {
    if (!this.run) return;
    const step = this.run.steps[frame];
    this.step.dataset.step = String(step);
    this.step.dataset.frame = String(frame);
    this.number.textContent = String(step);
    const name = this.scalar.value, value = this.run.scalars[name]?.[frame];
    this.reading.textContent = name && value !== undefined && value !== null ? `${name} ${brief(value)}` : `frame ${frame} of ${this.run.frames - 1}`;
    this.slider.setAttribute("aria-valuetext", `step ${step}, frame ${frame} of ${this.run.frames - 1}${name && value != null ? `, ${name} ${brief(value)}` : ""}`);
  }

  playing(on: boolean): void {
    this.play.setAttribute("aria-pressed", String(on));
    this.play.setAttribute("aria-label", on ? "Pause" : "Play");
    this.play.replaceChildren(icon(on ? PAUSE : PLAY));
  }

  draw(): void {
    const run = this.run;
    if (!run?.frames) return;
    const scale = this.store.view.time, steps = run.steps;
    const values = run.scalars[this.scalar.value] ?? [];
    const lines: Line[] = values.length ? [{ x: Array.from(values, (_, i) => i), y: values, colour: css("--accent"), width: 1.75 }] : [];
    drawChart(this.chart, { lines, log: true, place: (f) => fractionOfFrame(steps, Math.min(f, steps.length - 1), scale),
      pad: { left: 0, right: 0, top: 16, bottom: 10 } });
    const g = this.chart.getContext("2d")!, w = this.chart.clientWidth, hh = this.chart.clientHeight;
    const at = (step: number) => fractionOfStep(steps, step, scale) * w;
    for (const [first, last] of run.gaps) {
      const a = at(first), b = Math.max(a + 2, at(last));
      g.fillStyle = css("--gap");
      g.fillRect(a, 0, b - a, hh);
    }
    g.lineWidth = 1;
    for (const epoch of run.epochs.slice(1)) {
      const x = Math.round(fractionOfFrame(steps, Math.min(epoch.start, steps.length - 1), scale) * w) + 0.5;
      g.strokeStyle = css("--ink");
      g.setLineDash([3, 3]);
      g.beginPath(); g.moveTo(x, 0); g.lineTo(x, hh); g.stroke();
      g.setLineDash([]);
    }
    const { window } = this.store.view;
    if (window) { // what the charts show; the rest is dimmed
      const [a, b] = windowOf(this.store.view, run.frames).map((f) => fractionOfFrame(steps, f, scale) * w);
      g.fillStyle = css("--gap");
      g.fillRect(0, 0, a, hh);
      g.fillRect(b, 0, w - b, hh);
      g.fillStyle = css("--accent");
      g.fillRect(a, hh - 3, Math.max(2, b - a), 3);
    }
    for (const [step] of run.events) flag(g, at(step), hh, css("--ink"));
    for (const f of this.findings) if (f.step !== null) dot(g, at(f.step), hh - 6, css(f.severity === "note" ? "--soft" : "--warn"));
    this.words(g, at, w, hh);
  }

  /** Events and findings in words, as far as there is room: events above, findings over their dots, where the handle does not hide them; each the first of those that would overlap. */
  private words(g: CanvasRenderingContext2D, at: (step: number) => number, w: number, hh: number): void {
    const run = this.run!;
    g.font = `500 11px ${css("--font")}`;
    g.textAlign = "left";
    const worst = Math.min(...this.findings.map((f) => GRAVITY.indexOf(f.severity)));
    const found = this.findings.filter((f) => f.step !== null && f.severity !== "note" && GRAVITY.indexOf(f.severity) === worst);
    for (const [y, colour, items] of [[10, css("--ink"), run.events.map(([step, text]) => ({ step, text }))],
      [hh - 19, css("--warn"), found.map((f) => ({ step: f.step!, text: `${f.kind.replace(/_/g, " ")}${f.tensor ? `: ${f.tensor}` : ""}` }))]] as [number, string, { step: number; text: string }[]][]) {
      g.textBaseline = "middle";
      let free = -Infinity;
      for (const { step, text } of [...items].sort((a, b) => a.step - b.step).slice(0, 200)) {
        const short = text.length > 44 ? `${text.slice(0, 43)}…` : text, wide = g.measureText(short).width;
        let x = at(step) + 7;
        if (x + wide > w) x = at(step) - 7 - wide;
        if (x < Math.max(free, 0)) continue;
        g.globalAlpha = 0.72;
        g.fillStyle = css("--ground");
        g.fillRect(x - 2, y - 7, wide + 4, 14);
        g.globalAlpha = 1;
        g.fillStyle = colour;
        g.fillText(short, x, y);
        free = x + wide + 10;
      }
    }
  }

  // -- pointer and keyboard -----------------------------------------------------------------------------------------------

  private frameUnder(e: PointerEvent): number {
    const box = this.slider.getBoundingClientRect();
    return frameAt(this.run!.steps, (e.clientX - box.left) / box.width, this.store.view.time);
  }

  private listen(): void {
    const s = this.slider;
    let dragging = false, from = -1;
    s.addEventListener("dblclick", () => this.store.set({ window: "" }));
    s.addEventListener("pointerdown", (e) => {
      if (!this.run) return;
      if (e.shiftKey) { from = this.frameUnder(e); s.setPointerCapture(e.pointerId); return; } // a stretch of time for the charts
      dragging = true;
      s.setPointerCapture(e.pointerId);
      this.onScrub(true);
      this.store.set({ frame: this.frameUnder(e) });
    });
    s.addEventListener("pointermove", (e) => {
      if (!this.run) return;
      if (dragging) this.store.set({ frame: this.frameUnder(e) });
      const to = this.frameUnder(e);
      if (from >= 0 && to !== from) this.store.set({ window: `${Math.min(from, to)}:${Math.max(from, to)}` });
      this.hint(e);
    });
    const end = () => { from = -1; if (dragging) { dragging = false; this.onScrub(false); } };
    s.addEventListener("pointerup", end);
    s.addEventListener("pointercancel", end);
    s.addEventListener("pointerleave", () => { this.tip.hidden = true; });
  }

  private hint(e: PointerEvent): void {
    const run = this.run!, frame = this.frameUnder(e), step = run.steps[frame];
    const box = this.slider.getBoundingClientRect(), x = e.clientX - box.left, scale = this.store.view.time;
    const near = (s: number) => Math.abs(fractionOfStep(run.steps, s, scale) * box.width - x) < 5;
    const words = [`step ${step}`];
    const value = run.scalars[this.scalar.value]?.[frame];
    if (value !== undefined && value !== null) words.push(`${this.scalar.value} ${brief(value)}`);
    for (const [at, text] of run.events) if (near(at)) words.push(text);
    for (const f of this.findings) if (f.step !== null && near(f.step)) words.push(`${f.kind}${f.tensor ? ` · ${f.tensor}` : ""}`);
    for (const [a, b, reason] of run.gaps) if (step >= a - 1 && step <= b + 1) words.push(`not recorded: ${reason}`);
    this.tip.textContent = words.join("  ·  ");
    this.tip.hidden = false;
    this.tip.style.left = `${Math.min(Math.max(x, 60), Math.max(60, box.width - 60))}px`;
  }
}

function flag(g: CanvasRenderingContext2D, x: number, h: number, colour: string): void {
  g.fillStyle = g.strokeStyle = colour;
  g.beginPath(); g.moveTo(Math.round(x) + 0.5, 2); g.lineTo(Math.round(x) + 0.5, h); g.globalAlpha = 0.35; g.stroke(); g.globalAlpha = 1;
  g.beginPath(); g.moveTo(x - 4, 1); g.lineTo(x + 4, 1); g.lineTo(x, 8); g.fill();
}

function dot(g: CanvasRenderingContext2D, x: number, y: number, colour: string): void {
  g.fillStyle = colour;
  g.beginPath(); g.arc(x, y, 3.5, 0, 7); g.fill();
}

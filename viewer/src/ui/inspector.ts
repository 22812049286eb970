// Beside the picture: the value under the pointer, trajectories, curves, units, findings, events.

import type { Archive, Finding, Pair } from "../archive";
import { choice, css, h } from "../dom";
import { brief, bytes, grouped, shortest } from "../numbers";
import type { Reading } from "../probe";
import { cellOf, ownIndex, planeSize } from "../scene/plane";
import { fractionOfFrame } from "../scene/time";
import { pieceAt, ViewerError, type Piece, type Run, type Tensor } from "../source";
import type { Stage } from "../stage";
import { windowOf, type Store } from "../state";
import { drawChart, type Line } from "./chart";
import { Figures } from "./figures";

const HUES = 8; // colours of lines, in the style sheet; dashes tell apart what repeats
const hue = (i: number) => css(`--h${i % HUES}`);

interface Pin { run: number; tensor: string; row: number; col: number; index: number[]; hue: number; frames: number[]; values: number[] }
interface Average { tensor: string; kind: string; label: string; hue: number; frames: number[]; values: (number | null)[] }

const CURVES: [string, string][] = [["norm", "norm"], ["distance", "distance from start"], ["update", "update norm"], ["mass", "mass Σ|w|"],
  ["mean", "mean"]];

export class Inspector {
  readonly element: HTMLElement;
  readonly value: HTMLDivElement;
  readonly figures: Figures;
  onJump: (finding: Finding) => void = () => undefined;
  onStep: (step: number) => void = () => undefined;
  private pins: Pin[] = [];
  private averages: Average[] = [];
  private chart = h("canvas", { class: "chart tall", role: "img", "aria-label": "Trajectories of the chosen weights" });
  private pinMore = h("div", { class: "offers" });
  private pinList = h("ul", { class: "pins" });
  private hint = h("p", { class: "hint" }, "Click a weight to draw its whole trajectory.");
  private curveChart = h("canvas", { class: "chart", role: "img", "aria-label": "Curve of the tensor" });
  private curveNote = h("p", { class: "hint" });
  private curveSelect: HTMLSelectElement;
  private curveLine: Line | null = null;
  private unit = h("section", { hidden: true, "aria-label": "Unit" });
  private findings = h("section", { hidden: true, "aria-label": "Findings" });
  private events = h("section", { hidden: true, "aria-label": "Events" });
  private facts = h("p", { class: "facts" });
  private big = h("div", { class: "big" });
  private where = h("div", { class: "where" });
  private more = h("div", { class: "more" });
  private redraws: (() => void)[] = [];
  private apart = h("section", { hidden: true, "aria-label": "Distance of the two runs" });
  private pair: Pair | null = null;
  private drawApart: () => void = () => undefined;
  private runs: Run[] = [];

  constructor(private store: Store, private archive: Archive, private stage: Stage, where: HTMLElement) {
    this.value = h("div", { "data-testid": "value", class: "value", "aria-live": "polite" }, this.big, this.where, this.more);
    const curves = choice("Curve of the tensor", CURVES, store.view.curve, (v) => store.set({ curve: v }), { "aria-label": "Curve of the tensor" });
    this.curveSelect = curves.select;
    this.figures = new Figures(store, archive, () => this.place());
    this.element = h("aside", { class: "inspector", "aria-label": "Inspector" }, this.value,
      where, this.findings, this.apart, h("section", { "aria-label": "Trajectories" }, h("h2", {}, "Trajectories"), this.hint, this.chart, this.pinList, this.pinMore), this.unit,
      h("section", { "aria-label": "Curve" }, curves.element, this.curveChart, this.curveNote), this.figures.element, this.events, this.facts);
    this.chart.hidden = true;
    new ResizeObserver(() => this.draw()).observe(this.element);
    this.read(null);
  }

  fill(runs: Run[]): void {
    this.runs = runs;
    this.figures.fill(runs[0]);
    const run = runs[0], count = (t: Tensor) => t.pieces[t.pieces.length - 1].shape.reduce((a, b) => a * b, 1);
    const weights = run.tensors.reduce((n, t) => n + count(t), 0);
    this.facts.textContent = [`${grouped(run.frames)} frames`, `${grouped(weights)} values each`,
      `${bytes(run.nbytes)} raw, ${bytes(run.storedNbytes)} stored`, run.exact ? "bit-exact" : `tolerance ${run.tolerance ?? "set"}`].join("  ·  ");
    const items = [...run.events.map(([step, text]) => ({ step, text })),
      ...run.gaps.map(([a, b, why]) => ({ step: a, text: `steps ${a} to ${b} not recorded: ${why}` }))];
    this.events.hidden = items.length === 0;
    this.events.replaceChildren(h("h2", {}, "Events"), h("ul", { class: "jumps" }, ...items.slice(0, 200).map(({ step, text }) =>
      h("li", {}, h("button", { click: () => this.onStep(step) }, h("b", {}, `step ${step}`), ` ${text}`)))));
  }

  // -- the value under the pointer ----------------------------------------------------------------------------------------

  read(reading: Reading | null): void {
    const data = this.value.dataset;
    if (!reading) {
      if (data.value === undefined) {
        this.big.textContent = "–";
        this.where.textContent = "Point at a cell to read its value.";
      }
      return;
    }
    const text = shortest(reading.value, reading.dtype);
    data.tensor = reading.tensor;
    data.index = reading.index.join(",");
    data.step = String(reading.step);
    data.frame = String(reading.frame);
    data.value = text;
    data.bound = String(reading.bound);
    this.big.textContent = text;
    this.where.replaceChildren(h("b", {}, `${reading.tensor}[${reading.index.join(", ")}]`), ` at step ${reading.step}`,
      this.runs.length > 1 ? ` of ${this.runs[reading.run]?.name ?? "the other run"}` : "");
    this.more.textContent = [reading.difference === null ? "" : `difference ${brief(reading.difference)}`,
      reading.bound > 0 ? `± ${brief(reading.bound)}` : "",
      ...reading.others.map(({ title, value }) => `${title} ${brief(value)}`)].filter(Boolean).join("  ·  ");
  }

  // -- trajectories -------------------------------------------------------------------------------------------------------

  /** Chooses a weight, or no longer. The view holds the chosen ones, so they are in the link. */
  pin(run: number, tensor: Tensor, row: number, col: number, frame: number): void {
    const piece = pieceAt(tensor, frame), index = piece && ownIndex(piece, row, col);
    if (!index) return;
    const key = pinKey(run, tensor.name, index), { pins } = this.store.view;
    this.store.set({ pins: pins.includes(key) ? pins.filter((p) => p !== key) : [...pins, key] });
  }

  /** Draws the weights that the view has chosen, and no others. */
  async sync(): Promise<void> {
    const { pins, frame } = this.store.view;
    this.pins = this.pins.filter((p) => pins.includes(pinKey(p.run, p.tensor, p.index)));
    const loading: Promise<void>[] = [], lost: string[] = [];
    for (const key of pins) {
      if (this.pins.some((p) => pinKey(p.run, p.tensor, p.index) === key)) continue;
      const [number, ...words] = key.split("|"), run = Number(number), places = words.pop()!, name = words.join("|");
      const index = places ? places.split(",").map(Number) : [], tensor = this.runs[run]?.tensors.find((t) => t.name === name);
      const holds = (piece: Piece | undefined) => piece !== undefined && piece.shape.length === index.length
        && index.every((i, axis) => i % (piece.every?.[axis] ?? 1) === 0 && i / (piece.every?.[axis] ?? 1) < piece.shape[axis]);
      const piece = tensor && [pieceAt(tensor, Math.min(frame, this.runs[run].frames - 1)), ...[...tensor.pieces].reverse()].find(holds);
      if (!tensor || !piece) { lost.push(`${name}[${places}]`); continue; }
      const [row, col] = cellOf(piece, index.map((i, axis) => i / (piece.every?.[axis] ?? 1)));
      const pin: Pin = { run, tensor: name, row, col, index, hue: this.freeHue(), frames: [], values: [] };
      this.pins.push(pin);
      loading.push(this.load(pin, tensor, piece.start, piece.stop));
    }
    this.showPins();
    await Promise.all(loading);
    if (lost.length) throw new ViewerError(`Not in this recording: ${lost.join("; ")}.`);
  }

  private freeHue(): number {
    const used = [...this.pins, ...this.averages];
    for (let i = 0; ; i++) if (!used.some((p) => p.hue === i)) return i;
  }

  /** Draws the average of one row or column beside the chosen weights. */
  private async average(tensor: string, kind: string, label: string): Promise<void> {
    if (this.averages.some((a) => a.tensor === tensor && a.kind === kind)) return;
    const average: Average = { tensor, kind, label, hue: this.freeHue(), frames: [], values: [] };
    this.averages.push(average);
    this.showPins();
    const answer = await this.archive.curve(0, tensor, kind);
    Object.assign(average, { frames: answer.frames, values: answer.values });
    this.draw();
  }

  private async load(pin: Pin, tensor: Tensor, start: number, stop: number): Promise<void> {
    const { rows, cols } = planeSize(pieceAt(tensor, start)!);
    if (pin.row >= rows || pin.col >= cols) return;
    const series = await this.archive.series(pin.run, pin.tensor, [[pin.row, pin.col]], [start, stop], 1);
    pin.frames = Array.from({ length: series.count }, (_, i) => series.start + i);
    pin.values = Array.from(series.values as ArrayLike<number>, Number);
    this.draw();
  }

  /** Chosen weights follow a run that is still being written. */
  async follow(): Promise<void> {
    for (const pin of this.pins) {
      const tensor = this.runs[pin.run]?.tensors.find((t) => t.name === pin.tensor);
      const piece = tensor && pieceAt(tensor, pin.frames[0] ?? 0);
      if (tensor && piece) await this.load(pin, tensor, piece.start, piece.stop);
    }
    await this.loadCurve();
  }

  private showPins(): void {
    this.stage.marks = this.pins.map((p) => ({ run: p.run, tensor: p.tensor, row: p.row, col: p.col, colour: hue(p.hue) }));
    this.stage.redraw();
    const some = this.pins.length + this.averages.length > 0;
    this.hint.hidden = some;
    this.chart.hidden = !some;
    const entry = (label: string, colour: string, remove: () => void, attributes: Record<string, string>) => h("li", attributes, chip(colour),
      h("span", { title: label }, label), h("button", { title: "Remove", "aria-label": `Remove ${label}`, click: () => { remove(); this.showPins(); } }, "×"));
    const items = this.pins.map((p) => entry(`${p.tensor}[${p.index.join(", ")}]${p.run ? ` · ${this.runs[p.run]?.name ?? p.run}` : ""}`, hue(p.hue),
      () => { this.store.set({ pins: this.store.view.pins.filter((q) => q !== pinKey(p.run, p.tensor, p.index)) }); }, { "data-testid": "pin", "data-tensor": p.tensor, "data-index": p.index.join(",") }));
    for (const a of this.averages) items.push(entry(a.label, hue(a.hue), () => { this.averages = this.averages.filter((q) => q !== a); }, { "data-testid": "average" }));
    if (this.pins.length > 1) items.push(h("li", {}, chip(css("--ink")), h("span", {}, "average of the chosen weights")));
    const last = this.pins[this.pins.length - 1];
    this.pinMore.replaceChildren();
    if (last && last.run === 0) {
      const offer = (kind: string, what: string) => h("button", { class: "offer", click: () => void this.average(last.tensor, kind, `average of ${what} of ${last.tensor}`) },
        `+ average of ${what}`);
      this.pinMore.append(offer(`row:${last.row}`, `row ${last.row}`), offer(`col:${last.col}`, `column ${last.col}`));
    }
    this.pinList.replaceChildren(...items);
    this.draw();
  }

  /** The mean of all chosen weights, where there are several over the same frames. */
  private meanOfPins(): Line[] {
    const [first, ...rest] = this.pins.filter((p) => p.values.length);
    if (!first || !rest.length || rest.some((p) => p.frames.length !== first.frames.length)) return [];
    const mean = first.values.map((v, i) => rest.reduce((sum, p) => sum + p.values[i], v) / (rest.length + 1));
    return [{ x: first.frames, y: mean, colour: css("--ink"), width: 2.5 }];
  }

  /** The values behind the trajectories, for whoever wants to read them. */
  trajectories(): { run: number; tensor: string; index: number[]; frames: number[]; values: number[] }[] {
    return this.pins.map(({ run, tensor, index, frames, values }) => ({ run, tensor, index, frames, values }));
  }

  /** Every line that is drawn: chosen weights, averages, the curve. */
  lines(): { label: string; frames: ArrayLike<number>; values: ArrayLike<number | null> }[] {
    const curve = this.curveLine ? [{ label: `${this.store.view.curve} of ${this.store.view.tensor}`, frames: this.curveLine.x, values: this.curveLine.y }] : [];
    return [...this.pins.map((p) => ({ label: `${p.run ? `${this.runs[p.run]?.name}: ` : ""}${p.tensor}[${p.index.join(", ")}]`, frames: p.frames, values: p.values })),
      ...this.averages.map((a) => ({ label: a.label, frames: a.frames, values: a.values })), ...curve];
  }

  // -- curves -------------------------------------------------------------------------------------------------------------

  async loadCurve(): Promise<void> {
    const { tensor, curve } = this.store.view;
    this.curveSelect.value = curve;
    try {
      const answer = await this.archive.curve(0, tensor, curve);
      if (this.store.view.tensor !== tensor || this.store.view.curve !== curve) return;
      this.curveLine = { x: answer.frames, y: answer.values, colour: css("--accent"), width: 1.75 };
      this.curveNote.textContent = answer.sampled ? `Estimated from ${grouped(answer.sampled[0])} of ${grouped(answer.sampled[1])} values.` : "";
    } catch (error) {
      this.curveLine = null;
      this.curveNote.textContent = (error as Error).message;
    }
    this.draw();
  }

  // -- units --------------------------------------------------------------------------------------------------------------

  showUnit(units: { group: string; unit: number; what: string }[]): void {
    this.unit.hidden = units.length === 0;
    this.redraws = [];
    const body = h("div", {});
    const buttons = units.map(({ group, unit, what }) => h("button", { class: "unit", "data-testid": "unit", "data-group": group, "data-unit": unit,
      click: () => void this.loadUnit(body, group, unit) }, h("b", {}, `${group} · unit ${unit}`), ` ${what}`));
    this.unit.replaceChildren(h("h2", {}, "Unit"), ...buttons, body);
  }

  private async loadUnit(body: HTMLElement, group: string, unit: number): Promise<void> {
    try {
      const neuron = await this.archive.neuron(0, group, unit);
      this.redraws = [];
      body.replaceChildren(...neuron.parts.flatMap(({ label, frames, lines }) => {
        const canvas = h("canvas", { class: "chart", role: "img", "aria-label": `${label} weights of unit ${unit} of ${group} over time` });
        const shown = lines.slice(0, 400);
        const alpha = shown.length > 60 ? 0.18 : shown.length > 16 ? 0.4 : 0.9;
        this.redraws.push(() => drawChart(canvas, { axis: true, place: this.place(), pad: { left: 54, right: 4, top: 6, bottom: 6 },
          lines: shown.map((y, i) => ({ x: frames, y, colour: faded(hue(i), alpha), width: 1.1 })) }));
        return [h("h3", {}, `${label} · ${lines.length}${lines.length > shown.length ? ` (first ${shown.length} drawn)` : ""}`), canvas];
      }));
    } catch (error) { body.replaceChildren(h("p", { class: "hint" }, (error as Error).message)); }
    this.draw();
  }

  // -- two runs -----------------------------------------------------------------------------------------------------------

  /** Distance of the second run from the first, as it is and in the first one's order of units. */
  showPair(pair: Pair): void { this.steady(() => this.tellPair(pair)); }

  private tellPair(pair: Pair): void {
    this.pair = pair;
    this.apart.hidden = false;
    const canvas = h("canvas", { class: "chart", role: "img", "aria-label": "Relative distance of the two runs over time, raw and aligned" });
    const last = (y: (number | null)[] | null) => brief(y?.[y.length - 1]);
    const key = (colour: string, text: string) => h("li", {}, chip(colour), h("span", {}, text));
    this.apart.replaceChildren(h("h2", {}, "Distance of the two runs"), canvas,
      h("ul", { class: "pins" }, key(hue(1), `as recorded, at the end ${last(pair.raw)}`),
        ...(pair.aligned ? [key(hue(0), `units ${pair.parting ? "followed" : "aligned"}, at the end ${last(pair.aligned)}`)] : [])),
      ...(pair.parting ? [h("p", { class: "hint" }, partingOf(pair.parting))] : []),
      ...(pair.reason ? [h("p", { class: "hint" }, `Not aligned: ${pair.reason}`)] : []));
    this.drawApart = () => drawChart(canvas, { axis: true, place: this.place(), pad: { left: 54, right: 4, top: 6, bottom: 6 }, lines: [
      { x: pair.frames, y: pair.raw, colour: hue(1), width: 1.75 }, ...(pair.aligned ? [{ x: pair.frames, y: pair.aligned, colour: hue(0), width: 1.75 }] : [])] });
    this.draw();
  }

  // -- findings -----------------------------------------------------------------------------------------------------------

  offerFindings(nbytes: number, ask: () => void): void {
    this.findings.hidden = false;
    const button = h("button", { class: "unit", click: () => { button.disabled = true; button.textContent = "Looking …"; ask(); } },
      `Look for dead, saturated, exploding units (reads ${bytes(nbytes)})`);
    this.findings.replaceChildren(h("h2", {}, "Findings"), button);
  }

  /** While they are looked for their place is held. */
  awaitFindings(): void {
    this.findings.hidden = false;
    this.findings.replaceChildren(h("h2", {}, "Findings"), h("p", { class: "hint" }, "Looking …"));
  }

  /** What comes late does not push away what the pointer is on: the page is scrolled along. */
  private steady(change: () => void): void {
    const under = [...this.element.children].find((c) => c.matches(":hover")), before = under?.getBoundingClientRect().top ?? 0;
    change();
    for (const scroller of [this.element, document.scrollingElement]) {
      if (under && scroller) scroller.scrollTop += under.getBoundingClientRect().top - before;
    }
  }

  showFindings(findings: Finding[], reason: string | null): void { this.steady(() => this.listFindings(findings, reason)); }

  private listFindings(findings: Finding[], reason: string | null): void {
    this.findings.hidden = false;
    const list = findings.slice(0, 100).map((f) => h("li", {}, h("button", { "data-testid": "finding", class: `finding is-${f.severity}`,
      click: () => this.onJump(f) }, h("b", {}, f.kind.replace(/_/g, " ")), f.tensor ? ` ${f.tensor}` : "", f.step === null ? "" : ` · step ${f.step}`,
    h("span", { class: "why" }, f.text))));
    this.findings.replaceChildren(h("h2", {}, "Findings"), list.length ? h("ul", { class: "jumps" }, ...list)
      : h("p", { class: "hint" }, reason ?? "The doctor finds nothing wrong."));
  }

  /** The theme has changed: lines and their keys take its colours. */
  recolour(): void {
    if (this.pair) this.showPair(this.pair);
    this.showPins();
  }

  // -- drawing ------------------------------------------------------------------------------------------------------------

  private place(): (frame: number) => number {
    const steps = this.runs[0]?.steps ?? [0, 1], scale = this.store.view.time, [a, b] = windowOf(this.store.view, steps.length);
    const at = (f: number) => fractionOfFrame(steps, Math.min(f, steps.length - 1), scale), first = at(a), wide = at(b) - first || 1;
    return (f) => (at(f) - first) / wide;
  }

  draw(): void {
    if (!this.runs.length) return;
    const place = this.place(), pad = { left: 54, right: 4, top: 6, bottom: 6 }, frame = this.store.view.frame;
    const playhead = (canvas: HTMLCanvasElement) => {
      const g = canvas.getContext("2d")!, w = canvas.clientWidth, hh = canvas.clientHeight;
      const x = pad.left + place(frame) * (w - pad.left - pad.right);
      if (x < pad.left - 1 || x > w) return;
      g.strokeStyle = css("--focus");
      g.globalAlpha = 0.55;
      g.lineWidth = 1;
      g.beginPath(); g.moveTo(x, 0); g.lineTo(x, hh); g.stroke();
      g.globalAlpha = 1;
    };
    if (this.pins.length || this.averages.length) {
      const dash = (i: number) => (i >= HUES ? [5, 3] : []);
      const lines: Line[] = [...this.pins.map((p) => ({ x: p.frames, y: p.values, colour: hue(p.hue), dash: dash(p.hue) })),
        ...this.averages.map((a) => ({ x: a.frames, y: a.values, colour: hue(a.hue), dash: dash(a.hue), width: 2.25 })), ...this.meanOfPins()];
      drawChart(this.chart, { axis: true, place, pad, lines });
      playhead(this.chart);
    }
    drawChart(this.curveChart, { axis: true, place, pad, lines: this.curveLine ? [this.curveLine] : [] });
    playhead(this.curveChart);
    this.drawApart();
    this.figures.draw();
    for (const redraw of this.redraws) redraw();
  }
}

function pinKey(run: number, tensor: string, index: number[]): string { return `${run}|${tensor}|${index.join(",")}`; }

function chip(colour: string): HTMLElement {
  const element = h("i", { class: "chip" });
  element.style.background = colour;
  return element;
}

function faded(hex: string, alpha: number): string {
  return hex + Math.round(alpha * 255).toString(16).padStart(2, "0");
}

/** Until when the units of two followed runs are each other's nearest, in words. */
function partingOf(parting: Record<string, number | null>): string {
  const entries = Object.entries(parting), apart = entries.filter(([, step]) => step !== null).map(([name, step]) => `${name} from step ${grouped(step!)} on`);
  if (!apart.length) return "Followed: most units of every layer have their partner to the end.";
  return `Followed: most units have no partner any more in ${apart.slice(0, 6).join(", ")}${apart.length > 6 ? ` and ${apart.length - 6} more` : ""}${apart.length < entries.length ? "; in the others most have, to the end" : ""}.`;
}

// The stage: panels under one camera, what the pointer means, and the fixed points that scripts and screen readers use.

import type { Archive, Look, Span } from "./archive";
import { canvasPainter } from "./gl/canvas";
import type { Item, Painter } from "./gl/painter";
import { webglPainter } from "./gl/webgl";
import { focused, h } from "./dom";
import { drawOverlay } from "./overlay";
import { Panel, type Source } from "./panel";
import { blank, layoutOf } from "./picture/layout";
import { GROUNDS, rgb } from "./picture/palette";
import { codeOf, lookup, type Theme } from "./scene/colour";
import { byLayer, layerOf, sideBySide, type Camera } from "./scene/layout";
import { display, finest, visible } from "./scene/reduce";
import { pieceAt } from "./source";
import type { Store } from "./state";
import { shares, warped } from "./warp";

export interface Place { panel: Panel; row: number; col: number }
export interface CellBox { x: number; y: number; dx: number; dy: number }

const MARGIN = 28; // room for the numbers along a picture
const SHARES = 60_000; // cells that percentiles of colour are made from

export function orderKey(panel: Panel, frame: number): string {
  return `${panel.source.tensor.name}@${pieceAt(panel.source.tensor, panel.source.frameOf(frame))?.start ?? -1}`;
}

export class Stage {
  readonly element: HTMLDivElement;
  readonly canvas: HTMLCanvasElement;
  readonly painter: Painter;
  panels: Panel[] = [];
  hover: Place | null = null;
  cursor: Place | null = null; // the keyboard's cell
  marks: { run: number; tensor: string; row: number; col: number; colour: string }[] = [];
  framed: { tensor: string; rows: number[] } | null = null; // rows that a finding speaks of
  orders = new Map<string, { rows: number[]; cols: number[] }>();
  globalLimit = 1;
  last: Place | null = null; // where the pointer was when it left: its value is still read
  onPlace: () => void = () => undefined;
  onPick: (place: Place) => void = () => undefined;
  onDrawn: (frame: number) => void = () => undefined;
  onProblem: (text: string | null) => void = () => undefined;
  private overlay: HTMLCanvasElement;
  private camera: Camera = { k: 1, x: 0, y: 0 };
  private table: Uint8Array;
  theme: Theme = "light";
  private pending = 0;
  private settle = 0;
  private pointers = new Map<number, { x: number; y: number }>();
  private moved = 0;
  playing = false;
  waiting = true; // for the scales of new panels: a picture made without them would be made twice

  constructor(private store: Store, private archive: Archive) {
    this.canvas = h("canvas", { "data-testid": "heatmap", tabindex: 0, role: "img", "aria-label": "Heat map of the chosen tensor" });
    this.overlay = h("canvas", { class: "overlay", "aria-hidden": "true" });
    this.element = h("div", { class: "stage" }, this.canvas, this.overlay);
    this.painter = webglPainter(this.canvas) ?? canvasPainter(this.canvas);
    this.canvas.dataset.painter = this.painter.kind;
    this.table = lookup(this.theme);
    this.listen();
    new ResizeObserver(() => this.resized()).observe(this.element);
  }

  setTheme(theme: Theme): void {
    this.theme = theme;
    this.retable();
  }

  /** The colours of the codes, stretched as the view asks. The shares of the percentiles are those of the first exact picture: colours stay the same over time. */
  retable(forget = false): void {
    if (forget) this.ranks = null;
    const { colour } = this.store.view, [panel] = this.panels, values = panel?.plane?.values, drawn = panel?.drawn;
    if (colour === "percentile" && !this.ranks && values && drawn?.exact) {
      const stride = Math.max(1, Math.floor(values.length / SHARES)), codes = new Uint8Array(Math.ceil(values.length / stride));
      for (let i = 0; i < codes.length; i++) codes[i] = codeOf(Number(values[i * stride]), drawn.limit);
      this.ranks = shares(codes);
    }
    this.table = warped(lookup(this.theme), colour, this.ranks);
    this.redraw();
  }

  get colours(): Uint8Array { return this.table; }
  private ranks: Float64Array | null = null;

  // -- panels that take turns ---------------------------------------------------------------------------------------------

  private turn = 0;
  private blinks = 0;

  get blinking(): boolean { return this.store.view.show === "pair" && this.store.view.compare === "blink" && this.panels.length > 1; }

  /** The panels that are on the screen: all, or the one whose turn it is. */
  get visible(): Panel[] { return this.blinking ? [this.panels[this.turn % this.panels.length]] : this.panels; }

  private blink(): void {
    clearInterval(this.blinks);
    this.turn = 0;
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (this.blinking) this.blinks = window.setInterval(() => { this.turn++; this.redraw(); }, calm ? 2500 : 800);
  }

  setPanels(sources: Source[]): void {
    for (const panel of this.panels) panel.dispose();
    this.hover = this.cursor = this.last = null;
    this.panels = sources.map((s) => new Panel(s, this.archive, this.painter));
    this.blink();
    this.retable(true);
    this.measure();
    this.arrange();
    this.readCamera();
  }

  lookOf(panel: Panel): Look {
    return { ref: panel.source.ref || this.store.view.diff, order: this.store.view.order, mode: this.store.view.cells, limit: this.limitOf(panel) };
  }

  limitOf(panel: Panel): number | null {
    const { scale, diff, show } = this.store.view;
    if (scale === "step") return null;
    if (show === "pair") return Math.max(...this.panels.map((p) => p.limit));
    if (diff === "prev") return panel.stirred;
    if (diff) return panel.moved;
    return scale === "global" ? this.globalLimit : scale === "layer" ? panel.layerLimit : panel.limit;
  }

  // -- places -----------------------------------------------------------------------------------------------------------

  private wide = 40;
  private high = 40; // of the stage; to ask the page for them at every frame would cost a layout of it each time

  private measure(): void { ({ clientWidth: this.wide, clientHeight: this.high } = this.element); }

  private resized(): void {
    this.measure();
    const ratio = devicePixelRatio || 1, w = this.wide, hh = this.high;
    this.overlaid = "";
    for (const c of [this.canvas, this.overlay]) { c.width = Math.max(1, Math.round(w * ratio)); c.height = Math.max(1, Math.round(hh * ratio)); }
    this.arrange();
    this.refresh();
    this.redraw();
  }

  /** Puts the panels in their places; called when their sizes, their number or the window change. */
  arrange(): void {
    const w = Math.max(40, this.wide - 2 * MARGIN), hh = Math.max(40, this.high - 2 * MARGIN);
    const frame = this.store.view.frame;
    const sizes = this.panels.map((p) => ({ ...p.size(frame), layer: `${p.source.run}:${layerOf(p.source.tensor.name)}`, ...this.stripOf(p) }));
    const many = this.store.view.show === "all";
    const rects = many ? byLayer(sizes, w, hh) : sideBySide(sizes, w, hh, sizes.length > 1);
    if (this.blinking) rects.fill(sideBySide(sizes.slice(0, 1), w, hh, true)[0]);
    rects.forEach((r, i) => { this.panels[i].rect = { ...r, x: r.x + MARGIN, y: r.y + MARGIN }; });
  }

  /** Beside which panel this one is a strip. */
  private stripOf(panel: Panel): { of?: number; along?: boolean } {
    const { run, tensor: { name, strip } } = panel.source, of = strip ? this.panels.findIndex((p) => p.source.run === run && p.source.tensor.name === strip[0]) : -1;
    return strip && of >= 0 && layerOf(strip[0]) === layerOf(name) ? { of, along: strip[1] === "below" } : {};
  }

  boxOf(panel: Panel, frame: number): CellBox {
    const { rows, cols } = panel.size(frame), { k, x, y } = this.camera, r = panel.rect;
    return { x: r.x * k + x, y: r.y * k + y, dx: (r.w * k) / Math.max(1, cols), dy: (r.h * k) / Math.max(1, rows) };
  }

  placeAt(x: number, y: number): Place | null {
    const frame = this.store.view.frame;
    for (const panel of this.visible) {
      const b = this.boxOf(panel, frame), { rows, cols } = panel.size(frame);
      const col = Math.floor((x - b.x) / b.dx), row = Math.floor((y - b.y) / b.dy);
      const piece = row >= 0 && row < rows && col >= 0 && col < cols && panel.pieceAt(frame);
      if (piece && !blank(layoutOf(piece), row, col)) return { panel, row, col };
    }
    return null;
  }

  /** The tensor's own row and column of a drawn cell (they differ when units are sorted). */
  own(place: Place): [number, number] {
    const order = this.orderOf(place.panel);
    return order ? [order.rows[place.row] ?? place.row, order.cols[place.col] ?? place.col] : [place.row, place.col];
  }

  /** Rows and columns are put in an order per shape of the tensor. */
  orderOf(panel: Panel): { rows: number[]; cols: number[] } | undefined {
    return this.store.view.order ? this.orders.get(orderKey(panel, this.store.view.frame)) : undefined;
  }

  // -- camera -----------------------------------------------------------------------------------------------------------

  private readCamera(): void {
    const parts = this.store.view.zoom.split(",").map(Number);
    this.camera = parts.length === 3 && parts.every(Number.isFinite) && parts[0] > 0 ? { k: parts[0], x: parts[1], y: parts[2] } : { k: 1, x: 0, y: 0 };
  }

  whole(): void { this.moveCamera({ k: 1, x: 0, y: 0 }); }

  zoomBy(factor: number, x = this.element.clientWidth / 2, y = this.element.clientHeight / 2): void {
    const biggest = Math.max(8, ...this.panels.map((p) => { const { rows, cols } = p.size(this.store.view.frame);
      return 80 / Math.min(p.rect.w / cols, p.rect.h / rows); }));
    const k = Math.min(Math.max(this.camera.k * factor, 0.5), biggest);
    const f = k / this.camera.k;
    this.moveCamera(k <= 1.001 && factor < 1 ? { k: 1, x: 0, y: 0 } : { k, x: x - (x - this.camera.x) * f, y: y - (y - this.camera.y) * f });
  }

  private moveCamera(camera: Camera): void {
    this.camera = camera;
    const whole = camera.k === 1 && camera.x === 0 && camera.y === 0;
    const short = (v: number) => String(Number(v.toPrecision(6)));
    this.store.set({ zoom: whole ? "" : [camera.k, camera.x, camera.y].map(short).join(",") });
    this.redraw();
    clearTimeout(this.settle);
    this.settle = window.setTimeout(() => this.refresh(), 60);
  }

  // -- pictures ---------------------------------------------------------------------------------------------------------

  private region(panel: Panel, frame: number, playing: boolean): { span: Span; f: [number, number] } | null {
    const { rows, cols } = panel.size(frame), box = this.boxOf(panel, frame), ratio = devicePixelRatio || 1;
    const pick = playing ? display : finest;
    const f: [number, number] = [pick(box.dy * ratio), pick(box.dx * ratio)];
    if (!playing && f[0] <= 4 && f[1] <= 4 && rows * cols <= 4e6) f[0] = f[1] = 1; // the shader reduces small factors itself
    const span = visible(rows, cols, box, this.wide, this.high, f);
    return span && { span, f };
  }

  /** Whether some cells are smaller than a pixel of the screen. */
  get reduced(): boolean {
    const ratio = devicePixelRatio || 1;
    return this.panels.some((p) => { const b = this.boxOf(p, this.store.view.frame); return Math.min(b.dx, b.dy) * ratio < 0.99; });
  }

  /** Fetches what is on the screen for the current frame, exactly; in eight bits while a hand is scrubbing. */
  refresh(hurry = false): void {
    if (this.playing || this.waiting) return;
    const { frame } = this.store.view;
    for (const panel of this.panels) {
      const there = panel.shapeAt(frame), want = there && this.region(panel, frame, false), coarse = there && this.region(panel, frame, true);
      if (!want || !coarse) { panel.rest(); this.redraw(); continue; }
      panel.show({ ...want, coarse, frame, look: this.lookOf(panel), hurry,
        changed: () => this.redraw(), failed: (text) => this.onProblem(text) });
    }
  }

  private about(panel: Panel, want: { span: Span; f: [number, number] }): string {
    return JSON.stringify([want, this.lookOf(panel)]);
  }

  /** While playing: whether `frame` can be drawn now; asks for it and for what follows. */
  ready(frame: number, ask: { count: number; step: number } | null): boolean {
    let all = true;
    for (const panel of this.panels) {
      const want = panel.shapeAt(frame) && this.region(panel, frame, true);
      if (!want) continue;
      const about = this.about(panel, want);
      if (!panel.has(frame, about)) all = false;
      if (ask) panel.prefetch(frame, ask.count, ask.step, want.span, want.f, this.lookOf(panel),
        about, () => undefined);
      if (panel.error) this.onProblem(panel.error);
    }
    return all;
  }

  playFrame(frame: number): void {
    for (const panel of this.panels) {
      const want = this.region(panel, frame, true);
      if (want) panel.play(frame, this.about(panel, want));
    }
    this.draw();
  }

  rest(): void { for (const panel of this.panels) panel.rest(); }

  // -- drawing ----------------------------------------------------------------------------------------------------------

  redraw(): void {
    if (!this.pending) this.pending = requestAnimationFrame(() => this.draw());
  }

  private draw(): void {
    cancelAnimationFrame(this.pending);
    this.pending = 0;
    const ratio = devicePixelRatio || 1, frame = this.store.view.frame;
    const items: Item[] = [];
    if (this.store.view.colour === "percentile" && !this.ranks && this.panels[0]?.drawn?.exact) this.retable();
    for (const panel of this.visible) {
      const drawn = panel.drawn;
      if (!drawn || !panel.shapeAt(frame)) continue;
      const b = this.boxOf(panel, drawn.frame), { span, f, texture } = drawn;
      items.push({
        texture, rows: texture.height, cols: texture.width, limit: drawn.limit, mode: this.store.view.cells,
        x: (b.x + span.c[0] * b.dx) * ratio, y: (b.y + span.r[0] * b.dy) * ratio,
        w: texture.width * f[1] * b.dx * ratio, // a last, partial tile hangs over by less than itself
        h: texture.height * f[0] * b.dy * ratio,
      });
    }
    this.painter.draw(items, this.table, rgb(GROUNDS[this.theme]));
    const over = this.overlayState(frame);
    if (over !== this.overlaid) { this.overlaid = over; drawOverlay(this.overlay, this, frame); this.publishPanels(frame); } // while playing it mostly stays as it is
    this.publish();
  }

  private overlaid = "";
  private overlayState(frame: number): string {
    const at = this.cursor ?? this.hover;
    return JSON.stringify([this.blinking && this.turn, this.camera, this.theme, this.overlay.width, this.overlay.height, this.marks, this.framed, this.store.view.order,
      [...this.orders.keys()], at && [this.panels.indexOf(at.panel), at.row, at.col],
      this.panels.map((p) => [p.rect, p.size(frame), p.shapeAt(frame) !== null, p.source.title])]);
  }

  /** Where each picture stands: name, left, top, width, height in CSS pixels of the canvas. */
  private publishPanels(frame: number): void {
    this.canvas.dataset.panels = JSON.stringify(this.visible.slice(0, 64).map((p) => {
      const b = this.boxOf(p, frame), { rows, cols } = p.size(frame);
      return [p.source.title, ...[b.x, b.y, b.dx * cols, b.dy * rows].map((v) => Math.round(v * 100) / 100)];
    }));
  }

  /** The attributes that say what is drawn now. */
  private publish(): void {
    const first = this.panels[0], wanted = this.store.view.frame;
    if (!first) return;
    const there = first.shapeAt(wanted) !== null;
    if (there && !first.drawn) return; // nothing has come yet
    const frame = there ? first.drawn!.frame : wanted, { rows, cols } = first.size(frame), b = this.boxOf(first, frame);
    const data = this.canvas.dataset;
    data.tensor = first.source.tensor.name;
    data.frame = String(frame);
    data.rows = String(rows);
    data.cols = String(cols);
    this.canvas.setAttribute("aria-label", `Heat map of ${data.tensor}, ${rows} rows and ${cols} columns`);
    data.cells = [b.x, b.y, b.dx, b.dy].join(" ");
    data.exact = !there || first.drawn!.exact ? "1" : "0";
    this.onDrawn(frame);
  }

  // -- pointer and keyboard ---------------------------------------------------------------------------------------------

  private listen(): void {
    const c = this.canvas;
    const at = (e: MouseEvent) => { const box = c.getBoundingClientRect(); return { x: e.clientX - box.left, y: e.clientY - box.top }; };
    c.addEventListener("mousedown", (e) => e.preventDefault()); // the arrow keys stay with the timeline
    c.addEventListener("pointerdown", (e) => {
      (focused(this.element) as HTMLElement | null)?.blur?.();
      this.pointers.set(e.pointerId, at(e));
      this.moved = 0;
      c.setPointerCapture(e.pointerId);
    });
    c.addEventListener("pointermove", (e) => {
      const now = at(e), before = this.pointers.get(e.pointerId);
      if (before) this.drag(e.pointerId, before, now);
      this.point(this.placeAt(now.x, now.y));
    });
    const up = (e: PointerEvent) => {
      const clicked = this.pointers.size === 1 && this.moved < 5 && e.type === "pointerup";
      this.pointers.delete(e.pointerId);
      c.classList.remove("dragging");
      const now = at(e), place = this.placeAt(now.x, now.y);
      if (clicked && place) { this.point(place); this.onPick(place); }
    };
    c.addEventListener("pointerup", up);
    c.addEventListener("pointercancel", up);
    c.addEventListener("pointerleave", () => { if (!this.pointers.size) this.point(null); });
    c.addEventListener("dblclick", () => this.whole());
    c.addEventListener("wheel", (e) => {
      e.preventDefault();
      const p = at(e);
      this.zoomBy(Math.exp(-e.deltaY * (e.deltaMode === 1 ? 0.05 : 0.0018)), p.x, p.y);
    }, { passive: false });
    c.addEventListener("keydown", (e) => this.key(e));
    c.addEventListener("blur", () => { this.cursor = null; this.redraw(); });
  }

  private point(place: Place | null): void {
    const same = !place === !this.hover && place?.panel === this.hover?.panel && place?.row === this.hover?.row && place?.col === this.hover?.col;
    if (same) return;
    this.hover = place;
    this.last = place ?? this.last;
    this.redraw();
    if (place) this.onPlace();
  }

  private drag(id: number, before: { x: number; y: number }, now: { x: number; y: number }): void {
    this.moved += Math.abs(now.x - before.x) + Math.abs(now.y - before.y);
    if (this.pointers.size === 2) {
      const other = [...this.pointers].find(([k]) => k !== id)![1];
      const span = (p: { x: number; y: number }) => Math.hypot(p.x - other.x, p.y - other.y);
      this.zoomBy(span(now) / Math.max(1, span(before)), (now.x + other.x) / 2, (now.y + other.y) / 2);
    } else if (this.moved >= 5) {
      this.canvas.classList.add("dragging");
      this.moveCamera({ ...this.camera, x: this.camera.x + now.x - before.x, y: this.camera.y + now.y - before.y });
    }
    this.pointers.set(id, now);
  }

  /** With the keyboard on the picture the arrows move a cell, Enter picks it, + and - zoom, 0 shows all. */
  private key(e: KeyboardEvent): void {
    const step: Record<string, [number, number]> = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (step[e.key] && this.panels[0]) {
      const at = this.cursor ?? { panel: this.panels[0], row: 0, col: -1 };
      const { rows, cols } = at.panel.size(this.store.view.frame), jump = e.shiftKey ? 10 : 1;
      const clamp = (v: number, n: number) => Math.min(n - 1, Math.max(0, v));
      this.cursor = { ...at, row: clamp(at.row + step[e.key][0] * jump, rows), col: clamp(at.col + step[e.key][1] * jump, cols) };
      this.hover = this.last = this.cursor;
      this.redraw();
      this.onPlace();
    } else if (e.key === "Enter" && this.cursor) this.onPick(this.cursor);
    else if (e.key === "+" || e.key === "=") this.zoomBy(1.5);
    else if (e.key === "-") this.zoomBy(1 / 1.5);
    else if (e.key === "0") this.whole();
    else return;
    e.preventDefault();
    e.stopPropagation();
  }
}

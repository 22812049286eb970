// The page: one view, one stage, one clock; the parts know each other only through what is wired up here.

import { resolve } from "./address";
import { Archive, type Finding, type Pair } from "./archive";
import { h, noLongerStyledBy, styledBy, themeChanged } from "./dom";
import { Follower } from "./live";
import type { Source as PanelSource } from "./panel";
import { Player } from "./player";
import { Probe } from "./probe";
import { layoutOf } from "./picture/layout";
import { linesTable, pythonOf, valuesTable } from "./quote";
import { cellOf, ownIndex, planeSize } from "./scene/plane";
import type { Theme } from "./scene/colour";
import { layerOf } from "./scene/layout";
import { nearestFrame } from "./scene/time";
import { comparedSources, sourcesOf, type Moved } from "./sets";
import { pieceAt, ViewerError, type Manifest, type Run, type Source, type Tensor } from "./source";
import { orderKey, Stage, type Place } from "./stage";
import { Store, writeAddress, type View } from "./state";
import { Surveyor } from "./surveyor";
import { rememberedTheme, rememberTheme } from "./theme";
import { Inspector } from "./ui/inspector";
import { Legend } from "./ui/legend";
import { Film, pictureOf, safe, savePicture } from "./ui/save";
import { Share } from "./ui/share";
import { Timeline } from "./ui/timeline";
import { Toolbar } from "./ui/toolbar";
import { Tree } from "./ui/tree";
import { unitsOf } from "./units";

const EXAMINED_BYTES = 150e6;
const PATIENCE = 1500; // milliseconds that everything else waits for the first picture

export interface Options { page: boolean } // a page of its own: it then has the address and the body to itself

export class App {
  private store = new Store();
  private archive: Archive;
  private stage: Stage;
  private tree: Tree;
  private timeline: Timeline;
  private inspector: Inspector;
  private surveyor: Surveyor;
  private toolbar!: Toolbar;
  private legend = new Legend();
  private player: Player;
  private probe: Probe;
  private film = new Film();
  private problem = h("div", { "data-testid": "error", class: "problem", role: "alert", hidden: true });
  private note = h("div", { "data-testid": "note", class: "note", hidden: true });
  private manifest!: Manifest;
  private scrubbing = false;
  private moved: Moved = { aligned: null, followed: null };
  private addressTimer = 0;
  private follower: Follower | null = null;
  private theme: Theme = "light";

  constructor(private root: HTMLElement, source: Source, private options: Options) {
    styledBy(root);
    this.fit();
    this.fitting.observe(root);
    this.archive = new Archive(source);
    this.stage = new Stage(this.store, this.archive);
    this.tree = new Tree(this.store, this.archive);
    this.timeline = new Timeline(this.store);
    this.surveyor = new Surveyor(this.store, this.archive, (text) => this.complain(text));
    this.inspector = new Inspector(this.store, this.archive, this.stage, this.surveyor.where.element);
    this.player = new Player(this.store, this.stage, () => this.run.frames, () => !this.run.closed);
    this.probe = new Probe(this.stage, this.archive, (reading) => this.inspector.read(reading));
  }

  private fitting = new ResizeObserver(() => this.fit());

  /** Narrow columns and narrow windows have a layout of their own. */
  private fit(): void {
    const width = this.root.clientWidth;
    this.root.classList.toggle("medium", width > 0 && width <= 1100);
    this.root.classList.toggle("narrow", width > 0 && width <= 820);
  }

  private get run(): Run { return this.manifest.runs[0]; }
  private tensor(name: string): Tensor | undefined { return this.run.tensors.find((t) => t.name === name); }

  async start(): Promise<void> {
    this.setTheme(rememberedTheme());
    try {
      this.manifest = await this.archive.manifest();
    } catch (error) {
      this.fail((error as Error).message);
      return;
    }
    if (!this.run.frames || !this.run.tensors.length) {
      if (!this.run.closed) { this.fail("No frame has been recorded yet. The page will look again."); setTimeout(() => location.reload(), 2000); return; }
      this.fail("This recording holds no frames.");
      return;
    }
    this.build();
    this.readAddress(this.options.page ? location.hash : "", true);
    this.wire();
    this.tree.fill(this.run);
    this.timeline.fill(this.run);
    this.inspector.fill(this.manifest.runs);
    void this.inspector.sync().catch((e: Error) => this.complain(e.message));
    this.surveyor.run = this.run;
    if (this.examined) this.inspector.awaitFindings();
    const first = Promise.race([new Promise<void>((seen) => { this.seen = seen; }), new Promise<void>((late) => { setTimeout(late, PATIENCE); })]);
    void this.surveyor.fill(this.run, first); // the map stands before the picture, so that this has its size, and is coloured after it
    await this.setPanels();
    await first; // what costs time comes after what is looked at
    void this.inspector.loadCurve();
    void this.loadFindings();
    if (this.manifest.runs.length > 1) void this.loadPair();
    this.follower = new Follower(this.archive, this.manifest.runs, { live: (on) => this.showLive(on), grown: (was) => this.grown(was),
      trouble: (text) => this.complain(text) });
  }

  private build(): void {
    const runs = this.manifest.runs;
    this.toolbar = new Toolbar(this.store, {
      picture: () => void savePicture(this.stage, this.title(), this.run.steps[this.store.view.frame]), share: this.share(),
      film: () => this.toggleFilm(), whole: () => this.stage.whole(),
      theme: () => this.setTheme(this.theme === "dark" ? "light" : "dark", true),
      map: () => this.store.set({ map: this.store.view.map === "on" ? "off" : "on" }),
    }, runs.length > 1 || this.run.frames > 1, this.run.epochs.length > 1, runs.length > 1, this.manifest.source === "live");
    this.toolbar.filmButton.hidden = !Film.possible;
    const brand = h("header", { class: "brand" }, h("span", { class: "mark", "aria-hidden": "true" }),
      h("span", { class: "word" }, "weightlapse"), h("span", { class: "run" }, runs.map((r) => r.name).slice(0, 2).join("  ·  ")),
      h("span", { class: "live" }, "recording"));
    this.root.replaceChildren(
      h("div", { class: "left" }, brand, this.tree.element),
      h("main", { class: "middle" }, this.toolbar.element, this.problem, this.surveyor.map.element, this.stage.element, h("div", { class: "under" }, this.legend.element, this.note)),
      this.inspector.element, this.timeline.element);
    if (this.manifest.note) { this.note.textContent = this.manifest.note; this.note.hidden = false; }
  }

  // -- address ------------------------------------------------------------------------------------------------------------

  private readAddress(hash: string, first: boolean): void {
    const { view, complaints } = resolve(hash, this.manifest.runs, first);
    if (first && this.options.page && !/[#&]tensor=/.test(hash)) view.map ??= "on"; // who comes without an address is shown around
    this.store.set(view);
    this.complain(complaints.length ? `Address: ${complaints.join("; ")}.` : null);
  }

  private writeAddress(): void {
    if (!this.options.page) return;
    clearTimeout(this.addressTimer);
    this.addressTimer = window.setTimeout(() => {
      const hash = writeAddress(this.store.view);
      if (hash !== location.hash) history.replaceState(null, "", hash);
    }, this.player.playing ? 1000 : 120);
  }

  // -- wiring -------------------------------------------------------------------------------------------------------------

  private wire(): void {
    const { store, stage, timeline, player } = this;
    store.onChange((changed) => this.changed(changed));
    stage.onPlace = () => this.probe.update(this.shown, player.playing ? 96 : 0);
    stage.onPick = (place) => this.pick(place);
    stage.onProblem = (text) => {
      if (text === null) { this.complain(null); return; }
      player.stop();
      this.trouble(text);
      const drawn = stage.panels[0]?.drawn; // the handle stands where the picture is
      if (drawn && drawn.frame !== store.view.frame) store.set({ frame: drawn.frame });
    };
    stage.onDrawn = (frame) => this.drawn(frame);
    timeline.onPlay = () => player.toggle();
    timeline.onScrub = (active) => {
      this.scrubbing = active;
      if (active) player.stop(); else stage.refresh();
    };
    player.onChange = (playing) => {
      timeline.playing(playing);
      if (!playing) { if (this.film.recording) this.toggleFilm(); this.writeAddress(); this.probe.update(this.shown, 0); }
    };
    this.inspector.onStep = (step) => { player.stop(); store.set({ frame: nearestFrame(this.run.steps, step) }); };
    this.inspector.onJump = (finding) => this.jump(finding);
    const keys = this.options.page ? document : this.root;
    keys.addEventListener("keydown", (e) => this.key(e as KeyboardEvent));
    if (this.options.page) addEventListener("hashchange", () => { if (location.hash !== writeAddress(store.view)) this.readAddress(location.hash, false); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.setTheme(rememberedTheme()));
  }

  private get shown(): number { return this.stage.panels[0]?.drawn?.frame ?? this.store.view.frame; }

  private changed(changed: Set<keyof View>): void {
    const any = (...keys: (keyof View)[]) => keys.some((k) => changed.has(k));
    if (any("tensor", "order") && this.stage.framed?.tensor !== this.store.view.tensor) this.stage.framed = null;
    if (any("tensor", "also", "show", "compare", "align", "against")) { this.player.stop(); void this.setPanels(); this.tree.select(); }
    if (any("align")) void this.loadFollowed();
    if (any("tensor", "curve")) void this.inspector.loadCurve();
    if (any("order")) this.stage.orders.clear();
    if (any("order")) void this.loadOrders();
    if (any("colour")) this.stage.retable();
    if (any("pins")) void this.inspector.sync().catch((e: Error) => this.complain(e.message));
    if (any("panels", "of", "spread", "scope", "unit", "tensor", "window", "time")) this.inspector.figures.follow();
    if (any("window")) { this.timeline.draw(); this.inspector.draw(); }
    if (any("scale", "diff")) this.stage.retable(true);
    if (any("scale", "diff") && !any("tensor", "also", "show")) {
      void this.loadLimits().then(() => this.stage.refresh());
    } else if (any("frame", "cells") && !this.player.playing) {
      this.reshape();
      this.stage.refresh(this.scrubbing);
    } else if (any("frame")) this.reshape();
    this.surveyor.changed(changed);
    if (any("fps", "time")) this.timeline.update();
    else if (any("frame")) this.timeline.move();
    if (any("scalar", "time")) { this.timeline.fill(this.run); this.inspector.draw(); }
    if (!(changed.size === 1 && changed.has("frame") && this.player.playing)) this.describe();
    this.writeAddress();
  }

  /** The network may have grown between two frames. */
  private reshape(): void {
    if (!this.reshaped()) return;
    this.stage.arrange();
    if (this.store.view.order) void this.loadOrders();
  }

  private sizes = "";
  private reshaped(): boolean {
    const now = this.stage.panels.map((p) => Object.values(p.size(this.store.view.frame))).join(";");
    const was = this.sizes;
    this.sizes = now;
    return was !== now;
  }

  private describe(): void {
    const { view } = this.store, tensor = this.tensor(view.tensor);
    this.toolbar.update(tensor, tensor ? (pieceAt(tensor, view.frame)?.shape ?? null) : null, this.run);
    const panel = this.stage.panels[0];
    const own = view.show === "all" && view.scale === "tensor" && !view.diff;
    if (panel) this.legend.update(own ? "of each tensor" : this.stage.limitOf(panel), this.theme, this.stage.colours);
  }

  private async setPanels(): Promise<void> {
    const { tensor, also, show } = this.store.view;
    const own = sourcesOf(this.run, show === "all" ? this.run.tensors.map((t) => t.name) : [tensor, ...also]);
    const first = own.findIndex((s) => s.tensor.name === tensor);
    if (show === "all" && first > 0) own.unshift(...own.splice(first, 1)); // the chosen tensor is the one the attributes speak of
    this.stage.setPanels(show === "pair" ? comparedSources(this.manifest.runs, this.moved, this.store.view) : own);
    this.sizes = "";
    this.reshaped();
    const panels = this.stage.panels;
    this.stage.waiting = true;
    try {
      await this.loadLimits();
    } catch (error) {
      this.trouble((error as Error).message);
    }
    if (panels !== this.stage.panels) return; // others were chosen meanwhile
    this.stage.waiting = false;
    this.stage.refresh();
    this.describe();
    if (this.store.view.order) void this.loadOrders();
  }

  private async loadLimits(): Promise<void> {
    const { scale } = this.store.view;
    const panels = this.stage.panels;
    await Promise.all(panels.map(async (panel) => {
      const stats = await this.archive.stats(panel.source.run, panel.source.tensor.name);
      panel.limit = stats.limit;
      panel.moved = stats.moved;
      panel.stirred = stats.stirred;
      if (scale === "layer") panel.layerLimit = await this.layerLimit(panel.source);
    }));
    if (scale === "global") {
      const all = await Promise.all(this.run.tensors.filter((t) => t.stream === "weights").map((t) => this.archive.stats(0, t.name)));
      this.stage.globalLimit = Math.max(...all.map((s) => s.limit));
    }
    this.describe();
  }

  /** The end of the largest scale in the layer of a panel's tensor. */
  private async layerLimit({ run, of, tensor }: PanelSource): Promise<number> {
    const same = of.tensors.filter((t) => t.stream === tensor.stream && layerOf(t.name) === layerOf(tensor.name));
    return Math.max(...(await Promise.all(same.map((t) => this.archive.stats(run, t.name)))).map((s) => s.limit));
  }

  private async loadOrders(): Promise<void> {
    const { order, frame } = this.store.view;
    try {
      if (order) await Promise.all(this.stage.panels.map(async (p) => {
        if (p.shapeAt(frame)) this.stage.orders.set(orderKey(p, frame), await this.archive.order(0, p.source.tensor.name, frame, order));
      }));
      this.stage.refresh();
    } catch (error) {
      this.complain((error as Error).message);
      this.store.set({ order: "" });
    }
  }

  /** The doctor reads the whole recording, so for a large one it waits to be asked. */
  private get examined(): boolean { return this.manifest.source !== "live" || this.run.nbytes <= EXAMINED_BYTES; }

  private async loadFindings(asked = false): Promise<void> {
    if (!asked && !this.examined) {
      this.inspector.offerFindings(this.run.nbytes, () => void this.loadFindings(true));
      return;
    }
    try {
      const { findings, reason } = await this.archive.findings(0);
      this.timeline.findings = findings;
      this.inspector.showFindings(findings, reason);
      this.timeline.draw();
    } catch (error) {
      this.inspector.showFindings([], (error as Error).message);
    }
  }

  /** Aligning takes a while, so the page shows the two runs first and the aligned one when it is there. */
  private async loadPair(): Promise<void> {
    try {
      const pair = await this.archive.pair();
      if (this.manifest.source === "file") this.moved.aligned = pair.aligned && this.manifest.runs[2] ? 2 : null;
      else await this.adopt("aligned", pair);
      this.inspector.showPair(pair);
      await this.loadFollowed();
    } catch (error) {
      this.complain((error as Error).message);
    }
  }

  /** Following the units takes longer than matching the ends, so it is done when it is asked for. */
  private async loadFollowed(): Promise<void> {
    if (this.store.view.align !== "follow" || this.manifest.source !== "live" || this.moved.aligned === null) return;
    try {
      const pair = await this.archive.pair(true);
      await this.adopt("followed", pair);
      this.inspector.showPair(pair);
    } catch (error) {
      this.complain((error as Error).message);
    }
  }

  /** A moved run takes its place among the runs, under the number that the server gave it. */
  private async adopt(which: keyof Moved, { run, number }: Pair): Promise<void> {
    if (!run || number === undefined || this.moved[which] !== null) return;
    this.manifest.runs[number] = run;
    this.moved[which] = number;
    this.toolbar.canAlign();
    if (this.store.view.show === "pair") await this.setPanels();
  }

  // -- what happens -------------------------------------------------------------------------------------------------------

  private seen: () => void = () => undefined; // the first picture is on the screen

  private drawn(frame: number): void {
    this.seen();
    if (this.options.page && document.body.dataset.wlState !== "ready") document.body.dataset.wlState = "ready";
    this.root.dataset.state = "ready";
    this.timeline.shown(frame);
    this.probe.update(frame, this.player.playing ? 96 : 0);
    if (!this.player.playing) { this.inspector.draw(); this.toolbar.reduced(this.stage.reduced); this.legend.thinned(this.stage.reduced ? this.store.view.cells : null); }
    this.film.frame(this.stage, this.title(), this.run.steps[frame]);
  }

  private pick(place: Place): void {
    const [row, col] = this.stage.own(place), { source } = place.panel;
    if (this.store.view.show === "all" && source.tensor.name !== this.store.view.tensor) { this.store.set({ tensor: source.tensor.name }); return; }
    this.inspector.pin(source.run, source.tensor, row, col, source.frameOf(this.shown));
    const piece = place.panel.pieceAt(this.shown);
    if (source.run === 0 && piece) this.inspector.showUnit(unitsOf(this.run, source.tensor.name, piece, row, col));
  }

  private jump(finding: Finding): void {
    this.player.stop();
    const change: Partial<View> = {};
    const tensor = finding.tensor === null ? undefined : this.tensor(finding.tensor);
    if (tensor) Object.assign(change, { tensor: tensor.name, also: [], show: "one", zoom: "" });
    if (finding.step !== null) change.frame = nearestFrame(this.run.steps, finding.step);
    this.store.set(change);
    const piece = tensor && pieceAt(tensor, this.store.view.frame);
    this.stage.framed = null;
    if (tensor && piece && finding.units.length) {
      // a unit is a position on the first axis: a row, or as many rows as its kernels have
      const { rows } = planeSize(piece), first = (u: number) => cellOf(piece, piece.shape.map((_, axis) => (axis === 0 ? u : 0)))[0];
      const high = Math.max(1, first(1) - first(0));
      const lines = layoutOf(piece).across.some((l) => l.axis === 0); // units set like text are no rows
      const found = piece.shape.length > 1 && !lines ? finding.units.slice(0, 200).flatMap((u) => Array.from({ length: high }, (_, i) => first(u) + i)) : [];
      this.stage.framed = { tensor: tensor.name, rows: found.filter((r) => r < rows) };
      const cell = cellOf(piece, piece.shape.map((_, axis) => (axis === 0 ? finding.units[0] : 0)));
      this.inspector.showUnit(unitsOf(this.run, tensor.name, piece, cell[0], cell[1]));
    }
    this.stage.redraw();
  }

  private key(e: KeyboardEvent): void {
    const target = e.target as HTMLElement;
    if (e.ctrlKey || e.metaKey || e.altKey || target.matches("input, select, textarea")) return;
    const { view } = this.store, last = this.run.frames - 1;
    const to: Record<string, number> = { ArrowRight: view.frame + 1, ArrowLeft: view.frame - 1, PageUp: view.frame + 10, PageDown: view.frame - 10,
      Home: 0, End: last };
    if (e.key === "/") { this.tree.find(); e.preventDefault(); return; }
    if (e.key === "m") { this.store.set({ map: view.map === "on" ? "off" : "on" }); return; }
    if (e.key === " ") {
      if (target.matches("button")) return; // its own click does it
      this.player.toggle();
    } else if (e.key in to) {
      this.player.stop();
      this.store.set({ frame: Math.min(last, Math.max(0, to[e.key])) });
    } else return;
    e.preventDefault();
  }

  private title(): string {
    const { view } = this.store;
    return view.show === "all" ? this.run.name : `${this.run.name}  ${view.tensor}`;
  }

  /** What is shown, for elsewhere. */
  private share(): HTMLElement {
    const file = safe(this.title());
    return new Share({
      link: () => location.href.split("#")[0] + writeAddress(this.store.view),
      picture: () => pictureOf(this.stage, this.title(), this.run.steps[this.shown]),
      python: () => pythonOf({ view: { ...this.store.view, frame: this.shown }, paths: this.manifest.runs.map((r) => r.path ?? r.name), frames: this.run.frames,
        start: pieceAt(this.tensor(this.store.view.tensor)!, this.shown)?.start ?? 0, limit: this.stage.panels[0] ? this.stage.limitOf(this.stage.panels[0]) : null,
        pins: this.inspector.trajectories() }),
      values: () => {
        const panel = this.stage.panels[0], plane = panel?.plane;
        const piece = plane && pieceAt(panel.source.tensor, plane.frame);
        if (!panel || !plane || !piece || plane.f[0] > 1 || plane.f[1] > 1 || this.stage.lookOf(panel).ref || this.stage.lookOf(panel).order)
          throw new ViewerError("The stored values can be saved while they are shown one by one: zoom in, as stored, and not as a difference.");
        return { name: `${file}-${panel.source.of.steps[plane.frame]}.csv`, text: valuesTable(plane, panel.source.tensor.dtype, (r, c) => ownIndex(piece, r, c)) };
      },
      lines: () => ({ name: `${file}-lines.csv`, text: linesTable(this.run.steps, this.inspector.lines()) }),
    }, (text) => this.complain(text)).element;
  }

  private toggleFilm(): void {
    if (this.film.recording) {
      this.film.stop();
      this.player.stop();
    } else {
      if (this.store.view.frame >= this.run.frames - 1) this.store.set({ frame: 0 });
      this.film.start(this.stage, this.title(), this.run.steps[this.store.view.frame], this.store.view.fps);
      this.player.start();
    }
    this.toolbar.filmButton.classList.toggle("on", this.film.recording);
  }

  // -- live ---------------------------------------------------------------------------------------------------------------

  private showLive(live: boolean): void {
    if (this.options.page) { if (live) document.body.dataset.wlLive = "1"; else delete document.body.dataset.wlLive; }
    this.root.classList.toggle("is-live", live);
  }

  /** New frames of the first run have come in; whoever stood on the last frame is taken along. */
  private grown(was: number): void {
    const run = this.run, following = this.store.view.frame === was - 1 && !this.player.playing && !this.scrubbing;
    this.archive.forget();
    this.timeline.fill(run);
    this.inspector.fill(this.manifest.runs);
    if (following) this.store.set({ frame: run.frames - 1 });
    if (run.frames >> 6 !== was >> 6 || run.closed) { this.tree.refresh(true); void this.inspector.follow(); void this.surveyor.fill(run); }
  }

  // -- looks and troubles -------------------------------------------------------------------------------------------------

  private setTheme(theme: Theme, remember = false): void {
    this.theme = theme;
    this.root.dataset.theme = theme;
    if (this.options.page) document.body.dataset.theme = theme;
    themeChanged();
    if (remember) rememberTheme(theme);
    this.stage.setTheme(theme);
    this.stage.refresh();
    this.surveyor.map.setTheme(theme);
    if (!this.manifest) return;
    this.describe();
    this.tree.refresh(false);
    this.timeline.draw();
    this.inspector.recolour();
    void this.inspector.loadCurve();
  }

  private complain(text: string | null): void {
    this.problem.textContent = text ?? "";
    this.problem.hidden = !text;
  }

  /** A picture that could not be had: before the first one there is nothing to look at. */
  private trouble(text: string): void {
    this.complain(text);
    if (this.root.dataset.state === "ready") return;
    this.root.dataset.state = "error";
    if (this.options.page) document.body.dataset.wlState = "error";
  }

  private fail(text: string): void {
    this.complain(text);
    if (!this.problem.isConnected) this.root.replaceChildren(this.problem);
    if (this.options.page) document.body.dataset.wlState = "error";
    this.root.dataset.state = "error";
  }

  dispose(): void {
    this.fitting.disconnect();
    noLongerStyledBy(this.root);
    this.follower?.stop();
    this.player.stop();
    for (const panel of this.stage.panels) panel.dispose();
  }
}

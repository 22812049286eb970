// The network's tensors, layer by layer, each with a sparkline of its size over time.

import type { Archive } from "../archive";
import { css, focused, h } from "../dom";
import { grouped } from "../numbers";
import { layerOf, leafOf } from "../scene/layout";
import { fractionOfFrame } from "../scene/time";
import { matches } from "../search";
import type { Run, Tensor } from "../source";
import type { Store } from "../state";
import { drawChart } from "./chart";

export class Tree {
  readonly element: HTMLElement;
  private list: HTMLDivElement;
  private entries = new Map<string, { row: HTMLDivElement; spark: HTMLCanvasElement; drawn: boolean }>();
  private heads: { group: HTMLElement; names: string[] }[] = [];
  private seen: IntersectionObserver;
  private search: HTMLInputElement;
  private none: HTMLElement;
  private run!: Run;

  constructor(private store: Store, private archive: Archive) {
    this.list = h("div", { "data-testid": "tensor-list", role: "grid", "aria-label": "Tensors", class: "tensors" });
    this.search = h("input", { type: "search", placeholder: "Find: words in any order", "aria-label": "Find a tensor", "data-testid": "search",
      input: () => this.filter(this.search.value), keydown: (e) => this.searching(e as KeyboardEvent) });
    this.none = h("p", { class: "hint", hidden: true });
    this.element = h("nav", { class: "tree", "aria-label": "Tensors of the network" }, this.search, this.none, this.list);
    this.seen = new IntersectionObserver((found) => {
      for (const f of found) if (f.isIntersecting) this.drawSpark((f.target as HTMLElement).dataset.tensor!);
    }, { root: this.list, rootMargin: "100px" });
    this.list.addEventListener("keydown", (e) => this.key(e));
  }

  fill(run: Run): void {
    this.run = run;
    this.seen.disconnect();
    this.entries.clear();
    this.heads = [];
    const children: HTMLElement[] = [];
    const layers = new Map<string, Tensor[]>();
    for (const tensor of run.tensors) {
      const key = (tensor.stream === "weights" ? "" : `${tensor.stream} · `) + layerOf(tensor.name.replace(/^(gradients|optimizer):/, ""));
      layers.set(key, [...(layers.get(key) ?? []), tensor]);
    }
    for (const [layer, tensors] of layers) {
      const names = tensors.map((t) => t.name);
      const head = h("div", { role: "row" }, h("div", { class: "layer", role: "rowheader", "aria-colspan": 2 }, layer || "network"));
      const group = h("div", { role: "rowgroup", "aria-label": layer || "network" }, head, ...tensors.map((tensor) => this.entry(tensor)));
      this.heads.push({ group, names });
      children.push(group);
    }
    this.list.replaceChildren(...children);
    this.select();
  }

  private entry(tensor: Tensor): HTMLDivElement {
    const shape = tensor.pieces[tensor.pieces.length - 1].shape;
    const spark = h("canvas", { class: "spark", "aria-hidden": "true" });
    const add = h("button", { class: "add", title: "Show beside the others", "aria-label": `Show ${tensor.name} beside the others`, tabindex: -1,
      click: (e) => { e.stopPropagation(); this.toggle(tensor.name); } }, "+");
    const row = h("div", { "data-testid": "tensor", "data-tensor": tensor.name, role: "row", "aria-selected": "false", tabindex: -1,
      title: [tensor.name, ...tensor.aliases].join(" = "),
      click: (e) => { if ((e as MouseEvent).shiftKey || (e as MouseEvent).ctrlKey || (e as MouseEvent).metaKey) this.toggle(tensor.name);
        else this.choose(tensor.name); } },
    h("div", { role: "gridcell", class: "what" }, h("span", { class: "leaf" }, leafOf(tensor.name.replace(/^(gradients|optimizer):/, ""))),
      h("span", { class: "shape" }, shape.map(grouped).join(" × ") || "1"), spark), h("div", { role: "gridcell" }, add));
    this.entries.set(tensor.name, { row, spark, drawn: false });
    this.seen.observe(row);
    return row;
  }

  private choose(name: string): void {
    this.store.set({ tensor: name, also: [], zoom: "", show: this.store.view.show === "all" ? "one" : this.store.view.show });
  }

  private toggle(name: string): void {
    const { tensor, also } = this.store.view;
    if (name === tensor) return;
    this.store.set({ also: also.includes(name) ? also.filter((n) => n !== name) : [...also, name], zoom: "", show: "one" });
  }

  select(): void {
    const { tensor, also } = this.store.view;
    for (const [name, { row }] of this.entries) {
      const chosen = name === tensor;
      row.setAttribute("aria-selected", String(chosen));
      row.classList.toggle("also", also.includes(name));
      row.tabIndex = chosen ? 0 : -1;
      if (chosen) this.reveal(row);
    }
  }

  /** Scrolls the list, and never the page, until the entry shows. */
  private reveal(row: HTMLElement): void {
    const box = this.list.getBoundingClientRect(), at = row.getBoundingClientRect();
    if (at.top < box.top) this.list.scrollTop -= box.top - at.top + 8;
    else if (at.bottom > box.bottom) this.list.scrollTop += at.bottom - box.bottom + 8;
  }

  private filter(text: string): void {
    let found = 0;
    for (const [name, { row }] of this.entries) { row.hidden = !matches(name, text); found += Number(!row.hidden); }
    for (const { group, names } of this.heads) group.hidden = names.every((n) => this.entries.get(n)!.row.hidden);
    this.none.hidden = found > 0;
    this.none.textContent = `No tensor has all of these words: ${text}`;
  }

  private shown(): HTMLDivElement[] { return [...this.entries.values()].map((x) => x.row).filter((r) => !r.hidden); }

  /** Enter opens the first tensor found, the arrow goes down to the list, Escape forgets the words. */
  private searching(e: KeyboardEvent): void {
    const [first] = this.shown();
    if (e.key === "Enter" && first) this.choose(first.dataset.tensor!);
    else if (e.key === "ArrowDown" && first) first.focus();
    else if (e.key === "Escape" && this.search.value) { this.search.value = ""; this.filter(""); }
    else return;
    e.preventDefault();
    e.stopPropagation();
  }

  /** To the words of the search, from anywhere. */
  find(): void { this.search.focus(); this.search.select(); }

  private key(e: KeyboardEvent): void {
    const rows = this.shown();
    const at = rows.indexOf(focused(this.element) as HTMLDivElement);
    if (at < 0) return;
    const to: Record<string, number> = { ArrowDown: at + 1, ArrowUp: at - 1 };
    if (e.key === "ArrowUp" && at === 0) this.search.focus();
    else if (e.key === "+" || (e.key === "Enter" && e.shiftKey)) this.toggle(rows[at].dataset.tensor!);
    else if (e.key in to) rows[Math.min(rows.length - 1, Math.max(0, to[e.key]))].focus();
    else if (e.key === "Enter") this.choose(rows[at].dataset.tensor!);
    else return;
    e.preventDefault();
    e.stopPropagation();
  }

  /** Draws all sparklines again (the theme has changed, or frames came in). */
  refresh(forget: boolean): void {
    for (const [name, entry] of this.entries) {
      if (!entry.drawn) continue;
      if (forget) entry.drawn = false;
      this.drawSpark(name, true);
    }
  }

  private drawSpark(name: string, again = false): void {
    const entry = this.entries.get(name);
    if (!entry || (entry.drawn && !again)) return;
    entry.drawn = true;
    this.archive.trend(0, name).then((trend) => {
      const steps = this.run.steps;
      drawChart(entry.spark, { lines: [{ x: trend.frames, y: trend.rms, colour: css("--accent"), width: 1.25 }],
        place: (f) => fractionOfFrame(steps, Math.min(f, steps.length - 1), "frames"), pad: { left: 1, right: 1, top: 3, bottom: 3 } });
    }, () => { entry.drawn = false; });
  }
}

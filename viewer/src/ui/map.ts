// The whole network at a glance: every layer a box, sized by its weights and coloured by how much it changed, with the wires between them.

import { choice, focused, h, icon, svg } from "../dom";
import { badOf, changeOf, percent, type Rank, type Survey } from "../map/change";
import type { Layer, Network } from "../map/network";
import { place, type Placed } from "../map/place";
import { grouped } from "../numbers";
import type { Theme } from "../scene/colour";
import type { Store } from "../state";

// from "as it was" to "changed most": lightness alone tells the order, in print and without colour vision
const RAMPS: Record<Theme, [number, number, number][]> = {
  light: [[236, 234, 228], [250, 214, 165], [236, 152, 84], [190, 78, 58], [104, 22, 52]],
  dark: [[44, 46, 52], [92, 58, 48], [168, 94, 56], [232, 152, 84], [255, 226, 176]],
};
const SHARE = 0.4; // of the middle's height at most

function ramp(theme: Theme, t: number): string {
  const anchors = RAMPS[theme], at = Math.min(1, Math.max(0, t)) * (anchors.length - 1), i = Math.min(anchors.length - 2, Math.floor(at));
  return `rgb(${anchors[i].map((a, k) => Math.round(a + (anchors[i + 1][k] - a) * (at - i))).join(",")})`;
}

export class NetworkMap {
  readonly element: HTMLElement;
  onOpen: (layer: Layer) => void = () => undefined;
  private drawing = svg("svg", { role: "group", "aria-label": "Layers of the network" });
  private holder = h("div", { class: "map-drawing" }, this.drawing);
  private tip = h("div", { class: "map-tip", "aria-hidden": "true" });
  private legendBar = h("span", { class: "map-bar" });
  private most = h("span", { class: "num" });
  private words = h("span", { class: "map-words" });
  private rankSelect: HTMLSelectElement;
  private boxes: { group: SVGGElement; rect: SVGRectElement; mark: SVGTextElement }[] = [];
  private network: Network | null = null;
  private survey: Survey = new Map();
  private theme: Theme = "light";
  private placed: Placed | null = null;
  private chosen = 0; // the box that takes the focus

  constructor(private store: Store) {
    const rank = choice("Colour", [["since", "change over the run"], ["now", "change around this step"]], "since",
      (v) => store.set({ rank: v as Rank }), { "aria-label": "What the map is coloured by" });
    this.rankSelect = rank.select;
    const close = h("button", { class: "icon", title: "Close the map", "aria-label": "Close the map", click: () => store.set({ map: "off" }) },
      icon("M4 3l4 4 4-4 1 1-4 4 4 4-1 1-4-4-4 4-1-1 4-4-4-4z"));
    this.element = h("section", { class: "map", "data-testid": "map", "aria-label": "Map of the network", hidden: true },
      h("div", { class: "map-head" }, h("h2", {}, "Where it changes"), rank.element,
        h("span", { class: "map-legend" }, "0", this.legendBar, this.most), this.words, h("span", { class: "grow" }), close),
      this.holder, this.tip);
    this.drawing.addEventListener("keydown", (e) => this.key(e));
    new ResizeObserver(() => this.layOut()).observe(this.element);
  }

  fill(network: Network): void {
    this.network = network;
    this.placed = null;
    this.layOut();
  }

  /** Shown or not, and how high at most. */
  show(): void {
    this.element.hidden = this.store.view.map === "off" || !this.network || this.network.layers.length < 2;
    this.rankSelect.value = this.store.view.rank;
    this.layOut();
  }

  setTheme(theme: Theme): void { this.theme = theme; this.colour(); }
  told(survey: Survey, of: number): void {
    this.survey = survey;
    this.element.dataset.surveyed = survey.size < of ? "0" : "1";
    const wires = this.network?.wired ? "" : "in recorded order: no wiring was recorded";
    const exact = [...survey.values()].every((s) => s.exact);
    this.words.textContent = [survey.size < of ? `surveyed ${grouped(survey.size)} of ${grouped(of)} tensors` : exact ? "" : "from a sample of the weights", wires]
      .filter(Boolean).join(", ");
    this.colour();
  }

  // -- drawing ------------------------------------------------------------------------------------------------------------

  private layOut(): void {
    const { network } = this;
    if (!network || this.element.hidden) return;
    const width = Math.floor(this.holder.clientWidth), parent = this.element.parentElement;
    if (width < 40 || !parent) return;
    const narrow = this.element.closest(".narrow") !== null;
    const height = Math.max(90, Math.floor((narrow ? innerHeight * 0.3 : parent.clientHeight * SHARE) - 40));
    if (this.placed && this.placed.width === width && this.asked === height) return;
    this.asked = height;
    this.placed = place(network, width, height);
    this.draw(network, this.placed);
  }

  private asked = 0;

  private draw(network: Network, placed: Placed): void {
    const { width, height } = placed;
    this.drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.drawing.setAttribute("width", String(width));
    this.drawing.setAttribute("height", String(height));
    const under = svg("g", { "aria-hidden": "true", class: "map-wires" });
    for (const { x0, y0, x1, y1 } of placed.wires) {
      const bend = Math.max(2, (x1 - x0) / 2);
      under.append(svg("path", { d: `M${x0} ${y0}C${x0 + bend} ${y0} ${x1 - bend} ${y1} ${x1} ${y1}` }));
    }
    for (const rail of placed.rails) {
      under.append(svg("path", { class: "rail", d: `M${rail.x0} ${rail.y}H${rail.x1}` }));
      for (const stop of rail.stops) {
        under.append(svg("path", { class: stop.writes ? "writes" : "reads", d: `M${stop.x} ${stop.top}V${rail.y}` }));
        if (stop.writes) under.append(svg("circle", { cx: stop.x, cy: rail.y, r: 2.6 }));
      }
    }
    let free = -Infinity;
    const labels = svg("g", { "aria-hidden": "true", class: "map-labels" });
    let line = -1;
    for (const label of placed.labels) {
      if (label.y !== line) { line = label.y; free = -Infinity; }
      const short = label.text.split(/[./]/).pop()!, room = label.x1 - label.x0;
      const text = label.text.length * 6.1 <= room + 14 ? label.text : short.length * 6.1 <= room + 8 ? short : "";
      if (!text || label.x0 < free) continue;
      free = label.x0 + text.length * 6.1 + 5;
      if (free > width + 8) continue;
      labels.append(svg("text", { x: label.x0, y: label.y }, text));
    }
    this.boxes = placed.boxes.map((box, i) => {
      const rect = svg("rect", { x: box.x, y: box.y, width: box.side, height: box.side, rx: Math.min(4, box.side / 4) });
      const mark = svg("text", { class: "map-mark", x: box.x + box.side / 2, y: box.y + box.side / 2 + 4, "text-anchor": "middle" });
      const group = svg("g", { role: "button", tabindex: i === this.chosen ? 0 : -1, "data-testid": "map-layer", "data-layer": network.layers[i].name,
        click: () => this.onOpen(network.layers[i]), pointerenter: () => this.say(i), pointerleave: () => this.say(null),
        focus: () => this.say(i), blur: () => this.say(null) }, rect, mark);
      return { group, rect, mark };
    });
    this.drawing.replaceChildren(under, labels, ...this.boxes.map((b) => b.group));
    this.colour();
  }

  private change(layer: Layer): number | null { return changeOf(this.survey, layer.tensors, this.store.view.rank, this.store.view.frame); }

  /** Colours the boxes as of the frame shown. */
  colour(): void {
    const { network } = this;
    if (!network || this.element.hidden) return;
    const changes = network.layers.map((l) => this.change(l)), most = Math.max(1e-12, ...changes.map((c) => c ?? 0));
    this.boxes.forEach(({ rect, mark, group }, i) => {
      const layer = network.layers[i], change = changes[i], bad = badOf(this.survey, layer.tensors);
      const t = change === null ? 0 : Math.sqrt(change / most);
      rect.style.fill = change === null ? "var(--ground)" : ramp(this.theme, t);
      group.classList.toggle("chosen", layer.tensors.includes(this.store.view.tensor));
      group.classList.toggle("bad", bad !== null);
      const side = this.placed!.boxes[i].side;
      mark.textContent = side < 30 || change === null ? "" : bad === null ? percent(change).replace(" ", "") : "NaN";
      const light = this.theme === "light" ? t < 0.55 : t > 0.5;
      mark.style.fill = light ? "#1d1f21" : "#ffffff";
      group.setAttribute("aria-label", this.describe(layer, change, bad));
    });
    this.most.textContent = percent(most < 1e-11 ? 0 : most);
    this.legendBar.style.background = `linear-gradient(90deg, ${[0, 0.25, 0.5, 0.75, 1].map((t) => ramp(this.theme, Math.sqrt(t))).join(", ")})`;
  }

  private describe(layer: Layer, change: number | null, bad: number | null): string {
    return [layer.name, `${grouped(layer.weights)} weights`, change === null ? "not yet surveyed"
      : this.store.view.rank === "since" ? `changed by ${percent(change)}` : `changes by ${percent(change)} per frame here`,
    bad === null ? "" : `NaN or infinite from frame ${bad} or before`].filter(Boolean).join(" · ");
  }

  private say(i: number | null): void {
    this.tip.textContent = i === null || !this.network ? "" : this.describe(this.network.layers[i], this.change(this.network.layers[i]), badOf(this.survey, this.network.layers[i].tensors));
    const box = i === null ? null : this.placed?.boxes[i];
    this.tip.hidden = !box;
    if (!box) return;
    const wide = this.holder.clientWidth, x = Math.min(Math.max(box.x + box.side / 2, 110), Math.max(110, wide - 110));
    this.tip.style.left = `${x + this.holder.offsetLeft}px`;
    this.tip.style.top = `${this.holder.offsetTop + box.y + box.side + 4 - this.holder.scrollTop}px`;
  }

  /** The arrows go to the nearest box in their direction, Enter opens. */
  private key(e: KeyboardEvent): void {
    const at = this.boxes.findIndex((b) => b.group === focused(this.element)), way: Record<string, [number, number]> = { ArrowRight: [1, 0], ArrowLeft: [-1, 0],
      ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (at < 0 || !this.network) return;
    if (e.key === "Enter" || e.key === " ") this.onOpen(this.network.layers[at]);
    else if (e.key in way) {
      const [dx, dy] = way[e.key], from = this.placed!.boxes[at];
      let best = -1, least = Infinity;
      this.placed!.boxes.forEach((b, i) => {
        const x = b.x + b.side / 2 - from.x - from.side / 2, y = b.y + b.side / 2 - from.y - from.side / 2, ahead = x * dx + y * dy;
        const cost = ahead + 3 * Math.abs(x * dy + y * dx);
        if (i !== at && ahead > 0.5 && cost < least) { least = cost; best = i; }
      });
      if (best < 0) best = Math.min(this.boxes.length - 1, Math.max(0, at + (dx + dy)));
      this.boxes[at].group.setAttribute("tabindex", "-1");
      this.chosen = best;
      this.boxes[best].group.setAttribute("tabindex", "0");
      this.boxes[best].group.focus();
    } else return;
    e.preventDefault();
    e.stopPropagation();
  }
}

// "Where should I look?": the layers that changed most, each one click away.

import { h } from "../dom";
import { badOf, changeOf, percent, type Survey } from "../map/change";
import type { Layer, Network } from "../map/network";
import type { Store } from "../state";

const SHOWN = 6;

export class Where {
  readonly element: HTMLElement;
  onOpen: (layer: Layer) => void = () => undefined;
  private list = h("ol", { class: "ranking" });
  private more = h("button", { class: "offer", click: () => { this.all = !this.all; this.draw(); } });
  private title = h("h2", {});
  private all = false;
  private network: Network | null = null;
  private survey: Survey = new Map();

  constructor(private store: Store) {
    this.element = h("section", { "aria-label": "Layers by change", hidden: true }, this.title, this.list, this.more);
  }

  fill(network: Network): void { this.network = network; this.draw(); }
  told(survey: Survey): void { this.survey = survey; this.draw(); }

  /** Until the changes are known their place is held. */
  private hold(): void {
    const layers = this.network!.layers;
    this.title.textContent = "Layers by change over the run";
    this.list.replaceChildren(...layers.slice(0, SHOWN).map((layer) => h("li", { "aria-hidden": "true" }, h("button", { disabled: true },
      h("span", { class: "ranked-name" }, layer.name), h("span", { class: "num" }, "…")))));
    this.more.hidden = layers.length <= SHOWN;
    this.more.textContent = `all ${layers.length} layers`;
  }

  draw(): void {
    if (!this.network || this.network.layers.length < 2) return;
    this.element.hidden = false;
    if (!this.survey.size) { this.hold(); return; }
    const { rank, frame, tensor } = this.store.view;
    const ranked = this.network.layers.map((layer) => ({ layer, change: changeOf(this.survey, layer.tensors, rank, frame), bad: badOf(this.survey, layer.tensors) }))
      .filter((r): r is typeof r & { change: number } => r.change !== null)
      .sort((a, b) => Number(b.bad !== null) - Number(a.bad !== null) || b.change - a.change);
    const most = Math.max(1e-12, ...ranked.map((r) => r.change));
    this.title.textContent = rank === "since" ? "Layers by change over the run" : "Layers by change around this step";
    this.list.replaceChildren(...ranked.slice(0, this.all ? 2000 : SHOWN).map(({ layer, change, bad }) => {
      const bar = h("span", { class: "bar-fill", "aria-hidden": "true" });
      bar.style.width = `${Math.round((change / most) * 100)}%`;
      return h("li", {}, h("button", { "data-testid": "ranked", "data-layer": layer.name, class: layer.tensors.includes(tensor) ? "chosen" : "", title: layer.name,
        click: () => this.onOpen(layer) }, bar, h("span", { class: "ranked-name" }, layer.name), h("span", { class: "num" }, bad === null ? percent(change) : "NaN, ∞")));
    }));
    this.more.hidden = ranked.length <= SHOWN;
    this.more.textContent = this.all ? "fewer" : `all ${ranked.length} layers`;
  }
}

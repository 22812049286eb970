// Above the picture: what is shown, and the ways to look at it.

import { choice, h, icon } from "../dom";
import { grouped } from "../numbers";
import type { Mode } from "../scene/colour";
import type { Run, Tensor } from "../source";
import type { Store, View } from "../state";

export interface Actions { share: HTMLElement; picture(): void; film(): void; whole(): void; theme(): void; map(): void }

export class Toolbar {
  readonly element: HTMLElement;
  readonly filmButton: HTMLButtonElement;
  private title = h("h1", {});
  private mapButton: HTMLButtonElement;
  private small: HTMLElement;
  private shape = h("span", { class: "chip-text" });
  private selects: { scale: HTMLSelectElement; diff: HTMLSelectElement; order: HTMLSelectElement; cells: HTMLSelectElement; show: HTMLSelectElement;
    compare: HTMLSelectElement; align: HTMLSelectElement; colour: HTMLSelectElement };
  private comparing: [HTMLElement, HTMLElement];
  private alignable: boolean;

  constructor(private store: Store, actions: Actions, pair: boolean, grown: boolean, runs: boolean, follows: boolean) {
    const show = choice("Show", [["one", "chosen tensors"], ["all", "whole network"], ...(runs ? [["pair", "runs compared"] as [string, string]] : []), ...(pair ? [["steps", "two steps compared"] as [string, string]] : [])],
      "one", (v) => store.set(v === "steps" ? { show: "pair", against: `frame:${store.view.frame}`, zoom: "" } : { show: v as View["show"], against: "", zoom: "" }));
    const compare = choice("Compare", [["side", "side by side"], ["blink", "in turn"], ["difference", "difference"]], "side", (v) => store.set({ compare: v as View["compare"] }));
    const align = choice("Alignment", [["both", "both"], ["on", "aligned"], ...(follows ? [["follow", "followed"] as [string, string]] : []), ["off", "as it is"]], "both", (v) => store.set({ align: v as View["align"] }));
    const colour = choice("Colours", [["linear", "linear"], ["symlog", "symmetric log"], ["percentile", "percentile"]], "linear", (v) => store.set({ colour: v as View["colour"] }));
    this.comparing = [compare.element, align.element];
    this.alignable = false;
    const diff = choice("Values", [["", "weights"], ["first", "change since start"], ["prev", "update of the step"],
      ["chosen", "change since here"]], "", (v) => store.set({ diff: v === "chosen" ? `frame:${store.view.frame}` : v }));
    const scale = choice("Scale", [["tensor", "of the tensor"], ["layer", "of the layer"], ["global", "of the network"], ["step", "of each step"]], "tensor",
      (v) => store.set({ scale: v as View["scale"] }));
    const order = choice("Units", [["", "as stored"], ["norm", "largest first"], ["canonical", "canonical order"],
      ...(grown ? [["kin", "children beside parents"] as [string, string]] : [])], "",
      (v) => store.set({ order: v, zoom: "" }));
    const cells = choice("Small cells", [["typical", "typical, spikes kept"], ["extreme", "extreme"], ["mean", "mean"], ["min", "smallest"], ["max", "largest"]], "typical",
      (v) => store.set({ cells: v as Mode }));
    this.selects = { scale: scale.select, diff: diff.select, order: order.select, cells: cells.select, show: show.select, compare: compare.select,
      align: align.select, colour: colour.select };
    const button = (label: string, path: string, act: () => void) => h("button", { class: "icon", title: label, "aria-label": label, click: act },
      icon(path));
    this.filmButton = button("Save a film from here to the end", "M1.5 3.5h9v9h-9zM11.5 7l3-2v6l-3-2z", actions.film);
    this.mapButton = button("Map of the network", "M1.5 6h3v4h-3zM6.5 2h3v3h-3zM6.5 11h3v3h-3zM11.5 6h3v4h-3zM4.5 7.5L6.5 4l.8.6-2 3.6zM4.5 8.5l2 3.6.8-.6-2-3.6zM9.5 4l2 3.5-.8.6-2-3.6zM9.5 12l2-3.5-.8-.6-2 3.6z", actions.map);
    this.small = cells.element;
    this.element = h("div", { class: "toolbar" },
      h("div", { class: "headline" }, this.title, this.shape, h("span", { class: "grow" }),
        this.mapButton, button("Show all of it (double click)", "M2 2h5v1.6H3.6V7H2zM9 2h5v5h-1.6V3.6H9zM2 9h1.6v3.4H7V14H2zM12.4 9H14v5H9v-1.6h3.4z", actions.whole),
        button("Save a picture", "M2 3.5h3l1-1.5h4l1 1.5h3v10H2zM8 6a2.6 2.6 0 100 5.2A2.6 2.6 0 008 6z", actions.picture), this.filmButton, actions.share,
        button("Light or dark", "M8 1.5a6.5 6.5 0 100 13zM8 1.5a6.5 6.5 0 010 13v-1a5.5 5.5 0 000-11z", actions.theme)),
      h("div", { class: "choices" }, show.element, compare.element, align.element, diff.element, scale.element, colour.element, order.element, cells.element));
  }

  /** How several cells of one pixel are drawn is a question only while there are such pixels. */
  reduced(some: boolean): void { this.small.hidden = !some && this.store.view.cells === "typical"; }

  /** A second run has been brought into the first one's order of units. */
  canAlign(): void { this.alignable = true; }

  update(tensor: Tensor | undefined, shape: number[] | null, run: Run): void {
    const { scale, diff, order, cells, show, also, tensor: name } = this.store.view;
    this.title.textContent = show === "all" ? run.name : also.length ? `${name} + ${also.length}` : name;
    this.title.title = this.title.textContent ?? "";
    this.shape.textContent = show === "all" ? `${run.tensors.length} tensors` : `${shape?.map(grouped).join(" × ") || "one value"}  ${tensor?.dtype ?? ""}`;
    this.mapButton.classList.toggle("on", this.store.view.map === "on");
    this.mapButton.setAttribute("aria-pressed", String(this.store.view.map === "on"));
    this.selects.scale.value = scale;
    this.selects.order.value = order;
    this.selects.cells.value = cells;
    const { compare, align, colour, against } = this.store.view;
    this.selects.show.value = show === "pair" && against ? "steps" : show;
    this.selects.compare.value = compare;
    this.selects.align.value = align;
    this.selects.colour.value = colour;
    this.comparing[0].hidden = show !== "pair";
    this.comparing[1].hidden = show !== "pair" || against !== "" || !this.alignable;
    const chosen = diff.startsWith("frame:");
    this.selects.diff.options[3].textContent = chosen ? `change since frame ${diff.slice(6)}` : "change since here";
    this.selects.diff.value = chosen ? "chosen" : diff;
  }
}

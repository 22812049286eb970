// The colour scale under the picture, with the marks for what is no ordinary number.

import { h } from "../dom";
import { brief } from "../numbers";
import { MARKS, type Mode, type Theme } from "../scene/colour";

/** What a cell shows that stands for several weights; of films see THINNED in weightlapse/film/scene.py. */
const THINNED: Record<Mode, string> = { typical: "one weight of several, spikes always", extreme: "the weight of several that is farthest from zero",
  mean: "the mean of several weights", min: "the smallest of several weights", max: "the largest of several weights" };

export class Legend {
  readonly element: HTMLElement;
  private bar = h("canvas", { width: 256, height: 1, class: "bar", "aria-hidden": "true" });
  private low = h("span", { class: "num" });
  private high = h("span", { class: "num" });
  private marks = h("span", { class: "marks" });
  private small = h("span", { class: "small-cells", "data-testid": "thinned", hidden: true });

  constructor() {
    this.element = h("div", { class: "legend", role: "note", "aria-label": "Colour scale" }, this.low, this.bar, this.high, this.marks, this.small);
  }

  /** Says what small cells show, while there are some; null while there are none. */
  thinned(mode: Mode | null): void {
    this.small.hidden = mode === null;
    this.small.textContent = mode === null ? "" : `small cells: ${THINNED[mode]}`;
  }

  /** `limit`: the end of the scale, words for what it is the end of, or null where every step has its own. */
  update(limit: number | string | null, theme: Theme, table: Uint8Array): void {
    const g = this.bar.getContext("2d")!, image = g.createImageData(251, 1);
    image.data.set(table.subarray(12, 12 + 251 * 4));
    this.bar.width = 251;
    g.putImageData(image, 0, 0);
    const words = limit === null ? "of the step" : limit;
    this.low.textContent = typeof words === "string" ? `−max ${words}` : `−${brief(words)}`;
    this.high.textContent = typeof words === "string" ? "+max" : `+${brief(words)}`;
    const m = MARKS[theme];
    this.marks.replaceChildren(...([["NaN", m.nan], ["+∞", m.plus], ["−∞", m.minus], ["beyond", m.below, m.above]] as [string, ...number[][]][]).map(([word, ...colours]) =>
      h("span", {}, ...colours.map((colour) => {
        const swatch = h("i", { class: "swatch" });
        swatch.style.background = `rgb(${colour.join(",")})`;
        return swatch;
      }), word)));
  }
}

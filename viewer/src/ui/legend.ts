// The colour scale under the picture, with the marks for what is no ordinary number.

import { h } from "../dom";
import { brief } from "../numbers";
import { MARKS, lookup, type Theme } from "../scene/colour";

export class Legend {
  readonly element: HTMLElement;
  private bar = h("canvas", { width: 256, height: 1, class: "bar", "aria-hidden": "true" });
  private low = h("span", { class: "num" });
  private high = h("span", { class: "num" });
  private marks = h("span", { class: "marks" });

  constructor() {
    this.element = h("div", { class: "legend", role: "note", "aria-label": "Colour scale" }, this.low, this.bar, this.high, this.marks);
  }

  update(limit: number | null, theme: Theme): void {
    const g = this.bar.getContext("2d")!, image = g.createImageData(251, 1);
    image.data.set(lookup(theme).subarray(12, 12 + 251 * 4));
    this.bar.width = 251;
    g.putImageData(image, 0, 0);
    this.low.textContent = limit === null ? "−max of the step" : `−${brief(limit)}`;
    this.high.textContent = limit === null ? "+max" : `+${brief(limit)}`;
    const m = MARKS[theme];
    this.marks.replaceChildren(...([["NaN", m.nan], ["+∞", m.plus], ["−∞", m.minus], ["beyond", m.above]] as [string, number[]][]).map(([word, colour]) => {
      const swatch = h("i", { class: "swatch" });
      swatch.style.background = `rgb(${colour.join(",")})`;
      return h("span", {}, swatch, word);
    }));
  }
}

// Elements. Text is only ever set as text: names come from recordings, and recordings from anywhere.

type Attributes = Record<string, string | number | boolean | null | undefined | ((event: Event) => void)>;

export function h<K extends keyof HTMLElementTagNameMap>(tag: K, attributes: Attributes = {},
  ...children: (Node | string)[]): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  element.append(...children);
  return element;
}

/** A labelled choice. */
export function choice(label: string, options: [string, string][], value: string, change: (value: string) => void,
  attributes: Attributes = {}): { element: HTMLLabelElement; select: HTMLSelectElement } {
  const select = h("select", { "aria-label": label, ...attributes, change: () => change(select.value) },
    ...options.map(([v, text]) => h("option", { value: v, selected: v === value }, text)));
  return { element: h("label", { class: "choice" }, h("span", {}, label), select), select };
}

/** Icons drawn here, as paths in a 16 x 16 box. */
export function icon(path: string): SVGSVGElement {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const p = document.createElementNS("http://www.w3.org/2000/svg", "path");
  p.setAttribute("d", path);
  svg.append(p);
  return svg;
}

/** A canvas fitted to its box at the screen's resolution; returns its context scaled to CSS pixels, and the box. */
export function fit(canvas: HTMLCanvasElement): { g: CanvasRenderingContext2D; w: number; h: number } {
  const w = canvas.clientWidth, hgt = canvas.clientHeight, ratio = devicePixelRatio || 1;
  const pw = Math.max(1, Math.round(w * ratio)), ph = Math.max(1, Math.round(hgt * ratio));
  if (canvas.width !== pw || canvas.height !== ph) { canvas.width = pw; canvas.height = ph; }
  const g = canvas.getContext("2d")!;
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  g.clearRect(0, 0, w, hgt);
  return { g, w, h: hgt };
}

const colours = new Map<string, string>();
const roots = new Set<Element>();

/** The viewer's own element, from which its colours are read: where it stands in a shadow tree (marimo), the document does not find it. */
export function styledBy(root: Element): void { roots.add(root); colours.clear(); }
export function noLongerStyledBy(root: Element): void { roots.delete(root); colours.clear(); }

/** A custom property of the page's style; remembered until the theme changes, because asking makes the browser compute styles. */
export function css(name: string): string {
  let value = colours.get(name);
  if (value === undefined) {
    value = getComputedStyle([...roots].find((root) => root.isConnected) ?? document.documentElement).getPropertyValue(name).trim();
    colours.set(name, value);
  }
  return value;
}

export function themeChanged(): void { colours.clear(); }

/** An element of a drawing. */
export function svg<K extends keyof SVGElementTagNameMap>(tag: K, attributes: Attributes = {}, ...children: (Node | string)[]): SVGElementTagNameMap[K] {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  element.append(...children);
  return element;
}

/** What has the focus beside ``element``; of a document that holds it in a shadow tree, the focus is what holds the tree. */
export function focused(element: Element): Element | null { return (element.getRootNode() as Document | ShadowRoot).activeElement; }

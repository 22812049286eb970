// One menu for taking what is shown elsewhere: the link, the picture, the numbers, the Python that makes the figure.

import { h, icon } from "../dom";

export interface Shares { link(): string; picture(): Promise<Blob | null>; python(): string; values(): { name: string; text: string }; lines(): { name: string; text: string } }

export class Share {
  readonly element: HTMLElement;
  private said = h("span", { class: "said", role: "status" });
  private menu: HTMLDetailsElement;

  constructor(shares: Shares, private trouble: (text: string) => void) {
    const item = (label: string, act: () => Promise<string> | string) => h("button", { click: () => void this.act(act) }, label);
    const summary = h("summary", { class: "icon", title: "Share or copy", "aria-label": "Share or copy" },
      icon("M11.5 1.5a2.5 2.5 0 11-1.9 4.1L6.4 7.3a2.5 2.5 0 010 1.4l3.2 1.7a2.5 2.5 0 11-.7 1.3L5.7 10a2.5 2.5 0 110-4l3.2-1.7a2.5 2.5 0 012.6-2.8z"));
    this.menu = h("details", { class: "share" }, summary, h("div", { class: "menu" },
      item("Copy link", async () => { await copy(shares.link()); return "Link copied"; }),
      item("Copy picture", async () => {
        const blob = await shares.picture();
        if (!blob) throw new Error("There is no picture yet.");
        await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
        return "Picture copied";
      }),
      item("Copy as Python", async () => { await copy(shares.python()); return "Python copied"; }),
      item("Save values as CSV", () => { save(shares.values()); return "Saved"; }),
      item("Save lines as CSV", () => { save(shares.lines()); return "Saved"; }), this.said));
    this.menu.addEventListener("keydown", (e) => { if (e.key === "Escape") { this.menu.open = false; summary.focus(); e.stopPropagation(); } });
    document.addEventListener("pointerdown", (e) => { if (!this.menu.contains(e.target as Node)) this.menu.open = false; });
    this.menu.addEventListener("toggle", () => { this.said.textContent = ""; });
    this.element = this.menu;
  }

  private async act(act: () => Promise<string> | string): Promise<void> {
    try { this.said.textContent = await act(); } catch (error) {
      this.said.textContent = "";
      this.trouble((error as Error).name === "NotAllowedError" ? "The browser does not let this page use the clipboard." : (error as Error).message);
    }
  }
}

async function copy(text: string): Promise<void> {
  if (navigator.clipboard) { await navigator.clipboard.writeText(text); return; }
  throw new Error("This browser gives a page no clipboard; the address bar holds the link.");
}

function save({ name, text }: { name: string; text: string }): void { download(new Blob([text], { type: "text/csv;charset=utf-8" }), name); }

export function download(blob: Blob, name: string): void {
  const url = URL.createObjectURL(blob), link = h("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

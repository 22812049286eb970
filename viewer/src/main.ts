// One bundle, three lives: the served page, the page in a file, and the notebook's widget (the default export).

import { App } from "./app";
import type { Source } from "./source";
import { HttpSource } from "./sources/http";
import { NotebookSource, type Model } from "./sources/notebook";
import { FileSource } from "./sources/file";

function boot(root: HTMLElement): void {
  const data = document.getElementById("weightlapse-data");
  const source: Source = data ? new FileSource(data) : new HttpSource();
  (globalThis as { weightlapseSource?: Source }).weightlapseSource = source; // for scripts: the questions that the page itself asks
  void new App(root, source, { page: true }).start();
}

const root = document.getElementById("weightlapse");
if (root && document.body.dataset.wlState === "loading") boot(root);

export default {
  render({ model, el }: { model: Model; el: HTMLElement }): () => void {
    const box = document.createElement("div");
    box.className = "wl in-notebook";
    el.append(box);
    const app = new App(box, new NotebookSource(model), { page: false });
    void app.start();
    return () => app.dispose();
  },
};

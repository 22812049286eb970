import { ViewerError, type Query, type Source } from "../source";

/** What anywidget gives a widget: messages to and from the kernel. */
export interface Model {
  send(content: unknown): void;
  on(event: "msg:custom", callback: (content: { id?: number; error?: string }, buffers: DataView[]) => void): void;
}

/** A notebook's kernel, asked by messages. */
export class NotebookSource implements Source {
  private waiting = new Map<number, { done: (b: ArrayBuffer) => void; failed: (e: Error) => void }>();
  private last = 0;

  constructor(private model: Model) {
    model.on("msg:custom", (content, buffers) => {
      const one = content.id === undefined ? undefined : this.waiting.get(content.id);
      if (!one) return;
      this.waiting.delete(content.id!);
      if (content.error !== undefined) { one.failed(new ViewerError(content.error)); return; }
      const view = buffers[0];
      one.done(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength) as ArrayBuffer);
    });
  }

  ask(word: string, query: Query, signal?: AbortSignal): Promise<ArrayBuffer> {
    const id = ++this.last;
    const words = Object.fromEntries(Object.entries(query).map(([k, v]) => [k, String(v)]));
    return new Promise((done, failed) => {
      this.waiting.set(id, { done, failed });
      signal?.addEventListener("abort", () => {
        if (!this.waiting.delete(id)) return;
        this.model.send({ id, cancel: true });
        failed(new DOMException("no longer wanted", "AbortError"));
      });
      this.model.send({ id, word, query: words });
    });
  }
}

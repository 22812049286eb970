import { ViewerError, type Query, type Source } from "../source";

/** The server of `weightlapse view`, at the page's own address. */
export class HttpSource implements Source {
  async ask(word: string, query: Query, signal?: AbortSignal): Promise<ArrayBuffer> {
    const words = new URLSearchParams(Object.entries(query).map(([k, v]) => [k, String(v)]));
    let answer: Response;
    try {
      answer = await fetch(`api/${word}?${words}`, { signal: signal ?? null });
    } catch (error) {
      if ((error as Error).name === "AbortError") throw error;
      throw new ViewerError("The server does not answer. Is `weightlapse view` still running?");
    }
    if (!answer.ok) throw new ViewerError(await answer.text());
    return answer.arrayBuffer();
  }
}

import { ViewerError, type Query, type Source } from "../source";

export class FileSource implements Source {
  constructor(private data: HTMLElement) {}
  async ask(word: string, _query: Query): Promise<ArrayBuffer> {
    throw new ViewerError(`not yet: ${word} ${this.data.id}`);
  }
}

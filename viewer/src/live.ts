// Runs that are still being written: asked again every second for what is new, until they are closed.

import type { Archive } from "./archive";
import type { Additions, Run } from "./source";

const POLL_MS = 1000;
const AGAIN = 4; // the last frames are asked for again: a loss is often logged a moment after its frame

export interface Listener { live(on: boolean): void; grown(was: number): void; trouble(text: string | null): void }

export class Follower {
  private timer = 0;
  private stopped = false;
  private lost = false;

  constructor(private archive: Archive, private runs: Run[], private listener: Listener) { this.next(); }

  private next(): void {
    const live = this.runs.some((run) => !run.closed);
    this.listener.live(!this.runs[0].closed);
    if (live && !this.stopped) this.timer = window.setTimeout(() => void this.poll(), POLL_MS);
  }

  private async poll(): Promise<void> {
    try {
      for (const [number, run] of this.runs.entries()) {
        if (run.closed) continue;
        const was = run.frames;
        const answer = await this.archive.live(number, Math.max(0, was - AGAIN), run.epochs.length);
        if ("manifest" in answer) Object.assign(run, answer.manifest); else add(run, answer);
        if (number === 0 && (run.frames !== was || run.closed)) this.listener.grown(was);
      }
      if (this.lost) this.listener.trouble(null);
      this.lost = false;
    } catch (error) {
      this.lost = true;
      this.listener.trouble((error as Error).message);
    }
    this.next();
  }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.timer);
  }
}

function add(run: Run, more: Additions): void {
  const was = run.frames;
  run.steps.splice(more.since, run.steps.length, ...more.steps);
  for (const [name, values] of Object.entries(more.scalars)) {
    const before = run.scalars[name] ?? Array.from({ length: more.since }, () => null);
    run.scalars[name] = [...before.slice(0, more.since), ...values];
  }
  Object.assign(run, { frames: more.frames, events: more.events, gaps: more.gaps, closed: more.closed });
  for (const tensor of run.tensors) {
    const piece = tensor.pieces[tensor.pieces.length - 1];
    if (piece.stop === was) piece.stop = run.frames;
  }
}

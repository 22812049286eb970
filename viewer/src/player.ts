// The clock of a playing page. It never skips a frame that it could show and never runs ahead of the frames that have arrived.

import type { Stage } from "./stage";
import type { Store } from "./state";

export class Player {
  playing = false;
  onChange: (playing: boolean) => void = () => undefined;
  private position = 0;
  private last = 0;

  constructor(private store: Store, private stage: Stage, private frames: () => number, private live: () => boolean) {}

  toggle(): void { if (this.playing) this.stop(); else this.start(); }

  start(): void {
    if (this.playing || this.frames() < 2) return;
    if (this.store.view.frame >= this.frames() - 1 && !this.live()) this.store.set({ frame: 0 });
    this.playing = this.stage.playing = true;
    this.position = this.store.view.frame;
    this.last = performance.now();
    this.onChange(true);
    requestAnimationFrame((now) => this.tick(now));
  }

  stop(): void {
    if (!this.playing) return;
    this.playing = this.stage.playing = false;
    this.stage.rest();
    this.onChange(false);
    this.stage.refresh(); // and now exactly
  }

  private tick(now: number): void {
    if (!this.playing) return;
    const { fps, frame } = this.store.view, last = this.frames() - 1;
    const stride = Math.max(1, Math.ceil(fps / 60));
    this.position = Math.min(this.position + (Math.min(250, now - this.last) / 1000) * fps, last);
    this.last = now;
    const target = Math.min(last, frame + Math.floor((this.position - frame) / stride + 0.5) * stride);
    let shown = frame;
    for (let at = target; at > frame; at -= stride) {
      if (this.stage.ready(at, null)) { shown = at; break; }
    }
    if (shown > frame) {
      this.store.set({ frame: shown });
      this.stage.playFrame(shown);
    } else if (target > frame) this.position = Math.min(this.position, frame + stride); // waiting for data: the clock waits too
    this.stage.ready(Math.min(last, shown + stride), { count: Math.max(8, Math.ceil((fps / stride) * 1.5)), step: stride });
    const end = last - ((last - frame) % stride);
    if (shown >= end && !this.live()) {
      if (shown < last) this.store.set({ frame: last });
      this.stop();
    } else requestAnimationFrame((t) => this.tick(t));
  }
}

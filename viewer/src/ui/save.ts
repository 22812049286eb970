// The current view as a picture, or played from here to the end as a film; both made in the page.

import { css } from "../dom";
import type { Stage } from "../stage";
import { download } from "./share";

function caption(title: string, step: number | undefined): string {
  return `${title}   step ${step ?? ""}`;
}

/** Draws the stage with a caption below it. */
function compose(out: HTMLCanvasElement, stage: Stage, text: string): void {
  const ratio = devicePixelRatio || 1, strip = Math.round(34 * ratio);
  const w = stage.canvas.width, hh = stage.canvas.height + strip;
  if (out.width !== w || out.height !== hh) { out.width = w; out.height = hh; }
  const g = out.getContext("2d")!;
  g.fillStyle = css("--paper");
  g.fillRect(0, 0, w, hh);
  g.drawImage(stage.canvas, 0, 0);
  const overlay = stage.element.querySelector<HTMLCanvasElement>(".overlay");
  if (overlay) g.drawImage(overlay, 0, 0);
  g.fillStyle = css("--ink");
  g.font = `500 ${14 * ratio}px ${css("--font")}`;
  g.textBaseline = "middle";
  g.fillText(text, 18 * ratio, hh - strip / 2 - 2 * ratio, w - 36 * ratio);
}

export function safe(title: string): string {
  return title.replace(/[^\w.-]+/g, "_").slice(0, 80) || "weights";
}

export function pictureOf(stage: Stage, title: string, step: number | undefined): Promise<Blob | null> {
  const out = document.createElement("canvas");
  compose(out, stage, caption(title, step));
  return new Promise((done) => { out.toBlob(done, "image/png"); });
}

export async function savePicture(stage: Stage, title: string, step: number | undefined): Promise<void> {
  const blob = await pictureOf(stage, title, step);
  if (blob) download(blob, `${safe(title)}-${step}.png`);
}

const PATIENCE = 5000; // milliseconds

/** Records every drawn frame until `stop`; the browser encodes. */
export class Film {
  private out = document.createElement("canvas");
  private recorder: MediaRecorder | null = null;
  private parts: Blob[] = [];
  private again: () => void = () => undefined; // draws the last frame once more

  static get possible(): boolean { return typeof MediaRecorder !== "undefined" && typeof HTMLCanvasElement.prototype.captureStream === "function"; }
  get recording(): boolean { return this.recorder !== null; }

  start(stage: Stage, title: string, step: number | undefined, fps: number): void {
    compose(this.out, stage, caption(title, step));
    const kind = ["video/webm;codecs=vp9", "video/webm;codecs=vp8", "video/webm"].find((t) => MediaRecorder.isTypeSupported(t));
    const parts: Blob[] = (this.parts = []);
    this.again = () => { compose(this.out, stage, caption(title, step)); };
    const recorder = (this.recorder = new MediaRecorder(this.out.captureStream(Math.min(60, fps)), { mimeType: kind ?? "", videoBitsPerSecond: 12e6 }));
    recorder.ondataavailable = (e) => { if (e.data.size) parts.push(e.data); };
    recorder.onstop = () => download(new Blob(parts, { type: "video/webm" }), `${safe(title)}.webm`);
    recorder.start(500);
  }

  frame(stage: Stage, title: string, step: number | undefined): void {
    if (!this.recorder) return;
    this.again = () => { compose(this.out, stage, caption(title, step)); };
    this.again();
  }

  /** The last frame stays until the encoder has given its first part: a film shorter than that would be empty. */
  stop(): void {
    const { recorder, parts, again } = this, until = performance.now() + PATIENCE;
    this.recorder = null;
    const end = () => {
      if (!recorder || recorder.state === "inactive") return;
      if (parts.length || performance.now() > until) { recorder.stop(); return; }
      again();
      setTimeout(end, 100);
    };
    end();
  }
}

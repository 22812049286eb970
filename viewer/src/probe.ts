// The value under the pointer: always the stored one, also while the picture is reduced or plays in eight bits.

import type { Archive, Series } from "./archive";
import { ownIndex } from "./scene/plane";
import { pieceAt } from "./source";
import type { Place, Stage } from "./stage";

export interface Reading {
  tensor: string; run: number; index: number[]; step: number; frame: number;
  value: number | bigint; dtype: string; bound: number; difference: number | null;
  others: { title: string; value: number }[]; // the same cell in the panels beside it
}

export class Probe {
  private series: { key: string; data: Series } | null = null;
  private asking: { key: string; cancel: AbortController } | null = null;

  constructor(private stage: Stage, private archive: Archive, private onRead: (reading: Reading | null) => void) {}

  /** Reads the cell under the pointer at the frame that is drawn; asks for it when it is not here. */
  update(frame: number, ahead: number): void {
    const place = this.stage.cursor ?? this.stage.hover ?? this.stage.last;
    if (!place) { this.onRead(null); return; }
    const { panel } = place, { source } = panel, at = source.frameOf(frame);
    const piece = pieceAt(source.tensor, at);
    if (!piece) { this.onRead(null); return; }
    const [row, col] = this.stage.own(place), index = ownIndex(piece, row, col);
    if (!index) { this.onRead(null); return; }
    const about = { tensor: source.tensor.name, run: source.run, index, step: source.of.steps[at], frame,
      dtype: source.tensor.dtype, others: this.beside(place, frame) };
    const plane = panel.plane, look = this.stage.lookOf(panel);
    const whole = plane && plane.frame === at && plane.f[0] === 1 && plane.f[1] === 1;
    const inside = whole && place.row >= plane.r[0] && place.row < plane.r[1] && place.col >= plane.c[0] && place.col < plane.c[1];
    const local = inside ? plane.values[(place.row - plane.r[0]) * plane.cols + place.col - plane.c[0]] : null;
    if (local !== null && !look.ref) { this.onRead({ ...about, value: local, bound: plane!.bound ?? 0, difference: null }); return; }
    const key = JSON.stringify([source.run, about.tensor, row, col]);
    if (this.series?.key === key) {
      const { data } = this.series, i = (at - data.start) / data.step;
      if (i >= 0 && i < data.count) {
        this.onRead({ ...about, value: data.values[i], bound: data.bounds?.[i] ?? 0, difference: look.ref && local !== null ? Number(local) : null });
        if (i + 8 < data.count || ahead === 0) return;
      }
    }
    this.ask(key, source.run, about.tensor, [row, col], at, Math.min(source.of.frames, at + 1 + ahead), frame);
  }

  private beside(place: Place, frame: number): { title: string; value: number }[] {
    const found = [];
    for (const panel of this.stage.panels) {
      const { plane, source } = panel;
      if (panel === place.panel || source.tensor.name !== place.panel.source.tensor.name || !plane || plane.f[0] > 1 || plane.f[1] > 1) continue;
      const { row, col } = place;
      if (plane.frame !== source.frameOf(frame) || row < plane.r[0] || row >= plane.r[1] || col < plane.c[0] || col >= plane.c[1]) continue;
      found.push({ title: source.title, value: Number(plane.values[(row - plane.r[0]) * plane.cols + col - plane.c[0]]) });
    }
    return found;
  }

  private ask(key: string, run: number, tensor: string, cell: [number, number], start: number, stop: number, frame: number): void {
    if (this.asking?.key === key + start) return;
    this.asking?.cancel.abort();
    const asking = (this.asking = { key: key + start, cancel: new AbortController() });
    this.archive.series(run, tensor, [cell], [start, stop], 1, asking.cancel.signal).then((data) => {
      if (this.asking !== asking) return;
      this.asking = null;
      this.series = { key, data };
      this.update(this.stage.panels[0]?.drawn?.frame ?? frame, 0);
    }, () => { if (this.asking === asking) this.asking = null; });
  }
}

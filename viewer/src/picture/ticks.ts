// What is written along a picture; the twin of weightlapse/picture/ticks.py.

import type { Layout } from "./layout";

export interface Tick { first: number; cells: number; text: string }
export interface Side { unit: string; ticks: Tick[] }

/** Ticks along the rows (`down`) or the columns. `cell`: pixels of one; `room`: pixels that a number needs. */
export function side(layout: Layout, down: boolean, cell: number, room: number): Side {
  const levels = down ? layout.down : layout.across;
  for (let i = 0; i < levels.length; i++) {
    const level = levels[i];
    if (level.count === 1) continue;
    const every = levels.slice(i + 1).reduce((n, inner) => n * inner.count, 1), named = level.names.length > 0;
    if (named && every * cell < room) return { unit: level.unit, ticks: [] };
    const same = [...layout.down, ...layout.across].filter((l) => l.axis === level.axis && l.unit === level.unit);
    const base = Math.min(...same.map((l) => l.stride)), step = named ? 1 : round(room / (every * cell));
    const ticks: Tick[] = [];
    for (let n = 0; n < level.count; n += step)
      ticks.push({ first: n * every, cells: every, text: named ? level.names[n] : String(Math.floor((n * level.stride) / base)) });
    return { unit: level.unit, ticks };
  }
  return { unit: "", ticks: [] };
}

/** The smallest of 1, 2, 5, 10, 20, ... that is not below `least`. */
function round(least: number): number {
  for (let power = 1; ; power *= 10)
    for (const factor of [1, 2, 5]) if (factor * power >= least) return factor * power;
}

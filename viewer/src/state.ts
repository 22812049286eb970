// What is shown, as one table: every property with its default, and how it is written in the address. Whatever differs from the
// default stands in the address, so an address restores the view.

import type { Rank } from "./map/change";
import type { Mode } from "./scene/colour";
import type { TimeScale } from "./scene/time";
import type { Warp } from "./warp";

export interface View {
  tensor: string;
  frame: number;
  fps: number;
  scale: "tensor" | "layer" | "global" | "step";
  diff: string; // "", "first", "prev", "frame:N"
  order: string; // "", "norm", "canonical", "kin"
  cells: Mode;
  time: TimeScale;
  show: "one" | "all" | "pair";
  also: string[]; // further tensors beside the first
  zoom: string; // "k,x,y" of the camera, "" when whole
  scalar: string;
  curve: string;
  map: "off" | "on";
  rank: Rank; // what the map is coloured by
  colour: Warp;
  window: string; // "a:b", frames that the charts show; "" for all
  pins: string[]; // "run|tensor|i,j", chosen weights
  panels: string[]; // opened parts of the inspector
  spread: "bands" | "ridge";
  of: "weights" | "updates" | "gradients"; // whose distribution
  scope: "tensor" | "layer" | "unit";
  unit: number; // -1: none
  compare: "side" | "blink" | "difference"; // beside each other, in turn at one place, or their difference alone
  align: "both" | "on" | "follow" | "off"; // a second run in the first one's order of units (of the last step, or followed through time), as it is, or both
  against: string; // "frame:N": compared with this frame of the same run instead of with another run
}

interface Property<T> { initial: T; read(text: string): T | undefined; write(value: T): string; always?: boolean }

const text = (initial: string, pattern?: RegExp): Property<string> => ({
  initial, read: (t) => (!pattern || pattern.test(t) ? t : undefined), write: (v) => v,
});
const whole = (initial: number, least: number, always: boolean): Property<number> => ({
  initial, always, write: String,
  read: (t) => (/^-?\d+$/.test(t) && Number(t) >= least ? Number(t) : undefined),
});
function oneOf<T extends string>(initial: T, ...others: T[]): Property<T> {
  return { initial, write: (v) => v, read: (t) => ([initial, ...others] as string[]).includes(t) ? (t as T) : undefined };
}

function list(pattern?: RegExp): Property<string[]> {
  return { initial: [], write: (v) => v.join("\n"), read: (t) => {
    const found = t.split("\n").filter(Boolean);
    return !pattern || found.every((word) => pattern.test(word)) ? found : undefined;
  } };
}

export const PROPERTIES: { [K in keyof View]: Property<View[K]> } = {
  tensor: { ...text(""), always: true },
  frame: whole(0, -1e9, true),
  fps: whole(30, 1, true),
  scale: oneOf("tensor", "layer", "global", "step"),
  diff: text("", /^(first|prev|frame:\d+|)$/),
  order: text("", /^(norm|canonical|kin|)$/),
  cells: oneOf("typical", "extreme", "mean", "min", "max"),
  time: oneOf("frames", "steps", "log"),
  show: oneOf("one", "all", "pair"),
  also: list(),
  zoom: text("", /^(-?[\d.]+(e-?\d+)?,){2}-?[\d.]+(e-?\d+)?$/),
  scalar: text(""),
  curve: text("norm"),
  map: oneOf("off", "on"),
  rank: oneOf("since", "now"),
  colour: oneOf("linear", "symlog", "percentile"),
  window: text("", /^(\d+:\d+|)$/),
  pins: list(/^\d+\|[\s\S]*\|(\d+(,\d+)*)?$/),
  panels: list(/^[a-z]+$/),
  spread: oneOf("bands", "ridge"),
  of: oneOf("weights", "updates", "gradients"),
  scope: oneOf("tensor", "layer", "unit"),
  unit: whole(-1, -1, false),
  compare: oneOf("side", "blink", "difference"),
  align: oneOf("both", "on", "follow", "off"),
  against: text("", /^(frame:\d+|)$/),
};

export function initialView(): View {
  return Object.fromEntries(Object.entries(PROPERTIES).map(([k, p]) => [k, p.initial])) as unknown as View;
}

/** What an address says; words it gets wrong are returned as complaints rather than dropped in silence. */
export function readAddress(hash: string): { view: Partial<View>; step: number | null; complaints: string[] } {
  const view: Record<string, unknown> = {}, complaints: string[] = [];
  let step: number | null = null;
  for (const [key, value] of new URLSearchParams(hash.replace(/^#/, ""))) {
    if (key === "step") {
      if (/^-?\d+$/.test(value)) step = Number(value); else complaints.push(`step=${value} is not a whole number`);
      continue;
    }
    const property = PROPERTIES[key as keyof View] as Property<unknown> | undefined;
    const read = property?.read(value);
    if (!property) complaints.push(`the address has an unknown word: ${key}`);
    else if (read === undefined) complaints.push(`the address has ${key}=${value}, which cannot be`);
    else view[key] = read;
  }
  return { view: view as Partial<View>, step, complaints };
}

export function writeAddress(view: View): string {
  const words = new URLSearchParams();
  for (const [key, property] of Object.entries(PROPERTIES) as [keyof View, Property<unknown>][]) {
    const now = property.write(view[key]);
    if (property.always || now !== property.write(property.initial)) words.set(key, now);
  }
  return `#${words}`;
}

type Listener = (changed: Set<keyof View>) => void;

/** The frames that the charts show: those of the window, or all. */
export function windowOf(view: View, frames: number): [number, number] {
  const [a, b] = view.window.split(":").map(Number);
  return view.window && b > a && a < frames - 1 ? [a, Math.min(b, frames - 1)] : [0, Math.max(1, frames - 1)];
}

/** The view, and who wants to know when it changes. Changes made together are told together. */
export class Store {
  readonly view: View = initialView();
  private listeners: Listener[] = [];
  private pending = new Set<keyof View>();

  set(change: Partial<View>): void {
    for (const [key, value] of Object.entries(change) as [keyof View, never][]) {
      if (this.view[key] === value) continue;
      (this.view[key] as unknown) = value;
      this.pending.add(key);
    }
    if (!this.pending.size) return;
    const changed = this.pending;
    this.pending = new Set();
    for (const listener of this.listeners) listener(changed);
  }

  onChange(listener: Listener): void { this.listeners.push(listener); }
}

// The network as a map needs it: layers in the order in which they compute, what each writes and reads, and the residual streams that several
// layers write to. All from the recorded wiring; without one the order of the recording is all there is, and `wired` says so.

import { layerOf } from "../scene/layout";
import type { Run } from "../source";

export interface Layer {
  name: string;
  tensors: string[];
  weights: number;
  depth: number; // the layers that must have computed before it
  part: number; // networks that share nothing (a GAN's two) are parts of their own
}
/** `stream`: written to by several layers one after the other, as in a residual network. */
export interface Link { group: string; units: number; stream: boolean; writers: number[]; through: number[]; readers: number[] }
export interface Network { layers: Layer[]; links: Link[]; parts: number; wired: boolean }

export function networkOf(run: Run): Network {
  const layers: Layer[] = [], at = new Map<string, number>(), home = new Map<string, number>();
  for (const tensor of run.tensors) {
    if (tensor.stream !== "weights") continue;
    const name = layerOf(tensor.name) || tensor.name;
    const weights = tensor.pieces[tensor.pieces.length - 1].shape.reduce((n, s) => n * s, 1);
    let i = at.get(name);
    if (i === undefined) {
      i = layers.length;
      at.set(name, i);
      layers.push({ name, tensors: [], weights: 0, depth: i, part: 0 });
    }
    layers[i].tensors.push(tensor.name);
    layers[i].weights += weights;
    for (const known of [tensor.name, ...tensor.aliases]) home.set(known, i);
  }
  const links = run.groups.map((g) => linkOf(g, home)).filter((l): l is Link => l !== null);
  if (!links.length) return { layers, links, parts: 1, wired: false };
  const parts = partsOf(layers, links);
  depths(layers, links);
  for (const link of links) {
    const levels = new Set(link.writers.map((w) => layers[w].depth)), first = Math.min(...levels);
    link.stream = levels.size > 1 && [...link.readers, ...link.through].some((r) => layers[r].depth > first);
  }
  return { layers, links, parts, wired: true };
}

function linkOf(group: Run["groups"][number], home: Map<string, number>): Link | null {
  const roles = new Map<number, Set<string>>();
  for (const { tensor, role } of group.members) {
    const layer = home.get(tensor);
    if (layer === undefined) continue;
    const known = roles.get(layer) ?? new Set<string>();
    for (const word of role.split("+")) known.add(word);
    roles.set(layer, known);
  }
  const of = (what: (words: Set<string>) => boolean) => [...roles].filter(([, words]) => what(words)).map(([layer]) => layer).sort((a, b) => a - b);
  const link = { group: group.name, units: group.size, stream: false, writers: of((w) => w.has("out")), readers: of((w) => w.has("in")),
    through: of((w) => !w.has("out") && !w.has("in")) };
  return roles.size > 1 ? link : null;
}

/** Before which layers a layer computes: a writer before the readers, a norm between them. */
function orders(links: Link[], forwardOnly: boolean): [number, number][] {
  const pairs: [number, number][] = [];
  for (const { writers, through, readers } of links) {
    const before = (a: number, b: number) => { if (a !== b && (a < b || !forwardOnly)) pairs.push([a, b]); };
    const several = writers.length > 1;
    for (const w of writers) for (const r of [...through, ...readers]) if (!several || w < r) before(w, r);
    for (const t of through) for (const r of readers) if (!several || t < r) before(t, r);
    for (const t of through) for (const u of through) if (t < u && several) before(t, u);
    if (several) for (const t of through) for (const w of writers) if (t < w) before(t, w);
  }
  return pairs;
}

function depths(layers: Layer[], links: Link[]): void {
  // the recorded order is mostly that of computation; where a layer was defined late its wires tell, unless they run in circles
  const found = longest(layers.length, orders(links, false)) ?? longest(layers.length, orders(links, true))!;
  const linked = new Set(links.flatMap((l) => [...l.writers, ...l.through, ...l.readers]));
  layers.forEach((layer, i) => {
    layer.depth = linked.has(i) || i === 0 ? found[i] : layers[i - 1].depth + 1;
  });
}

/** The length of the longest path to each of `count` places; null where the pairs run in circles. */
export function longest(count: number, pairs: [number, number][]): number[] | null {
  const after: number[][] = Array.from({ length: count }, () => []), waits = new Array<number>(count).fill(0), depth = new Array<number>(count).fill(0);
  for (const [a, b] of pairs) { after[a].push(b); waits[b]++; }
  const ready = waits.flatMap((n, i) => (n === 0 ? [i] : []));
  let done = 0;
  for (let i = ready.pop(); i !== undefined; i = ready.pop()) {
    done++;
    for (const b of after[i]) {
      depth[b] = Math.max(depth[b], depth[i] + 1);
      if (--waits[b] === 0) ready.push(b);
    }
  }
  return done === count ? depth : null;
}

/** Numbers the networks that share no units; a layer without wires belongs to the one before it. */
function partsOf(layers: Layer[], links: Link[]): number {
  const parent = layers.map((_, i) => i);
  const root = (i: number): number => { while (parent[i] !== i) i = parent[i] = parent[parent[i]]; return i; };
  const linked = new Set<number>();
  for (const link of links) {
    const all = [...link.writers, ...link.through, ...link.readers];
    for (const i of all) { linked.add(i); parent[root(i)] = root(all[0]); }
  }
  const numbers = new Map<number, number>();
  layers.forEach((layer, i) => {
    if (!linked.has(i) && i > 0) { layer.part = layers[i - 1].part; return; }
    const r = root(i);
    if (!numbers.has(r)) numbers.set(r, numbers.size);
    layer.part = numbers.get(r)!;
  });
  return Math.max(1, numbers.size);
}

/** The block that a layer belongs to, for a label over several layers: its name as far as the first number, or without its last word. */
export function blockOf(name: string): string {
  const words = name.split(/[./]/), number = words.findIndex((w) => /^\d+$/.test(w));
  if (words.length < 2) return name;
  return words.slice(0, number > 0 && number < words.length - 1 ? number + 1 : -1).join(".");
}

// Where the layers stand on the map: columns by depth from left to right, branches of one depth below each other, residual streams as rails
// underneath. A network with more columns than the width has room for goes on in the next line.

import { blockOf, type Network } from "./network";

export interface Box { layer: number; x: number; y: number; side: number; line: number }
export interface Rail { group: string; units: number; line: number; x0: number; x1: number; y: number; stops: { x: number; top: number; writes: boolean }[] }
export interface Wire { x0: number; y0: number; x1: number; y1: number }
export interface Label { text: string; x0: number; x1: number; y: number }
export interface Placed { boxes: Box[]; rails: Rail[]; wires: Wire[]; labels: Label[]; width: number; height: number }

const LEAST = 7, GAP = 6, LANE = 5, HEAD = 17, RAIL = 9, BETWEEN = 12, MOST = 54;

interface Column { part: number; depth: number; layers: number[] }

export function place(network: Network, width: number, height: number): Placed {
  const columns = columnsOf(network);
  let best = set(network, columns, width, 0);
  let low = 0, high = 30;
  for (let i = 0; i < 18; i++) { // the largest boxes with which all of it fits; with the smallest it may be higher than asked for
    const mid = (low + high) / 2, tried = set(network, columns, width, mid);
    if (tried.height <= height && tried.lines <= Math.max(best.lines, network.parts)) { low = mid; best = tried; } else high = mid;
  }
  return best;
}

function columnsOf({ layers }: Network): Column[] {
  const found = new Map<string, Column>();
  layers.forEach(({ part, depth }, i) => {
    const key = `${part}/${depth}`, column = found.get(key) ?? { part, depth, layers: [] };
    column.layers.push(i);
    found.set(key, column);
  });
  return [...found.values()].sort((a, b) => a.part - b.part || a.depth - b.depth);
}

/** The area of a box grows with the weights of its layer, from a size at which it can still be seen and met. */
function sideOf(weights: number, scale: number): number { return Math.min(MOST, LEAST + scale * (weights / 1000) ** 0.3); }

function set(network: Network, columns: Column[], width: number, scale: number): Placed & { lines: number } {
  const { layers, links } = network;
  const sides = layers.map((l) => sideOf(l.weights, scale));
  const wide = columns.map((c) => Math.max(...c.layers.map((i) => sides[i])) + GAP);
  // lines: a part begins a new one, and so does a column that has no room left
  const lines: number[][] = [];
  let used = Infinity;
  columns.forEach((c, k) => {
    if (used + wide[k] > width || (k > 0 && columns[k - 1].part !== c.part)) { lines.push([]); used = 0; }
    lines[lines.length - 1].push(k);
    used += wide[k];
  });
  const boxes: Box[] = new Array(layers.length), labels: Label[] = [], rails: Rail[] = [], wires: Wire[] = [];
  let top = 0;
  lines.forEach((line, number) => {
    const natural = line.reduce((n, k) => n + wide[k], 0), spare = Math.min(26, Math.max(0, (width - natural) / line.length));
    let x = 0, low = 0;
    for (const k of line) {
      let y = top + HEAD;
      for (const i of columns[k].layers) {
        boxes[i] = { layer: i, x: x + (wide[k] - GAP - Math.max(...columns[k].layers.map((j) => sides[j]))) / 2, y, side: sides[i], line: number };
        y += sides[i] + LANE;
      }
      low = Math.max(low, y - LANE);
      x += wide[k] + spare;
    }
    labels.push(...labelsOf(line.map((k) => columns[k]), network, boxes, top + HEAD - 6));
    // rails of this line: each at the first height at which it meets no other
    const taken: [number, number][][] = [];
    for (const link of links) {
      if (!link.stream) continue;
      const here = (list: number[]) => list.filter((i) => boxes[i]?.line === number);
      const writers = here(link.writers), readers = here([...link.readers, ...link.through]);
      const middle = (i: number) => boxes[i].x + boxes[i].side / 2;
      const all = [...writers, ...readers].map(middle);
      if (!all.length) continue;
      const goesOn = [...link.writers, ...link.readers].some((i) => (boxes[i]?.line ?? number + 1) > number);
      const cameFrom = link.writers.some((i) => boxes[i] && boxes[i].line < number);
      const x0 = cameFrom ? 0 : Math.min(...all), x1 = goesOn ? Math.max(...all, x - spare - GAP) : Math.max(...all);
      let row = 0;
      while (taken[row]?.some(([a, b]) => x0 < b + 4 && x1 > a - 4)) row++;
      (taken[row] ??= []).push([x0, x1]);
      const stop = (i: number, writes: boolean) => ({ x: middle(i), top: boxes[i].y + boxes[i].side, writes });
      rails.push({ group: link.group, units: link.units, line: number, x0, x1, y: low + RAIL + row * RAIL,
        stops: [...writers.map((i) => stop(i, true)), ...readers.map((i) => stop(i, false))] });
    }
    top = low + (taken.length ? RAIL * (taken.length + 1) : 4) + BETWEEN;
  });
  for (const link of links) {
    if (link.stream) continue;
    const steps = [link.writers, link.through, link.readers].filter((s) => s.length);
    for (let s = 0; s + 1 < steps.length; s++) for (const a of steps[s]) for (const b of steps[s + 1]) {
      const from = boxes[a], to = boxes[b];
      if (from && to && from.line === to.line && from.x < to.x)
        wires.push({ x0: from.x + from.side, y0: from.y + from.side / 2, x1: to.x, y1: to.y + to.side / 2 });
    }
  }
  return { boxes, rails, wires, labels, width, height: top - BETWEEN, lines: lines.length };
}

/** One label over neighbouring columns of the same block. */
function labelsOf(columns: Column[], network: Network, boxes: Box[], y: number): Label[] {
  const labels: Label[] = [];
  for (const column of columns) {
    const name = blockOf(network.layers[column.layers[0]].name), last = labels[labels.length - 1];
    const box = boxes[column.layers[0]], x1 = box.x + Math.max(...column.layers.map((i) => boxes[i].side));
    if (last && last.text === name) last.x1 = x1;
    else labels.push({ text: name, x0: box.x, x1, y });
  }
  return labels;
}

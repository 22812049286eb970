import assert from "node:assert/strict";
import { test } from "node:test";
import { resolve } from "../src/address";
import type { Run } from "../src/source";
import { initialView, PROPERTIES, readAddress, writeAddress, Store, type View } from "../src/state";

export function runOf(...names: string[]): Run {
  return { name: "run", tensors: names.map((name) => ({ name, dtype: "float32", stream: "weights", aliases: [],
    pieces: [{ start: 0, stop: 10, shape: name.endsWith("bias") ? [4] : [4, 6] }] })), exact: true, tolerance: null, epochs: [{ start: 0, stop: 10 }],
  groups: [], nbytes: 1, storedNbytes: 1, since: 0, frames: 10, steps: Array.from({ length: 10 }, (_, i) => i * 10), scalars: {}, events: [], gaps: [],
  closed: true };
}

test("every property comes back from the address as it went in", () => {
  const changed: Partial<View> = {};
  const other: Record<string, unknown> = { tensor: "a.b/c=d&e", frame: 7, fps: 60, scale: "layer", diff: "frame:3", order: "kin", cells: "mean", time: "log",
    show: "pair", also: ["x", "y z"], zoom: "2,-3.5,4e-3", scalar: "loss", curve: "mass", map: "on", colour: "symlog", window: "2:8",
    pins: ["0|fc.weight|1,2", "1|fc.weight|0,0"], panels: ["units", "spectrum"], spread: "ridge", of: "updates", scope: "unit", unit: 3, compare: "blink", align: "on", against: "frame:4", rank: "now" };
  for (const [key, property] of Object.entries(PROPERTIES)) {
    assert.ok(key in other, `the test has no other value for ${key}`);
    assert.notDeepEqual(other[key], property.initial, key);
    (changed as Record<string, unknown>)[key] = other[key];
  }
  const { view, complaints } = readAddress(writeAddress({ ...initialView(), ...changed }));
  assert.deepEqual(complaints, []);
  assert.deepEqual(view, changed);
});

test("what differs from nothing is not in the address", () => {
  assert.equal(writeAddress(initialView()), "#tensor=&frame=0&fps=30");
});

test("words that cannot be are said, not dropped", () => {
  const { view, complaints } = readAddress("#frame=x&scale=pink&colours=red&step=z&fps=60");
  assert.equal(complaints.length, 4);
  assert.deepEqual(view, { fps: 60 });
});

test("an address against the recording at hand", () => {
  const runs = [runOf("fc1.bias", "fc1.weight")];
  assert.equal(resolve("", runs, true).view.tensor, "fc1.weight"); // the first matrix
  const large = runOf("wte", "fc", "b.bias");
  large.tensors[0].pieces[0].shape = [50257, 768];
  assert.equal(resolve("", [large], true).view.tensor, "fc"); // what is drawn at once
  large.tensors[1].pieces[0].shape = [50257, 768];
  assert.equal(resolve("", [large], true).view.tensor, "wte");
  assert.equal(resolve("#step=44", runs, false).view.frame, 4);
  assert.equal(resolve("#frame=-1", runs, false).view.frame, 9);
  const { view, complaints } = resolve("#tensor=no&frame=99", runs, true);
  assert.deepEqual([view.tensor, view.frame], ["fc1.weight", 9]);
  assert.equal(complaints.length, 2);
});

test("listeners hear of what changed, once", () => {
  const store = new Store(), heard: string[][] = [];
  store.onChange((changed) => { heard.push([...changed].sort()); });
  store.set({ frame: 3, fps: 60 });
  store.set({ frame: 3 });
  store.set({ frame: 4 });
  assert.deepEqual(heard, [["fps", "frame"], ["frame"]]);
});

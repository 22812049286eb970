import { strict as assert } from "node:assert";
import { test } from "node:test";
import { comparedSources } from "../src/sets";
import type { Run } from "../src/source";
import { initialView, type View } from "../src/state";

const run = (name: string): Run => ({ name, frames: 3, steps: [0, 1, 2], tensors: [{ name: "w", dtype: "float32", stream: "weights", aliases: [],
  pieces: [{ start: 0, stop: 3, shape: [2, 2] }] }] }) as unknown as Run;
const runs = [run("a"), run("b"), run("b, aligned"), run("b, followed")];
const shown = (change: Partial<View>, moved = { aligned: 2, followed: 3 } as { aligned: number | null; followed: number | null }) =>
  comparedSources(moved.followed === null ? runs.slice(0, 3) : runs, moved, { ...initialView(), tensor: "w", show: "pair", ...change }).map((s) => [s.run, s.title, s.ref]);

test("a pair is shown as it is, aligned, both, or followed", () => {
  assert.deepEqual(shown({ align: "off" }), [[0, "a", ""], [1, "b", ""], [0, "difference", "run:1"]]);
  assert.deepEqual(shown({ align: "on" }), [[0, "a", ""], [2, "b, aligned", ""], [0, "difference, aligned", "run:2"]]);
  assert.deepEqual(shown({ align: "both" }), [[0, "a", ""], [1, "b", ""], [2, "b, aligned", ""], [0, "difference, aligned", "run:2"]]);
  assert.deepEqual(shown({ align: "follow" }), [[0, "a", ""], [3, "b, followed", ""], [0, "difference, followed", "run:3"]]);
  assert.deepEqual(shown({ align: "follow", compare: "difference" }), [[0, "difference, followed", "run:3"]]);
});

test("until the followed run is there the pair is shown as it is", () => {
  assert.deepEqual(shown({ align: "follow" }, { aligned: 2, followed: null }), [[0, "a", ""], [1, "b", ""], [0, "difference", "run:1"]]);
});

import assert from "node:assert/strict";
import { test } from "node:test";
import file from "../../weightlapse/picture/cases.json";
import { byLayer, fellows, fitBox, layerOf, leafOf, sideBySide, type Rect } from "../src/scene/layout";
import { display, finest, visible } from "../src/scene/reduce";

const apart = (a: Rect, b: Rect) => a.x + a.w <= b.x || b.x + b.w <= a.x || a.y + a.h <= b.y || b.y + b.h <= a.y;

test("a picture fits its box", () => {
  for (const [rows, cols] of [[1, 1], [3, 1000], [1000, 3], [64, 64], [0, 5]]) {
    const box = fitBox(rows, cols, 500, 300);
    assert.ok(box.w > 0 && box.w <= 500 && box.h > 0 && box.h <= 300, `${rows} x ${cols}: ${JSON.stringify(box)}`);
  }
});

for (const count of [1, 2, 3, 7]) test(`${count} panels side by side stay apart and inside`, () => {
  const rects = sideBySide(Array.from({ length: count }, () => ({ rows: 48, cols: 64, layer: "" })), 900, 500, count > 1);
  assert.equal(rects.length, count);
  rects.forEach((r, i) => {
    assert.ok(r.x >= 0 && r.y >= 0 && r.x + r.w <= 900 && r.y + r.h <= 500);
    rects.slice(i + 1).forEach((other) => { assert.ok(apart(r, other)); });
  });
});

test("a whole network stands without overlaps", () => {
  const sizes = Array.from({ length: 40 }, (_, i) => ({ rows: 1 + ((i * 37) % 300), cols: 1 + ((i * 91) % 500), layer: `l${i >> 1}` }));
  const rects = byLayer(sizes, 1000, 600);
  rects.forEach((r, i) => { rects.slice(i + 1).forEach((other) => { assert.ok(apart(r, other)); }); });
});

test("biases and norms stand as strips under what they belong to", () => {
  // recorded in this order: a norm of three vectors, a bias before its matrix (units down), a matrix with units across, its bias
  const sizes = [{ rows: 1, cols: 64, layer: "ln" }, { rows: 1, cols: 64, layer: "ln", of: 0, along: true }, { rows: 1, cols: 64, layer: "ln", of: 0, along: true },
    { rows: 1, cols: 48, layer: "fc", of: 4, along: false }, { rows: 48, cols: 64, layer: "fc" },
    { rows: 64, cols: 200, layer: "out" }, { rows: 1, cols: 200, layer: "out", of: 5, along: true }];
  const rects = byLayer(sizes, 1200, 700);
  for (const [k, s] of sizes.entries()) {
    if (s.of === undefined) continue;
    const own = rects[k], main = rects[s.of], between = rects.filter((r, n) => n !== k && r.x === main.x && r.y >= main.y + main.h && r.y < own.y);
    assert.equal(own.x, main.x);
    assert.ok(own.y >= main.y + main.h && own.y + own.h < main.y + main.h + 200);
    assert.ok(between.every((r) => sizes[rects.indexOf(r)].of === s.of), "nothing but its fellow strips is between");
    assert.ok(own.h < main.h || sizes[s.of].rows === 1);
    if (s.along) assert.equal(own.w, main.w);
  }
  assert.ok(rects[3].y > rects[4].y, "also where the bias was recorded first");
  rects.forEach((r, i) => { rects.slice(i + 1).forEach((other) => { assert.ok(apart(r, other)); }); });
});

test("what the strips of every case belong to is in the same layer, and as long as they are", () => {
  for (const [word, found] of Object.entries(file.strips as unknown as Record<string, Record<string, [string, string]>>)) {
    const network = (file.networks as Record<string, Record<string, number[]>>)[word];
    for (const [name, [main, way]] of Object.entries(found)) {
      assert.equal(network[name].length <= 1, true);
      const shape = network[main], size = network[name][0] ?? 1;
      assert.ok(shape.length < 2 ? size === (shape[0] ?? 1) : size === (way === "below" ? shape[1] : shape[0]) || shape.length > 2, `${name} beside ${main}`);
    }
  }
});

test("reductions are the powers of two around a pixel", () => {
  for (let size = 0.01; size < 3; size *= 1.13) {
    assert.ok(finest(size) * size <= 1 + 1e-6 || finest(size) === 1);
    assert.ok(display(size) * size >= 1 - 1e-6);
    assert.equal(Math.log2(display(size)) % 1, 0);
  }
});

test("what is visible holds the screen and begins on whole tiles", () => {
  const seen = visible(1000, 1000, { x: -300, y: -200, dx: 1, dy: 2 }, 400, 300, [4, 8])!;
  assert.ok(seen.r[0] <= 100 && seen.r[1] >= 250 && seen.c[0] <= 300 && seen.c[1] >= 700);
  assert.deepEqual([seen.r[0] % 4, seen.c[0] % 8], [0, 0]);
  assert.equal(visible(10, 10, { x: 500, y: 0, dx: 1, dy: 1 }, 400, 300, [1, 1]), null);
});

test("the same tensor of every expert", () => {
  const names = ["moe.experts.0.w1.weight", "moe.experts.0.w2.weight", "moe.experts.1.w1.weight", "moe.experts.10.w1.weight", "moe.gate.weight", "other.experts.0.w1.weight"];
  assert.deepEqual(fellows(names, names[0]), [names[0], names[2], names[3]]);
  assert.deepEqual(fellows(names, "moe.gate.weight"), []);
  assert.deepEqual(fellows(["expert/0/kernel", "expert/1/kernel", "expert/1/bias"], "expert/1/kernel"), ["expert/0/kernel", "expert/1/kernel"]);
  assert.deepEqual(fellows(["noexperts.0.w"], "noexperts.0.w"), []);
});

test("names split into layer and leaf", () => {
  assert.deepEqual([layerOf("blocks.0.fc.weight"), leafOf("blocks.0.fc.weight")], ["blocks.0.fc", "weight"]);
  assert.deepEqual([layerOf("dense/kernel"), leafOf("dense/kernel")], ["dense", "kernel"]);
  assert.deepEqual([layerOf("W"), leafOf("W")], ["", "W"]);
});

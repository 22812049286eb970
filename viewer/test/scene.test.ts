import assert from "node:assert/strict";
import { test } from "node:test";
import { byLayer, fitBox, layerOf, leafOf, sideBySide, type Rect } from "../src/scene/layout";
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

test("names split into layer and leaf", () => {
  assert.deepEqual([layerOf("blocks.0.fc.weight"), leafOf("blocks.0.fc.weight")], ["blocks.0.fc", "weight"]);
  assert.deepEqual([layerOf("dense/kernel"), leafOf("dense/kernel")], ["dense", "kernel"]);
  assert.deepEqual([layerOf("W"), leafOf("W")], ["", "W"]);
});

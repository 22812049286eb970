import assert from "node:assert/strict";
import { test } from "node:test";
import { lookup } from "../src/scene/colour";
import { shares, symlog, warped } from "../src/warp";

const table = lookup("light");
const at = (t: Uint8Array, code: number) => [...t.subarray(code * 4, code * 4 + 4)];

test("linear is the table itself; zero, ends and marks stay in every stretch", () => {
  assert.equal(warped(table, "linear", null), table);
  const ranks = shares(Array.from({ length: 1000 }, (_, i) => 128 + (i % 9) - 4));
  for (const stretched of [warped(table, "symlog", null), warped(table, "percentile", ranks)]) {
    for (const code of [0, 1, 2, 128, 254, 255]) assert.deepEqual(at(stretched, code), at(table, code), String(code));
    assert.deepEqual(at(stretched, 253), at(table, 253));
    assert.deepEqual(at(stretched, 3), at(table, 3));
  }
});

test("a stretch keeps the order: what is darker stays at least as dark", () => {
  for (const ranks of [null, shares(Array.from({ length: 500 }, (_, i) => 128 + Math.round(20 * Math.sin(i))))]) {
    const stretched = warped(table, ranks ? "percentile" : "symlog", ranks);
    for (let code = 129; code < 253; code++) assert.ok(stretched[(code + 1) * 4 + 1] <= stretched[code * 4 + 1], `green falls from ${code}`);
  }
});

test("the symmetric logarithm and the shares are monotonic from 0 to 1", () => {
  assert.equal(symlog(0), 0);
  assert.ok(Math.abs(symlog(1) - 1) < 1e-12 && symlog(0.1) > 0.5);
  const ranks = shares([128, 129, 129, 127, 200, 0, 255]);
  assert.equal(ranks[0], 0);
  for (let i = 1; i < ranks.length; i++) assert.ok(ranks[i] >= ranks[i - 1] && ranks[i] <= 1);
});

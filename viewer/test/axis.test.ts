import assert from "node:assert/strict";
import { test } from "node:test";
import { ticks as d3ticks } from "d3-array";
import { labels, logTicks, ticks } from "../src/ui/axis";

test("round values are those of d3-array", () => {
  let state = 7;
  const random = () => (state = (state * 16807) % 2147483647) / 2147483647;
  for (let i = 0; i < 3000; i++) {
    const low = (random() - 0.5) * 10 ** Math.floor(random() * 12 - 6), span = random() * 10 ** Math.floor(random() * 12 - 6) + 1e-9;
    if (span < Math.abs(low) * 1e-6) continue;
    const count = 2 + Math.floor(random() * 8), ours = ticks(low, low + span, count), theirs = d3ticks(low, low + span, count);
    assert.equal(ours.length, theirs.length, `${low} ${low + span} ${count}: ${ours} and ${theirs}`);
    ours.forEach((v, k) => { assert.ok(Math.abs(v - theirs[k]) <= 1e-9 * span + 1e-12 * Math.abs(v), `${v} and ${theirs[k]}`); });
  }
});

test("ends that are equal, empty or no numbers", () => {
  assert.deepEqual(ticks(3, 3, 4), [3]);
  assert.deepEqual(ticks(5, 3, 4), []);
  assert.deepEqual(ticks(NaN, NaN, 4), []);
  assert.deepEqual(ticks(0, Infinity, 4), []);
});

for (const [low, high] of [[98.1, 98.14], [1e7, 1e7 + 3], [0.12345, 0.12351], [-2e-9, 3e-9], [0, 1]]) {
  test(`labels between ${low} and ${high} differ`, () => {
    const at = ticks(low, high, 3), told = labels(at);
    assert.ok(at.length >= 2);
    assert.equal(new Set(told).size, at.length);
    at.forEach((v, i) => { assert.ok(Math.abs(Number(told[i].replace("\u2212", "-")) - v) < (high - low) / 10); });
  });
}

test("logarithmic axes stand at powers of ten", () => {
  assert.deepEqual(logTicks(-2, 1, 5), [0.01, 0.1, 1, 10]);
  assert.deepEqual(logTicks(-6, 6, 4), [1e-6, 1e-2, 1e2, 1e6]);
  assert.deepEqual(logTicks(Math.log10(3), Math.log10(60), 4), [5, 10, 20, 50]);
});

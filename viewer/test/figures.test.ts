import assert from "node:assert/strict";
import { test } from "node:test";
import { quantile } from "d3-array";
import { BINS, evenly, percentile, singularValues, summary } from "../src/sources/figures";

test("percentiles are those of d3-array", () => {
  const values = Float64Array.from([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]).sort();
  for (let p = 0; p <= 100; p += 3.7) assert.ok(Math.abs(percentile(values, p) - quantile(values, p / 100)!) < 1e-12);
});

test("every finite number is in one bin or beyond, and the others are counted", () => {
  const rows = [[1, 2, 3, NaN], [4, Infinity, -1], [], [0.5]], { counts, beyond, bad, low, high } = summary(rows);
  assert.deepEqual(bad, [1, 1, 0, 0]);
  counts.forEach((row, i) => { assert.equal(row.length, BINS); assert.equal(row.reduce((a, b) => a + b, 0) + beyond[i] + bad[i], rows[i].length); });
  assert.ok(low === -1 && high === 4);
  const constant = summary([[2, 2], [2]]);
  assert.ok(constant.low < 2 && constant.high > 2);
});

test("singular values: sums of squares and of products hold, known ones come out", () => {
  const near = (a: number[], b: number[]) => { assert.equal(a.length, b.length); a.forEach((v, i) => { assert.ok(Math.abs(v - b[i]) < 1e-9 * Math.max(1, b[0]), `${a} ${b}`); }); };
  near(singularValues([3, 0, 0, 0, -2, 0], 2, 3), [3, 2]);
  near(singularValues([1, 1, 1, 1, 1, 1], 3, 2), [Math.sqrt(6), 0]);
  near(singularValues([4, 0, 3, -5], 2, 2), [Math.sqrt(40), Math.sqrt(10)]);
  const values = Float64Array.from({ length: 12 * 7 }, (_, i) => Math.sin(i * 1.7));
  const squares = singularValues(values, 12, 7).reduce((n, s) => n + s * s, 0), direct = values.reduce((n, v) => n + v * v, 0);
  assert.ok(Math.abs(squares - direct) < 1e-9);
});

test("moments are spread evenly with both ends", () => {
  assert.deepEqual(evenly(0, 4, 3), [0, 2, 4]);
  assert.deepEqual(evenly(2, 3, 48), [2, 3]);
  assert.deepEqual(evenly(5, 5, 48), [5]);
  assert.deepEqual(evenly(5, 4, 48), []);
});

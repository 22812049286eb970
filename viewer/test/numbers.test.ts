import assert from "node:assert/strict";
import { test } from "node:test";
import { brief, bytes, shortest } from "../src/numbers";

test("float32 values read back from their shortest text", () => {
  const one = new Float32Array(1), bits = new Uint32Array(one.buffer);
  for (let i = 0; i < 4000; i++) {
    bits[0] = (i * 1071821 + 12345) >>> 0;
    const value = one[0], text = shortest(value, "float32");
    if (Number.isNaN(value)) assert.equal(text, "NaN");
    else assert.ok(Object.is(Math.fround(Number(text)), value), `${value} as ${text}`);
    assert.ok(text.length <= String(value).length);
  }
});

test("known texts", () => {
  assert.equal(shortest(Math.fround(0.1), "float32"), "0.1");
  assert.equal(shortest(0.0999755859375, "float16"), "0.1");
  assert.equal(shortest(1152921504606846977n, "int64"), "1152921504606846977");
  assert.equal(shortest(-0, "float32"), "-0");
  assert.equal(shortest(-Infinity, "float32"), "-Infinity");
  assert.deepEqual([brief(null), brief(0.123456), brief(1234567), bytes(1500)], ["–", "0.123", "1.2e6", "1.5 kB"]);
});

import assert from "node:assert/strict";
import { test } from "node:test";
import { fractionOfFrame, frameAt, nearestFrame, type TimeScale } from "../src/scene/time";

const steps = [0, 1, 2, 4, 8, 16, 100, 1000];

test("the nearest frame is the one that a search through all finds", () => {
  for (let step = -5; step < 1100; step++) {
    let best = 0;
    steps.forEach((s, i) => { if (Math.abs(s - step) < Math.abs(steps[best] - step)) best = i; });
    assert.ok(Math.abs(steps[nearestFrame(steps, step)] - step) === Math.abs(steps[best] - step), `step ${step}`);
  }
  assert.equal(nearestFrame([5], 99), 0);
});

for (const scale of ["frames", "steps", "log"] as TimeScale[]) test(`places on the axis lead back to their frame: ${scale}`, () => {
  let before = -1;
  steps.forEach((_, frame) => {
    const at = fractionOfFrame(steps, frame, scale);
    assert.ok(at > before && at >= 0 && at <= 1);
    before = at;
    assert.equal(frameAt(steps, at, scale), frame);
  });
  assert.equal(frameAt(steps, -1, scale), 0);
  assert.equal(frameAt(steps, 2, scale), steps.length - 1);
});

import assert from "node:assert/strict";
import { test } from "node:test";
import { csv, linesTable, pythonOf, quoted } from "../src/quote";
import { matches } from "../src/search";
import { initialView } from "../src/state";

test("words in any order, numbers whole", () => {
  for (const [text, found] of [["13.fc", true], ["blocks 13 fc", true], ["fc blocks", true], ["FC 13", true], ["3 fc", false], ["113", false], ["", true], ["13 attn", false],
    ["weight 13", true]] as [string, boolean][]) assert.equal(matches("blocks.13.fc.weight", text), found, text);
});

test("names become Python strings whatever is in them", () => {
  assert.equal(quoted('a"b\\c\n'), '"a\\"b\\\\c\\n"');
  assert.equal(quoted("x\u202ey"), '"x\\U0000202ey"');
});

const shown = { paths: ["runs/a", "runs/b"], frames: 30, start: 0, limit: 0.5, pins: [] };
test("the picture as a line of Python", () => {
  const view = { ...initialView(), tensor: "fc1.weight", frame: 12 };
  assert.match(pythonOf({ ...shown, view }), /run = wl\.load\("runs\/a"\)\nwl\.plot\.heatmap\(run, "fc1\.weight", frame=12, scale="tensor"\)\n$/);
  assert.match(pythonOf({ ...shown, view: { ...view, diff: "prev" } }), /import matplotlib.*imshow\(run\["fc1\.weight"\]\[12\] - run\["fc1\.weight"\]\[11\], cmap="RdBu_r", vmin=-0\.5, vmax=0\.5\)/s);
  assert.match(pythonOf({ ...shown, view: { ...view, show: "pair" } }), /run2 = wl\.load\("runs\/b"\).*run2\.state\(step=int\(run\.steps\[12\]\)\)/s);
  assert.match(pythonOf({ ...shown, view, pins: [{ run: 1, tensor: "fc1.bias", index: [3] }] }), /plt\.plot\(run2\.steps, run2\["fc1\.bias"\]\[:, 3\], label=/);
});

test("tables quote what needs it and leave gaps empty", () => {
  assert.equal(csv([["a,b", 'c"d', 1]]), '"a,b","c""d",1\r\n');
  assert.equal(linesTable([0, 10, 20], [{ label: "x", frames: [0, 2], values: [1, null] }, { label: "y", frames: [1], values: [5] }]),
    "frame,step,x,y\r\n0,0,1,\r\n1,10,,5\r\n2,20,,\r\n");
});

import assert from "node:assert/strict";
import { test } from "node:test";
import { badOf, changeOf, percent, type Survey } from "../src/map/change";
import { blockOf, longest, networkOf } from "../src/map/network";
import { place } from "../src/map/place";
import type { Run } from "../src/source";

type Group = [name: string, members: [tensor: string, role: string][]];
function run(shapes: Record<string, number[]>, groups: Group[]): Run {
  return { name: "run", exact: true, tolerance: null, epochs: [], nbytes: 0, storedNbytes: 0, since: 0, frames: 10, steps: [], scalars: {}, events: [], gaps: [], closed: true,
    tensors: Object.entries(shapes).map(([name, shape]) => ({ name, dtype: "float32", stream: "weights", aliases: [], pieces: [{ start: 0, stop: 10, shape }] })),
    groups: groups.map(([name, members]) => ({ name, size: 4, members: members.map(([tensor, role]) => ({ tensor, axis: 0, role, unit: 1 })) })) };
}

/** Blocks of attention (q, k, v, proj) and a feed-forward pair around one stream, as in a GPT. */
function gpt(depth: number): Run {
  const shapes: Record<string, number[]> = { "wte.weight": [97, 16], "wpe.weight": [32, 16] };
  const stream: [string, string][] = [["wte.weight", "out"], ["wpe.weight", "out"]], groups: Group[] = [];
  for (let b = 0; b < depth; b++) {
    const p = `blocks.${b}.`;
    for (const n of ["ln1", "attn.q", "attn.k", "attn.v", "attn.proj", "ln2", "fc", "out"]) shapes[`${p}${n}.weight`] = n.startsWith("ln") ? [16] : n === "fc" || n === "out" ? [64, 16] : [16, 16];
    stream.push([`${p}ln1.weight`, "mul"], ...["q", "k", "v"].map((n): [string, string] => [`${p}attn.${n}.weight`, "in"]), [`${p}attn.proj.weight`, "out"],
      [`${p}ln2.weight`, "mul"], [`${p}fc.weight`, "in"], [`${p}out.weight`, "out"]);
    groups.push([`${p}attn.v`, [[`${p}attn.v.weight`, "out"], [`${p}attn.proj.weight`, "in"]]], [`${p}attn.q`, [[`${p}attn.q.weight`, "out"], [`${p}attn.k.weight`, "out"]]],
      [`${p}fc`, [[`${p}fc.weight`, "out"], [`${p}out.weight`, "in"]]]);
  }
  shapes["ln_f.weight"] = [16];
  shapes["head.weight"] = [97, 16];
  stream.push(["ln_f.weight", "mul"], ["head.weight", "in"]);
  return run(shapes, [["wte", stream], ...groups]);
}

for (const depth of [1, 4, 12]) test(`a GPT of ${depth} blocks: one stream, branches beside each other, in the order of computation`, () => {
  const network = networkOf(gpt(depth)), at = (name: string) => network.layers.find((l) => l.name === name)!.depth;
  assert.ok(network.wired && network.parts === 1);
  assert.deepEqual(network.links.filter((l) => l.stream).map((l) => l.group), ["wte"]);
  assert.equal(at("wte"), 0);
  assert.equal(at("wpe"), 0);
  for (let b = 0; b < depth; b++) {
    const p = `blocks.${b}.`;
    assert.equal(at(`${p}attn.q`), at(`${p}attn.k`));
    assert.equal(at(`${p}attn.q`), at(`${p}attn.v`));
    const order = ["ln1", "attn.v", "attn.proj", "ln2", "fc", "out"].map((n) => at(p + n));
    order.slice(1).forEach((d, i) => { assert.ok(d > order[i], `${p} ${order}`); });
    if (b) assert.ok(at(`${p}ln1`) > at(`blocks.${b - 1}.out`));
  }
  assert.ok(at("head") > at("ln_f") && at("ln_f") > at(`blocks.${depth - 1}.out`));
});

test("two networks that share nothing are two parts", () => {
  const network = networkOf(run({ "g.0.weight": [8, 4], "g.2.weight": [4, 8], "d.0.weight": [8, 4], "d.2.weight": [1, 8] },
    [["g.0", [["g.0.weight", "out"], ["g.2.weight", "in"]]], ["d.0", [["d.0.weight", "out"], ["d.2.weight", "in"]]]]));
  assert.deepEqual(network.layers.map((l) => [l.part, l.depth]), [[0, 0], [0, 1], [1, 0], [1, 1]]);
});

test("without a wiring the recorded order is kept and it is said", () => {
  const network = networkOf(run({ "a.weight": [2, 2], "a.bias": [2], W: [3, 3] }, []));
  assert.deepEqual(network.layers.map((l) => [l.name, l.tensors.length, l.depth]), [["a", 2, 0], ["W", 1, 1]]);
  assert.equal(network.wired, false);
});

test("a layer that was defined late stands where it computes", () => {
  const network = networkOf(run({ "head.weight": [2, 4], "body.weight": [4, 3] }, [["body", [["body.weight", "out"], ["head.weight", "in"]]]]));
  assert.deepEqual(network.layers.map((l) => l.depth), [1, 0]);
});

test("circles are seen", () => {
  assert.equal(longest(2, [[0, 1], [1, 0]]), null);
  assert.deepEqual(longest(4, [[0, 1], [1, 3], [0, 3], [2, 3]]), [0, 1, 0, 2]);
});

for (const [width, height] of [[850, 240], [340, 200], [2200, 300]]) for (const depth of [1, 4, 12])
  test(`the map of ${depth} blocks in ${width} x ${height}: no boxes over each other, none beyond the sides`, () => {
    const network = networkOf(gpt(depth)), { boxes, rails, height: used } = place(network, width, height);
    assert.equal(boxes.length, network.layers.length);
    boxes.forEach((a, i) => {
      assert.ok(a.x >= -0.01 && a.x + a.side <= width + 0.01 && a.y >= 0 && a.y + a.side <= used, JSON.stringify(a));
      boxes.slice(i + 1).forEach((b) => { assert.ok(a.x + a.side <= b.x || b.x + b.side <= a.x || a.y + a.side <= b.y || b.y + b.side <= a.y); });
    });
    assert.ok(rails.length >= 1);
    if (depth <= 4 && width >= 850) assert.ok(used <= height, `${used} of ${height}`);
  });

test("a larger layer has a larger box", () => {
  const network = networkOf(gpt(2)), { boxes } = place(network, 900, 260), side = (n: string) => boxes[network.layers.findIndex((l) => l.name === n)].side;
  assert.ok(side("blocks.0.fc") > side("blocks.0.attn.q") && side("blocks.0.attn.q") > side("blocks.0.ln1"));
});

test("changes of tensors add up in squares, relative to the larger end", () => {
  const survey: Survey = new Map([["a", { frames: [0, 4, 8], norm: [9, 9, 16], moved: [0, 1, 16], step: [0, 1, 9], bad: null, exact: true }],
    ["b", { frames: [0, 4, 8], norm: [0, 0, 9], moved: [0, 0, 9], step: [0, 0, 9], bad: 8, exact: true }]]);
  assert.equal(changeOf(survey, ["a", "b"], "since", 0), Math.sqrt(25 / 25));
  assert.equal(changeOf(survey, ["a"], "since", 0), 1);
  assert.equal(changeOf(survey, ["a"], "now", 6), Math.sqrt(9 / 16 / 16)); // between frames 4 and 8: 3 in four frames
  assert.equal(changeOf(survey, ["c"], "since", 0), null);
  assert.deepEqual([badOf(survey, ["a"]), badOf(survey, ["a", "b"])], [null, 8]);
  assert.deepEqual([0, 0.1234, 1, 12.3, 0.00001].map(percent), ["0 %", "12 %", "100 %", "1230 %", "1e-3 %"]);
});

test("labels over blocks", () => {
  assert.deepEqual(["blocks.3.attn.q", "layer1.0.conv1", "fc1", "stem.conv", "generator.4"].map(blockOf), ["blocks.3", "layer1.0", "fc1", "stem", "generator"]);
});

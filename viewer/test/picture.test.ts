// The page draws what Python draws: every case of weightlapse/picture/cases.json.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import file from "../../weightlapse/picture/cases.json";
import { codeOf, limitOf } from "../src/picture/codes";
import { blanks, cellOf, gaps, indexOf, layout, type Layout, type LayoutJson } from "../src/picture/layout";
import { SIGNED, signed } from "../src/picture/marks";
import { short } from "../src/picture/numbers";
import { GAPS, GROUNDS, INKS, isLight, lookup, rgb, type Theme } from "../src/picture/palette";
import { thinned, type Mode } from "../src/picture/thin";
import { side } from "../src/picture/ticks";

const number = (told: number | string) => (typeof told === "string" ? Number({ inf: "Infinity", "-inf": "-Infinity", nan: "NaN" }[told]) : told);
const THEMES: Theme[] = ["light", "dark"];

/** The same numbers as `values_of` in weightlapse/picture/cases.py. */
function valuesOf(name: string, size: number): Float32Array {
  const seed = [...name].reduce((n, c) => n + c.codePointAt(0)!, 0);
  const flat = Float32Array.from({ length: size }, (_, i) => (((i * 7919 + seed * 104729) % 2001) - 1000) / 1000);
  for (const [place, odd] of [[5, NaN], [11, Infinity], [17, -Infinity], [23, 60], [29, -60]]) if (size > 2 * place) flat[place] = odd;
  return flat;
}

function flatIndex(shape: number[], index: number[]): number { return shape.reduce((n, size, axis) => n * size + index[axis], 0); }

function hash(bytes: Uint8Array): string { return createHash("sha256").update(bytes).digest("hex"); }

/** The codes of every cell; cells without a weight repeat the last one of their axis. */
function codes(drawn: Layout, values: Float32Array, limit: number): Uint8Array {
  const out = new Uint8Array(drawn.rows * drawn.cols);
  for (let row = 0; row < drawn.rows; row++)
    for (let col = 0; col < drawn.cols; col++) {
      const open = { ...drawn, shape: drawn.shape.map(() => Infinity) }; // beyond the end, too
      const index = indexOf(open, row, col)!.map((i, axis) => Math.min(i, drawn.shape[axis] - 1));
      out[row * drawn.cols + col] = codeOf(values[flatIndex(drawn.shape, index)], limit);
    }
  return out;
}

function paint(drawn: Layout, code: Uint8Array, cell: number, theme: Theme): Uint8Array {
  const table = lookup(theme), ground = rgb(GROUNDS[theme]), gap = rgb(GAPS[theme]), w = drawn.cols * cell, out = new Uint8Array(drawn.rows * cell * w * 3);
  const down = gaps(drawn.down, cell), across = gaps(drawn.across, cell);
  const free = (list: [number, number][], at: number) => list.some(([every, wide]) => at >= every * cell && at % (every * cell) < wide);
  for (let y = 0; y < drawn.rows * cell; y++)
    for (let x = 0; x < w; x++) {
      const row = Math.floor(y / cell), col = Math.floor(x / cell), c = code[row * drawn.cols + col];
      let colour: number[] = [...table.subarray(4 * c, 4 * c + 3)];
      if ((c < 3 || c > 253) && cell >= SIGNED && signed(c, x % cell, y % cell, cell, cell))
        colour = isLight(colour[0], colour[1], colour[2]) ? [0, 0, 0] : [255, 255, 255];
      if (free(down, y) || free(across, x)) colour = gap;
      if (indexOf(drawn, row, col) === null) colour = ground;
      out.set(colour, 3 * (y * w + x));
    }
  return out;
}

for (const one of file.tensors) {
  const drawn = layout(one.layout as LayoutJson);
  test(`${one.name} is laid out as in Python`, () => {
    assert.deepEqual([drawn.rows, drawn.cols], [one.rows, one.cols]);
    for (const [row, col, index] of one.cells as [number, number, number[] | null][]) {
      assert.deepEqual(indexOf(drawn, row, col), index);
      if (index) assert.deepEqual(cellOf(drawn, index), [row, col]);
    }
    assert.deepEqual(gaps(drawn.down, one.cell), one.gaps.down);
    assert.deepEqual(gaps(drawn.across, one.cell), one.gaps.across);
    for (const way of ["down", "across"] as const) {
      const found = side(drawn, way === "down", one.cell, 30);
      assert.deepEqual([found.unit, found.ticks.map((t) => [t.first, t.cells, t.text])], one.ticks[way]);
    }
  });
  test(`${one.name} has the same codes and pixels`, () => {
    const values = valuesOf(one.name, drawn.shape.reduce((n, size) => n * size, 1));
    assert.equal(limitOf(values), one.limit);
    const code = codes(drawn, values, one.limit);
    assert.equal(hash(code), one.codes);
    for (const theme of THEMES) assert.equal(hash(paint(drawn, code, one.cell, theme)), one.pixels[theme]);
  });
  test(`${one.name} is blank where no weight is left`, () => {
    const empty = new Set<string>();
    for (const [r, c, h, w] of blanks(drawn)) for (let i = r; i < r + h; i++) for (let j = c; j < c + w; j++) empty.add(`${i},${j}`);
    for (let row = 0; row < drawn.rows; row++)
      for (let col = 0; col < drawn.cols; col++) assert.equal(empty.has(`${row},${col}`), indexOf(drawn, row, col) === null, `${row},${col}`);
  });
}

for (const { shape, factors, codes: expected } of file.thinned)
  test(`${shape.join(" x ")} weights in tiles of ${factors.join(" x ")} are drawn as in Python`, () => {
    const [rows, cols] = shape, name = `thinned (${rows}, ${cols})`;
    const values = valuesOf(name, rows * cols).map((v) => (v === 60 ? Math.fround(0.8) : v));
    for (const mode of Object.keys(expected) as Mode[]) {
      const found = Array.from(thinned(values, cols, [0, rows], [0, cols], factors, mode, 1), (v) => codeOf(v, 1));
      assert.deepEqual(found, expected[mode], mode);
    }
  });

test("a spike beyond three quarters of the scale is drawn, a smaller one is not", () => {
  const values = new Float32Array(64).fill(0.1);
  values[10] = 0.74;
  assert.equal(thinned(values, 8, [0, 8], [0, 8], [8, 8], "typical", 1)[0], Math.fround(0.1));
  values[10] = -0.76;
  assert.equal(thinned(values, 8, [0, 8], [0, 8], [8, 8], "typical", 1)[0], Math.fround(-0.76));
  values[60] = NaN;
  assert.ok(Number.isNaN(thinned(values, 8, [0, 8], [0, 8], [8, 8], "typical", 1)[0]));
});

test("palettes, grounds and inks are those of Python", () => {
  for (const theme of THEMES) {
    const table = lookup(theme);
    file.palettes[theme].forEach((colour, code) => { assert.deepEqual([...table.subarray(4 * code, 4 * code + 3)], colour); });
    assert.deepEqual({ ground: GROUNDS[theme], gap: GAPS[theme], ink: INKS[theme] }, file.themes[theme]);
  }
});

test("scales end where Python's end", () => {
  for (const { name, values, limit } of file.scales) assert.equal(limitOf(values.map(number)), limit, name);
});

test("numbers are written as in Python", () => {
  for (const [value, text] of file.numbers) assert.equal(short(number(value)), text);
});

test("a picture with one code changed is seen to differ", () => {
  const one = file.tensors[0], drawn = layout(one.layout as LayoutJson);
  const code = codes(drawn, valuesOf(one.name, drawn.rows * drawn.cols), one.limit);
  code[3] = 200;
  assert.notEqual(hash(paint(drawn, code, one.cell, "light")), one.pixels.light);
});

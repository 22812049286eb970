// The colours of the codes; the twin of weightlapse/picture/palette.py. Maps run from blue (negative) to red or orange (positive), told
// apart with any kind of colour vision; zero has the colour nearest to that of the page: what is there is what differs from nothing.

export type Theme = "light" | "dark";
export type Colour = [number, number, number];

const ANCHORS: Record<Theme, string> = { // ColorBrewer's RdBu, reversed; and "night"
  light: "053061 2166ac 4393c3 92c5de d1e5f0 f7f7f7 fddbc7 f4a582 d6604d b2182b 67001f",
  dark: "bedeff 78b6f2 4286cc 225892 183250 18191c 482418 863c22 c86234 f49860 ffd6b2",
};
export const GROUNDS: Record<Theme, string> = { light: "ffffff", dark: "101113" };
export const GAPS: Record<Theme, string> = { light: "c8cbd0", dark: "44474d" }; // between filters, heads and gates
export const INKS: Record<Theme, string> = { light: "1d1f21", dark: "e9e7e2" };
const MARKED: Record<Theme, string> = { light: "ffcd00 009688 001636 3a000e 9c27b0", dark: "ffe13c 1de9b6 e2f1ff fff0e2 ea80fc" };

export function rgb(hex: string): Colour {
  return [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)) as Colour;
}

const marked = (theme: Theme) => {
  const [nan, minus, below, above, plus] = MARKED[theme].split(" ").map(rgb);
  return { nan, minus, below, above, plus };
};
export const MARKS: Record<Theme, ReturnType<typeof marked>> = { light: marked("light"), dark: marked("dark") };

/** The colour of each code, as RGBA bytes. */
export function lookup(theme: Theme): Uint8Array {
  const anchors = ANCHORS[theme].split(" ").map(rgb), marks = MARKS[theme], table = new Uint8Array(256 * 4);
  for (let code = 3; code <= 253; code++) {
    const at = (code - 3) * ((anchors.length - 1) / 250), low = Math.min(Math.floor(at), anchors.length - 2);
    const colour = anchors[low].map((a, k) => Math.floor(a + (anchors[low + 1][k] - a) * (at - low) + 0.5));
    table.set([...colour, 255], code * 4);
  }
  for (const [code, colour] of [[0, marks.nan], [1, marks.minus], [2, marks.below], [254, marks.above], [255, marks.plus]] as
    [number, Colour][]) table.set([...colour, 255], code * 4);
  return table;
}

/** Whether black is read better than white on a colour. */
export function isLight(r: number, g: number, b: number): boolean { return 3 * r + 6 * g + b > 1275; }

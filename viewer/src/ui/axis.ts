// Numbered axes: round values between two ends, and labels with as many digits as tell them apart. The rule of the round values is that of
// d3-array's `ticks` (its tests run against it); it is written out here because the page is committed as built and so holds no code of others.

/** The round step (1, 2 or 5 times a power of ten) that makes about `count` of them between `low` and `high`. */
function roundStep(low: number, high: number, count: number): number {
  const rough = (high - low) / Math.max(1, count), power = Math.floor(Math.log10(rough)), error = rough / 10 ** power;
  return (error >= Math.sqrt(50) ? 10 : error >= Math.sqrt(10) ? 5 : error >= Math.SQRT2 ? 2 : 1) * 10 ** power;
}

/** About `count` round numbers from `low` to `high`, both ends included where they are round. */
export function ticks(low: number, high: number, count: number): number[] {
  if (!(high > low) || !Number.isFinite(high - low)) return Number.isFinite(low) && low === high ? [low] : [];
  const step = roundStep(low, high, count);
  const parts = step < 1 ? Math.round(1 / step) : 1; // whole numbers of parts: 0.1 + 0.2 is no 0.3
  const value = (i: number) => (step < 1 ? i / parts : i * step);
  let from = Math.round(step < 1 ? low * parts : low / step), to = Math.round(step < 1 ? high * parts : high / step);
  if (value(from) < low) from++;
  if (value(to) > high) to--;
  return Array.from({ length: Math.max(0, to - from + 1) }, (_, i) => value(from + i));
}

/** Powers of ten between the ends (given as logarithms), every n-th where there are too many; 2 and 5 in between where there are few. */
export function logTicks(low: number, high: number, count: number): number[] {
  const from = Math.ceil(low - 1e-9), to = Math.floor(high + 1e-9), whole = to - from + 1;
  if (whole < 2) {
    const fine: number[] = [];
    for (let p = Math.floor(low); p <= Math.ceil(high); p++) for (const m of [1, 2, 5]) {
      const v = m * 10 ** p, at = Math.log10(v);
      if (at >= low - 1e-9 && at <= high + 1e-9) fine.push(v);
    }
    return fine.length >= 2 ? fine : ticks(10 ** low, 10 ** high, count);
  }
  const every = Math.max(1, Math.ceil(whole / Math.max(2, count)));
  return Array.from({ length: Math.ceil(whole / every) }, (_, i) => 10 ** (from + i * every));
}

/** A label for each value, all with the digits that it takes to tell neighbours apart. */
export function labels(values: number[]): string[] {
  const largest = Math.max(0, ...values.map(Math.abs));
  const small = (v: number) => {
    const [digits, power] = v.toExponential(3).split("e");
    return `${Number(digits)}e${Number(power)}`;
  };
  const text = (v: number, digits: number) => {
    if (v === 0) return "0";
    if (largest >= 1e5 || largest < 1e-3) return digits > 4 ? `${Number(v.toPrecision(digits))}` : small(v);
    return String(Number(v.toPrecision(digits)));
  };
  for (let digits = 3; digits <= 17; digits++) {
    const found = values.map((v) => text(v, digits));
    if (new Set(found).size === new Set(values).size) return found.map((t) => t.replace("-", "\u2212"));
  }
  return values.map(String);
}

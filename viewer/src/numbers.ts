// Numbers as text: the shortest decimal that reads back to the stored value in its own type.

const half = new Float32Array(1);
const bits = new Uint32Array(half.buffer);

function toBfloat16(x: number): number {
  half[0] = x;
  const b = bits[0];
  bits[0] = (b + 0x7fff + ((b >>> 16) & 1)) & 0xffff0000; // round half to even
  return half[0];
}

function toFloat16(x: number): number {
  if (x === 0 || !Number.isFinite(x)) return x;
  const exponent = Math.max(Math.floor(Math.log2(Math.abs(x))), -14);
  const quantum = 2 ** (exponent - 10);
  const scaled = x / quantum, low = Math.floor(scaled), rest = scaled - low;
  const rounded = (rest > 0.5 || (rest === 0.5 && low % 2 !== 0) ? low + 1 : low) * quantum;
  return Math.abs(rounded) > 65504 ? Math.sign(x) * Infinity : rounded;
}

const ROUND: Record<string, (x: number) => number> = { float32: Math.fround, float16: toFloat16, bfloat16: toBfloat16 };

export function shortest(value: number | bigint, dtype: string): string {
  if (typeof value === "bigint") return value.toString();
  if (!Number.isFinite(value)) return String(value);
  if (Object.is(value, -0)) return "-0";
  const round = ROUND[dtype];
  if (!round) return String(value); // float64 and whole numbers: JavaScript's own text is the shortest
  for (let digits = 1; digits < 17; digits++) {
    const text = value.toExponential(digits - 1);
    if (round(Number(text)) === value) return String(Number(text));
    // next to a power of two the interval is lopsided: the neighbour may read back where the nearest decimal does not
    const [mantissa, exponent] = text.split("e");
    const whole = BigInt(mantissa.replace(".", ""));
    for (const near of [whole - 1n, whole + 1n]) {
      const other = Number(`${near}e${Number(exponent) - digits + 1}`);
      if (round(other) === value) return String(other);
    }
  }
  return String(value);
}

/** A number for a small label: four digits, no more. */
export function brief(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(value)) return String(value);
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(1).replace("e+", "e");
  return String(Number(value.toPrecision(3)));
}

export function grouped(value: number): string {
  return value.toLocaleString("en-US").replace(/,/g, "\u2009");
}

export function bytes(n: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let u = 0;
  while (n >= 1000 && u < units.length - 1) { n /= 1000; u++; }
  return `${n >= 100 || u === 0 ? Math.round(n) : n.toFixed(1)} ${units[u]}`;
}

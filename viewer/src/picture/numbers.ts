// Numbers as short words; the twin of weightlapse/picture/numbers.py.

const MINUS = "\u2212";

/** `value` with `digits` significant digits and a true minus. */
export function short(value: number, digits = 3): string {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : `${MINUS}∞`;
  if (value === 0) return "0";
  const size = Math.floor(Math.log10(Math.abs(value)));
  const trimmed = (text: string) => (text.includes(".") ? text.replace(/0+$/, "").replace(/\.$/, "") : text);
  if (size < -3 || size > 6) {
    const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
    return `${trimmed(mantissa)}e${Number(exponent)}`.replace(/-/g, MINUS);
  }
  return trimmed(value.toFixed(Math.max(digits - 1 - size, 0))).replace(/-/g, MINUS);
}

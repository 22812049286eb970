// Frames, steps and places on the time axis.

export type TimeScale = "frames" | "steps" | "log";

/** The frame whose step is nearest to `step`. */
export function nearestFrame(steps: number[], step: number): number {
  let low = 0, high = steps.length;
  while (low < high) {
    const mid = (low + high) >> 1;
    if (steps[mid] < step) low = mid + 1; else high = mid;
  }
  if (low === 0 || (low < steps.length && steps[low] - step < step - steps[low - 1])) return Math.min(low, steps.length - 1);
  return low - 1;
}

function place(step: number, first: number, scale: TimeScale): number {
  return scale === "log" ? Math.log10(step - first + 1) : step;
}

/** Where a step lies between the ends of the axis, 0 to 1. */
export function fractionOfStep(steps: number[], step: number, scale: TimeScale): number {
  const last = steps.length - 1;
  if (last < 1) return 0;
  if (scale === "frames") {
    const frame = nearestFrame(steps, step);
    return frame / last;
  }
  const a = place(steps[0], steps[0], scale), b = place(steps[last], steps[0], scale);
  return Math.min(1, Math.max(0, (place(step, steps[0], scale) - a) / (b - a || 1)));
}

export function fractionOfFrame(steps: number[], frame: number, scale: TimeScale): number {
  if (steps.length < 2) return 0;
  return scale === "frames" ? frame / (steps.length - 1) : fractionOfStep(steps, steps[frame], scale);
}

export function frameAt(steps: number[], fraction: number, scale: TimeScale): number {
  const last = steps.length - 1, f = Math.min(1, Math.max(0, fraction));
  if (scale === "frames") return Math.round(f * last);
  const a = place(steps[0], steps[0], scale), b = place(steps[last], steps[0], scale);
  const at = a + f * (b - a);
  return nearestFrame(steps, scale === "log" ? 10 ** at - 1 + steps[0] : at);
}

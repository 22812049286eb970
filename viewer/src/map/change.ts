// How much each layer has changed, from the survey of its tensors (weightlapse/view/overview.py).

export interface Surveyed { frames: number[]; norm: (number | null)[]; moved: (number | null)[]; step: (number | null)[]; bad: number | null; exact: boolean }
export type Survey = Map<string, Surveyed>;
export type Rank = "since" | "now";

/** The last surveyed moment at or before a frame. */
export function momentAt(frames: number[], frame: number): number {
  let at = 0;
  while (at + 1 < frames.length && frames[at + 1] <= frame) at++;
  return at;
}

/** Relative change of some tensors together: `since` the first frame, over the whole run; `now`, per frame around `frame`. Null before they are surveyed.
 * Relative to the larger of the norms at both ends, so that weights that began at zero have changed by 1 and not without bounds. */
export function changeOf(survey: Survey, tensors: string[], rank: Rank, frame: number): number | null {
  let moved = 0, first = 0, last = 0, seen = false;
  for (const name of tensors) {
    const s = survey.get(name);
    if (!s?.frames.length) continue;
    seen = true;
    if (rank === "since") {
      const end = s.frames.length - 1;
      moved += s.moved[end] ?? 0;
      first += s.norm[0] ?? 0;
      last += s.norm[end] ?? 0;
    } else {
      const at = Math.max(1, Math.min(s.frames.length - 1, momentAt(s.frames, frame) + (frame > s.frames[momentAt(s.frames, frame)] ? 1 : 0)));
      if (at >= s.frames.length) continue;
      const between = s.frames[at] - s.frames[at - 1];
      moved += (s.step[at] ?? 0) / between ** 2;
      first += s.norm[at - 1] ?? 0;
      last += s.norm[at] ?? 0;
    }
  }
  if (!seen) return null;
  const size = Math.max(first, last);
  return size > 0 ? Math.sqrt(moved / size) : 0;
}

/** The first surveyed frame in which a weight of these tensors was no finite number. */
export function badOf(survey: Survey, tensors: string[]): number | null {
  const found = tensors.map((t) => survey.get(t)?.bad ?? null).filter((f): f is number => f !== null);
  return found.length ? Math.min(...found) : null;
}

/** A change in words of at most three digits. */
export function percent(change: number): string {
  const p = change * 100;
  return `${p === 0 ? "0" : p >= 99.95 ? String(Math.round(p)) : p >= 0.01 ? String(Number(p.toPrecision(2))) : p.toExponential(0)} %`;
}

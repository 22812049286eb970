// Which pictures stand on the stage: chosen tensors of one run, or one tensor of several runs or of two steps of one.

import type { Source as PanelSource } from "./panel";
import { nearestFrame } from "./scene/time";
import type { Run } from "./source";
import type { View } from "./state";

export function sourcesOf(run: Run, names: string[]): PanelSource[] {
  return names.flatMap((name) => {
    const tensor = run.tensors.find((t) => t.name === name);
    return tensor ? [{ run: 0, of: run, tensor, ref: "", title: name, frameOf: (f: number) => f }] : [];
  });
}

/** The numbers of the runs that are the second one in the first one's order of units: that of the last step, or followed from the first step on. */
export interface Moved { aligned: number | null; followed: number | null }

/** One tensor compared: with a fixed frame of the same run, or with the other runs at the nearest step. Beside each other with the differences, in turn without them, or the differences alone. */
export function comparedSources(runs: Run[], moved: Moved, view: View): PanelSource[] {
  const first = sourcesOf(runs[0], [view.tensor])[0];
  if (!first) return [];
  const others: PanelSource[] = [], differences: PanelSource[] = [];
  if (view.against) {
    const at = Math.min(runs[0].frames - 1, Number(view.against.slice(6)));
    others.push({ ...first, title: `step ${runs[0].steps[at]}`, frameOf: () => at });
    differences.push({ ...first, ref: `frame:${at}`, title: `difference from step ${runs[0].steps[at]}` });
  } else {
    const follow = view.align === "follow", aligned = follow ? moved.followed : moved.aligned;
    const raw = aligned === null || (view.align !== "on" && !follow);
    const recorded = runs.length - Number(moved.aligned !== null) - Number(moved.followed !== null);
    runs.forEach((run, number) => {
      const isAligned = number === aligned, tensor = run.tensors.find((t) => t.name === view.tensor);
      if (number === 0 || !tensor || (!isAligned && (number === moved.aligned || number === moved.followed)) || (isAligned ? view.align === "off" : number === 1 && !raw)) return;
      const title = isAligned && aligned !== null ? `${runs[1].name}, ${follow ? "followed" : "aligned"}` : run.name;
      others.push({ run: number, of: run, tensor, ref: "", title, frameOf: (f) => nearestFrame(run.steps, runs[0].steps[f]) });
      const covered = number === 1 && aligned !== null && view.align === "both" && view.compare === "side"; // its aligned twin tells more
      if (!covered) differences.push({ ...first, ref: `run:${number}`, title: isAligned ? `difference, ${follow ? "followed" : "aligned"}` : recorded > 2 ? `difference from ${run.name}` : "difference" });
    });
    others.sort((a, b) => (a.of === runs[1] ? -1 : 0) - (b.of === runs[1] ? -1 : 0) || Number(b.run === aligned) - Number(a.run === aligned) || a.run - b.run);
  }
  const itself = { ...first, title: view.against ? "this step" : runs[0].name };
  if (view.compare === "blink") return [itself, ...others];
  if (view.compare === "difference" && differences.length) return differences;
  return [itself, ...others, ...differences];
}

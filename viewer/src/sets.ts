// Which pictures stand on the stage: chosen tensors of one run, or one tensor of two runs.

import type { Source as PanelSource } from "./panel";
import { nearestFrame } from "./scene/time";
import type { Run } from "./source";

export function sourcesOf(run: Run, names: string[]): PanelSource[] {
  return names.flatMap((name) => {
    const tensor = run.tensors.find((t) => t.name === name);
    return tensor ? [{ run: 0, of: run, tensor, ref: "", title: name, frameOf: (f: number) => f }] : [];
  });
}

/** Two runs: each by itself, the second as it is and, where it could be aligned, aligned; and the difference. */
export function pairSources([a, b, aligned]: Run[], name: string): PanelSource[] {
  const sources: PanelSource[] = sourcesOf(a, [name]).map((s) => ({ ...s, title: a.name }));
  for (const [number, run, title] of [[1, b, b?.name], [2, aligned, `${b?.name}, aligned`]] as [number, Run | undefined, string][]) {
    const tensor = run?.tensors.find((t) => t.name === name);
    if (run && tensor) sources.push({ run: number, of: run, tensor, ref: "", title, frameOf: (f) => nearestFrame(run.steps, a.steps[f]) });
  }
  const last = sources[sources.length - 1];
  if (last && last.run > 0) sources.push({ ...sources[0], ref: `run:${last.run}`, title: last.run === 2 ? "difference, aligned" : "difference" });
  return sources;
}

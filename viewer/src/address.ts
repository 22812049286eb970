// An address against the recordings at hand: what it asks for that is there, and in words what is not.

import { nearestFrame } from "./scene/time";
import type { Run, Tensor } from "./source";
import { readAddress, type View } from "./state";

const QUICK = 4_000_000; // cells of a tensor that a page may open with while there are smaller ones: its picture is there at once

/** `first`: the page opens, so what the address leaves open gets a good beginning. */
export function resolve(hash: string, runs: Run[], first: boolean): { view: Partial<View>; complaints: string[] } {
  const { view, step, complaints } = readAddress(hash), run = runs[0];
  if (view.tensor !== undefined) {
    const wanted = view.tensor;
    const real = run.tensors.find((t) => t.name === wanted || t.aliases.includes(wanted));
    if (real) view.tensor = real.name;
    else {
      complaints.push(`there is no tensor ${wanted}`);
      delete view.tensor;
    }
  }
  if (first) {
    const matrices = run.tensors.filter((t) => t.pieces[0].shape.length > 1), cells = (t: Tensor) => t.pieces[0].shape.reduce((a, b) => a * b, 1);
    view.tensor ??= (matrices.find((t) => cells(t) <= QUICK) ?? matrices[0] ?? run.tensors[0]).name;
    if (runs.length > 1) view.show ??= "pair";
  }
  if (view.also) view.also = view.also.filter((name) => run.tensors.some((t) => t.name === name));
  if (step !== null) view.frame = nearestFrame(run.steps, step);
  if (view.frame !== undefined) {
    const asked = view.frame < 0 ? run.frames + view.frame : view.frame;
    view.frame = Math.min(run.frames - 1, Math.max(0, asked));
    if (view.frame !== asked) complaints.push(`there is no frame ${asked}; frames go from 0 to ${run.frames - 1}`);
  } else if (first && !run.closed) view.frame = run.frames - 1; // a run that still trains opens at its newest frame
  return { view, complaints };
}

// Which units a weight belongs to: the rows of one layer are the columns of the next.

import { indexOf } from "./scene/plane";
import type { Run } from "./source";

export function unitsOf(run: Run, tensor: string, shape: number[], row: number, col: number): { group: string; unit: number; what: string }[] {
  const index = indexOf(shape, row, col);
  const found: { group: string; unit: number; what: string }[] = [];
  for (const group of run.groups) {
    for (const member of group.members) {
      if (member.tensor !== tensor) continue;
      const at = index[member.axis];
      const unit = Array.isArray(member.unit) ? member.unit[at] : Math.floor(at / member.unit);
      if (unit === undefined || unit < 0 || unit >= group.size || found.some((f) => f.group === group.name && f.unit === unit)) continue;
      found.push({ group: group.name, unit, what: member.role.includes("in") ? "sends through this weight" : "receives this weight" });
    }
  }
  return found;
}

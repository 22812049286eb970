// Which units a weight belongs to: the rows of one layer are the columns of the next.

import type { Laid } from "./picture/layout";
import { indexOf } from "./scene/plane";
import type { Run } from "./source";

export function unitsOf(run: Run, tensor: string, piece: Laid, row: number, col: number): { group: string; unit: number; what: string }[] {
  const index = indexOf(piece, row, col);
  if (!index) return [];
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

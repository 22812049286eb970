"""`make coverage`: how many lines of each package the tests reached, one line a package."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent / "weightlapse"


def rows(told: Any) -> dict[str, tuple[int, int]]:
    """Of each folder of the package (and of the files beside them): lines that run, and those that were reached."""
    found: dict[str, tuple[int, int]] = {}
    for file in sorted(ROOT.rglob("*.py")):
        _, lines, _, missing, _ = told.analysis2(str(file))
        inside = file.relative_to(ROOT).parts
        name = f"weightlapse/{inside[0]}" if len(inside) > 1 else "weightlapse"
        count, reached = found.get(name, (0, 0))
        found[name] = count + len(lines), reached + len(lines) - len(missing)
    return found


def main() -> None:
    import coverage

    told = coverage.Coverage()
    told.load()
    found = rows(told)
    if not any(reached for _, reached in found.values()):
        sys.exit("no line was reached: run the tests under coverage first (make coverage)")
    found["all"] = (sum(n for n, _ in found.values()), sum(n for _, n in found.values()))
    for name, (count, reached) in found.items():
        print(f"{name:28}{reached:7} of {count:6} lines {reached / max(count, 1):6.1%}")


if __name__ == "__main__":
    main()

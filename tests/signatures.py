"""All public signatures: ``python -m tests.signatures`` prints them; with the path of ``docs/signatures.md`` it writes that page anew.

The page holds them as the last version had them (a block that stays as it is) and as they are now, and tells what differs; a test compares.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import weightlapse as wl

PAGE = Path(__file__).resolve().parent.parent / "docs" / "signatures.md"
BEFORE, NOW, DIFFER = "## As they were in version 0.1", "## As they are", "## What differs"


class _Plain(str):
    """An annotation that prints without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def written(name: str, thing: Any) -> str:
    signature = inspect.signature(thing)
    plain = [
        p.replace(annotation=_Plain(p.annotation)) if isinstance(p.annotation, str) else p
        for p in signature.parameters.values()
    ]
    back = signature.return_annotation
    return name + str(inspect.Signature(plain, return_annotation=_Plain(back) if isinstance(back, str) else back))


def calls() -> Iterator[tuple[str, Any]]:
    """Functions, figures, what is called like a function, and the public methods of classes."""
    for name in sorted(wl._HOME):
        thing = getattr(wl, name)
        if not isinstance(thing, type):
            yield name, thing
            continue
        if name[0].islower() or name in ("Lift", "HyperNetwork"):
            yield name, thing
        if not issubclass(thing, Exception) and (name == thing.__name__ or name[0].islower()):
            for method, value in sorted(vars(thing).items()):
                value = getattr(value, "__func__", value)
                if not method.startswith("_") and inspect.isfunction(value):
                    yield f"{name}.{method}", value
    for name, value in sorted(vars(wl.plot).items()):
        if (
            inspect.isfunction(value)
            and not name.startswith("_")
            and (value.__module__ == wl.plot.__name__ or name in ("autopsy", "diff"))
        ):
            yield f"plot.{name}", value


def lines() -> list[str]:
    return [written(name, thing) for name, thing in calls()]


def block(page: str, heading: str) -> list[str]:
    """The lines of the code block under a heading of the page."""
    return page.split(heading + "\n", 1)[1].split("```text\n", 1)[1].split("\n```", 1)[0].split("\n")


def differing(before: list[str], now: list[str]) -> list[str]:
    """Names whose arguments differ, with what went and what came, as rows of a table."""
    old, new = ({line.split("(", 1)[0]: line for line in found} for found in (before, now))
    rows = []
    for name in sorted(old | new):
        if name not in old or name not in new:
            rows.append(f"| `{name}` |  | {'gone' if name in old else 'new'} |")
        elif old[name] != new[name]:
            gone, came = (_pieces(old[name]), _pieces(new[name]))
            less, more = ([p for p in x if p not in y] for x, y in ((gone, came), (came, gone)))
            rows.append(f"| `{name}` | {_cell(less)} | {_cell(more)} |")
    return rows


def _cell(pieces: list[str]) -> str:
    return ", ".join(f"`{p}`" for p in pieces).replace("|", "\\|")


def _pieces(line: str) -> list[str]:
    """The arguments of a signature, split at the commas that no bracket holds."""
    found, depth, start = [], 0, line.index("(") + 1
    for i, c in enumerate(line):
        depth += (c in "([{") - (c in ")]}")
        if i >= start and ((c == "," and depth == 1) or (c == ")" and depth == 0)):
            found.append(line[start:i].strip())
            start = i + 1
    return [*found, line[start:].strip()]


def page(before: list[str], now: list[str]) -> str:
    text = [
        "# Signatures",
        "",
        "Every public call of `import weightlapse as wl`, as it is and as it was one version before. Arguments that were renamed go on working under their old",
        "names for that version, with a warning ([versions](versions.md)).",
        "",
        f"{DIFFER}\n",
        "| call | version 0.1 | now |",
        "|---|---|---|",
        *differing(before, now),
    ]
    for heading, found in ((NOW, now), (BEFORE, before)):
        text += ["", heading, "", "```text", *found, "```"]
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    if sys.argv[1:]:
        there = Path(sys.argv[1])
        there.write_text(page(block(there.read_text("utf-8"), BEFORE), lines()), "utf-8")
    else:
        print(*lines(), sep="\n")

"""Our docstrings as the reference shows them: examples become blocks of code, ``:class:`X` `` becomes `X`."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":\w+:`~?([^`]+)`")


def readable(text: str) -> str:
    """``>>>`` lines with what they print become a fenced block; a list right after a sentence gets the empty line that Markdown wants."""
    lines: list[str] = []
    example = False
    for line in _ROLE.sub(r"`\1`", text).split("\n"):
        if line.lstrip().startswith(">>>") and not example:
            example = True
            lines += ["", "```pycon"]
        elif example and not line.strip():
            example = False
            lines.append("```")
        elif not example and re.match(r"\s*- ", line) and lines and lines[-1].strip() and not _in_list(lines):
            lines.append("")
        lines.append(re.sub(r"\s*# doctest: .*", "", line).lstrip() if example and ">>>" in line else line)
    if example:
        while lines and not lines[-1].strip():
            lines.pop()
        lines.append("```")
    return "\n".join(lines)


def _in_list(lines: list[str]) -> bool:
    for line in reversed(lines):
        if not line.strip():
            return False
        if re.match(r"\s*- ", line):
            return True
    return False


class Readable(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = readable(obj.docstring.value)

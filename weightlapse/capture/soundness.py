"""Whether one checkpoint of a series is sound beside those before it: written to its end, a number everywhere, all of one step."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

BLOCKS = 256  # pieces of a tensor that are looked at for zeros on end
BLANK = 0.1  # of a tensor in zeros on end, which were numbers before: what a write that was not finished leaves
_LEAST = 16  # values of a tensor that is large enough to tell


@dataclass(frozen=True)
class Print:
    """What is kept of one tensor: its ``digest``, the longest stretch of it that is ``blank`` (first block, blocks, of how many), how many values are no
    numbers (``bad``, of ``size``), and whether it is a matrix of other numbers than zeros or ones alone, so that no other one is equal to it by chance."""

    digest: tuple[int, int]
    blank: tuple[int, int, int]
    bad: int
    size: int
    tells: bool


def print_of(values: Any) -> Print:
    """The print of one array."""
    values = np.ascontiguousarray(values)
    flat = values.reshape(-1)
    raw = flat.view(np.uint8).data if flat.size else b""
    digest = zlib.crc32(raw), zlib.adler32(raw)
    bad = int(flat.size - np.count_nonzero(np.isfinite(flat))) if values.dtype.kind in "fc" else 0
    tells = values.ndim > 1 and flat.size >= _LEAST and (flat[0] not in (0, 1) or bool((flat != flat[0]).any()))
    return Print(digest, _blank(flat) if values.ndim > 1 else (0, 0, 1), bad, flat.size, tells)


def _blank(flat: Any) -> tuple[int, int, int]:
    """(first, blocks, of how many) of the longest stretch of zeros."""
    if flat.size < _LEAST:
        return 0, 0, 1
    edges = np.linspace(0, flat.size, min(BLOCKS, flat.size // 2) + 1).astype(np.int64)
    full = np.concatenate([[True], np.logical_or.reduceat(flat != 0, edges[:-1]), [True]])
    at = np.flatnonzero(full)
    longest = int(np.argmax(np.diff(at)))
    return int(at[longest]), int(at[longest + 1] - at[longest] - 1), len(edges) - 1


@dataclass
class Soundness:
    """Looks at the checkpoints of a series, one after the other."""

    steps: list[int] = field(default_factory=list)
    seen: dict[str, dict[int, Print]] = field(default_factory=dict)  # by name, then by place in ``steps``

    def see(self, step: int, prints: Mapping[str, Print]) -> list[str]:
        """What is odd about this checkpoint, in words that follow its name."""
        told = []
        place = len(self.steps)
        before = {name: self.seen[name][place - 1] for name in prints if place - 1 in self.seen.get(name, {})}
        blank = {n: p for n, p in prints.items() if n in before and _went_blank(p, before[n])}
        if blank:
            name, first = next(iter(blank.items()))
            where = (
                f"from {first.blank[0] / first.blank[2]:.0%} to {sum(first.blank[:2]) / first.blank[2]:.0%} of {name}"
            )
            told.append(
                f"{len(blank)} of its matrices are zeros on end where they were not before ({where}{_more(blank)}): it seems half written"
            )
        bad = {n: p for n, p in prints.items() if n in before and p.bad and not before[n].bad}
        if bad:
            name, first = next(iter(bad.items()))
            told.append(
                f"NaN or Inf in {len(bad)} of its tensors, which were numbers before ({first.bad:,} of {first.size:,} values of {name}{_more(bad)})"
            )
        told += self._stale(place, prints, before)
        self.steps.append(step)
        for name, found in prints.items():
            self.seen.setdefault(name, {})[place] = found
        return told

    def _stale(self, place: int, prints: Mapping[str, Print], before: Mapping[str, Print]) -> list[str]:
        """Tensors that are, bit for bit, what they were at an earlier step and not at the last one, while others moved on."""
        telling = [n for n, p in prints.items() if p.tells and n in before]
        back: dict[str, int] = {}
        for name in telling:
            if prints[name].digest == before[name].digest:
                continue
            same = [k for k, old in self.seen[name].items() if old.digest == prints[name].digest]
            if same:
                back[name] = max(same)
        if not back or len(back) == len(telling):  # all of them: the whole checkpoint is another one's
            return []
        name, at = next(iter(back.items()))
        return [
            f"{len(back)} of its tensors are, bit for bit, those of an earlier step and the others are not ({name} of step {self.steps[at]}{_more(back)}): "
            "a file of it seems to be an older one's"
        ]

    def rested(self) -> list[str]:
        """What only the whole series shows: matrices that moved from each checkpoint to the next but once, while the others moved."""
        count = len(self.steps)
        if count < 5:
            return []
        still: dict[int, list[str]] = {}
        moving: dict[int, int] = {}
        for name, found in self.seen.items():
            if len(found) < count:
                continue
            equal = [k for k in range(1, count) if found[k].digest == found[k - 1].digest]
            if len(equal) == 1 and all(p.tells for p in found.values()) and 1 < equal[0] < count - 1:
                still.setdefault(equal[0], []).append(name)
            for k in set(range(1, count)) - set(equal):
                moving[k] = moving.get(k, 0) + 1
        return [
            f"{len(names)} tensors are the same at steps {self.steps[k - 1]} and {self.steps[k]} and move at all other times, while the others moved on "
            f"({names[0]}{_more(dict.fromkeys(names))}): a file of step {self.steps[k]} seems to be an older one's"
            for k, names in sorted(still.items())
            if moving.get(k)
        ]


def _went_blank(now: Print, before: Print) -> bool:
    share, old = now.blank[1] / now.blank[2], before.blank[1] / before.blank[2]
    return (
        share >= BLANK and now.blank[1] > 1 and share > 2 * old and now.blank[1] < now.blank[2]
    )  # all of it: said elsewhere


def _more(names: Mapping[str, Any]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""

"""Lines of a recording: what was trained after step N, before it was rewound to N, stays readable as a branch.

Frames are numbered in the order in which they were written. A line is a list of ranges of them; rewinding cuts the end off the main line,
keeps it as a branch, and lets the main line go on with the next frame to be written. Nothing is copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ranges = tuple[tuple[int, int], ...]
OPEN_END = 1 << 62  # the last range of the main line goes on


@dataclass(frozen=True)
class Fork:
    """The recording was rewound: of the frames on the main line the first ``keep`` stay, and it goes on with frame ``first``."""

    first: int
    keep: int
    step: int  # that it was rewound to
    name: str  # of the branch that holds what was cut off

    def to_json(self) -> dict[str, Any]:
        """The payload of the journal's record; ``first`` is the number of that record and is not repeated in it."""
        return {"keep": self.keep, "step": self.step, "name": self.name}

    @classmethod
    def from_json(cls, first: int, entry: dict[str, Any]) -> Fork:
        """``first``: number of the record. Raises ValueError, KeyError or TypeError for what cannot be a rewind; names are cut at 200 characters."""
        try:
            keep, step = int(entry["keep"]), int(entry["step"])
        except OverflowError as error:  # JSON as Python reads it has infinities
            raise ValueError(str(error)) from None
        if not 0 <= keep <= first < OPEN_END:
            raise ValueError(f"a rewind at frame {first} keeps {keep} frames")
        return cls(first, keep, step, str(entry["name"])[:200])


def lines_of(forks: list[Fork]) -> tuple[Ranges, dict[str, Ranges]]:
    """The main line and the branches by name, from the forks in the order of their frames."""
    main: Ranges = ((0, OPEN_END),)
    branches: dict[str, Ranges] = {}
    for fork in forks:
        bounded = clip(main, 0, fork.first)
        branches[fork.name] = skip(bounded, fork.keep)
        main = (*take(bounded, fork.keep), (fork.first, OPEN_END))
    return main, branches


def clip(ranges: Ranges, first: int, stop: int) -> Ranges:
    """The part of the ranges that lies in ``[first, stop)``."""
    cut = ((max(a, first), min(b, stop)) for a, b in ranges)
    return tuple((a, b) for a, b in cut if a < b)


def take(ranges: Ranges, count: int) -> Ranges:
    """The first ``count`` numbers.

    >>> take(((0, 4), (9, 12)), 5)
    ((0, 4), (9, 10))
    """
    taken: list[tuple[int, int]] = []
    for a, b in ranges:
        if count <= 0:
            break
        taken.append((a, min(b, a + count)))
        count -= b - a
    return tuple(taken)


def skip(ranges: Ranges, count: int) -> Ranges:
    """All but the first ``count`` numbers."""
    left: list[tuple[int, int]] = []
    for a, b in ranges:
        if count < b - a:
            left.append((a + max(count, 0), b))
        count -= b - a
    return tuple(left)


def positions(ranges: Ranges, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of these frames is on a line; -1 where it is not on it."""
    found = np.full(len(numbers), -1, np.int64)
    at = 0
    for a, b in ranges:
        inside = (numbers >= a) & (numbers < b)
        found[inside] = numbers[inside] - a + at
        at += b - a
    return found


def untold(forks: list[Fork], runs: list[tuple[int, NDArray[np.int64]]]) -> list[Fork]:
    """Rewinds of which every record is lost, from the steps: on a line they rise, so where a file begins with a lower one the recording was rewound.

    ``runs``: (number of the first frame, steps; -1 unknown) of each file, in the order of writing. A fall inside a file is no rewind and stays.
    The step of such a rewind counts as the last one before the first that was recorded after it.
    """
    found: list[Fork] = []
    numbers, steps = np.empty(0, np.int64), np.empty(0, np.int64)  # of the frames before, where the step is known
    for first, told in runs:
        here = np.flatnonzero(told >= 0)
        known = told[here]
        if len(here) and (steps >= known[0]).any() and all(fork.first != first for fork in forks):
            until = [fork for fork in [*forks, *found] if fork.first < first]
            main, _ = lines_of(sorted(until, key=lambda fork: fork.first))
            where = positions(main, numbers)
            if (steps[where >= 0] >= known[0]).any():
                keep = int(where[steps < known[0]].max(initial=-1)) + 1
                step = int(known[0]) - 1
                found.append(Fork(first, keep, step, f"lost-rewind-{len(found)}-to-{step}"))
        numbers, steps = np.concatenate([numbers, here + first]), np.concatenate([steps, known])
    return found

"""What is written along a picture: names and numbers of filters, heads, gates, rows and columns, as many as there is room for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from weightlapse.picture.arrangement import Arrangement, Level


@dataclass(frozen=True)
class Tick:
    """``text`` for the ``cells`` cells from ``first`` on."""

    first: int
    cells: int
    text: str


@dataclass(frozen=True)
class Side:
    """The ticks along one side, and what they count ("filter", "head"); no ticks where there is no room, or nothing to tell apart."""

    unit: str
    ticks: tuple[Tick, ...]


def side(arrangement: Arrangement, *, down: bool, cell: float, room: float) -> Side:
    """Ticks along the rows (``down``) or the columns. ``cell``: pixels of one; ``room``: pixels that a number needs.

    >>> from weightlapse.picture.arrangement import plain
    >>> [tick.text for tick in side(plain((8, 4)), down=True, cell=10, room=18).ticks]
    ['0', '2', '4', '6']
    """
    levels = arrangement.down if down else arrangement.across
    for i, level in enumerate(levels):
        if level.count == 1:
            continue
        every = math.prod(inner.count for inner in levels[i + 1 :])
        base = _base(arrangement, level)
        step = 1 if level.names else _round(room / (every * cell))
        if level.names and every * cell < room:
            return Side(level.unit, ())
        texts = level.names or [str(n * level.stride // base) for n in range(level.count)]
        return Side(level.unit, tuple(Tick(n * every, every, texts[n]) for n in range(0, level.count, step)))
    return Side("", ())


def _base(arrangement: Arrangement, level: Level) -> int:
    """How many indices one unit has: where an axis is wrapped, its units go on from line to line."""
    same = [
        other.stride
        for other in (*arrangement.down, *arrangement.across)
        if (other.axis, other.unit) == (level.axis, level.unit)
    ]
    return min(same)


def _round(least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, ... that is not below ``least``."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power >= least:
                return factor * power
        power *= 10

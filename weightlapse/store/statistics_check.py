"""Whether the statistics that a recording keeps are those of its values: asked while a block is verified, when every value goes by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.store.blockread import BlockSegment
from weightlapse.store.gathering import Gathering, LastFrame
from weightlapse.store.segment import Damage
from weightlapse.store.statistics import COUNTS, Outline, Statistics

_CLOSE = 1e-9  # relative: sums may be made in any order


class StatisticsCheck:
    """Makes the statistics of a block anew and compares. ``find``: the frame of a number, None where it cannot be read."""

    def __init__(
        self,
        kept: Statistics,
        segment: BlockSegment,
        before: LastFrame | None,
        find: Callable[[int], LastFrame | None],
    ) -> None:
        self._kept, self._segment = kept, segment
        crc, chunks = segment.opening.layout_crc, segment.chunks
        outline = Outline(
            segment.layout, crc, segment.first, segment.count, segment.opening.height, chunks, kept.each, kept.units
        )
        self.fits = kept.height == outline.height and kept.pieces == outline.pieces
        if kept.before < 0:
            before = None
        elif before is None or before.number != kept.before:
            before = find(kept.before)
        self._known = before is not None or kept.before < 0
        self._made = Gathering(outline, before, None) if self.fits and self._known else None

    def look(self, b: int, c: int, patterns: NDArray[Any]) -> None:
        """Take in the patterns (frames, values) of chunk ``c`` in time block ``b``; every chunk must come once, time blocks in their order."""
        if self._made is not None:
            self._made.take(b, c, self._made.look(b, self._made.outline.chunks[c], patterns))

    @property
    def last(self) -> LastFrame | None:
        """The last frame of the block, for the check of the next one; None where nothing could be compared."""
        return None if self._made is None else self._made.last

    def wrong(self) -> list[str]:
        """The columns that the values do not bear out, when all chunks were looked at."""
        if not self.fits:
            return ["blocks"]
        if self._made is None:
            return []
        kept, made = self._kept, self._made.done()
        found = [name for name in ("min", "max", "update_max", *COUNTS) if not _same(kept.rows[name], made.rows[name])]
        found += [
            name for name in ("sumsq", "update_sumsq") if not _close(kept.rows[name], made.rows[name], made.rows[name])
        ]
        scale = np.sqrt(made.rows["sumsq"] * self._values())
        found += [] if _close(kept.rows["sum"], made.rows["sum"], scale) else ["sum"]
        within = (kept.low <= made.low).all() and (kept.high >= made.high).all() and (kept.jump >= made.jump).all()
        units = ((kept.unit_value, made.unit_value), (kept.unit_jump, made.unit_jump))
        within &= all(bool((a >= b * np.float32(1 - 1e-6)).all()) for a, b in units)
        return found if within else [*found, "bounds"]

    def _values(self) -> NDArray[np.float64]:
        """How many values each row is of."""
        outline = self._made.outline if self._made is not None else None
        assert outline is not None
        sizes = [
            2.0 * spec.size * (1 if each else outline.height)
            for spec, each in zip(outline.layout.tensors, outline.each)
        ]
        return np.repeat(sizes, np.diff(self._kept.starts))


def _same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return len(a) == len(b) and bool(((a == b) | ((a != a) & (b != b))).all())


def _close(a: NDArray[Any], b: NDArray[Any], scale: NDArray[Any]) -> bool:
    with np.errstate(invalid="ignore"):
        return len(a) == len(b) and bool(((a == b) | (np.abs(a - b) <= _CLOSE * np.abs(scale))).all())


def damage_of(name: str, segment: BlockSegment, columns: list[str]) -> Damage:
    """Damage that costs no frame: the statistics ``columns`` in file ``name`` are wrong, and are made anew from the values."""
    return Damage(
        name,
        f"the statistics of {segment.file} are not those of its values ({', '.join(columns)}); the values count, and are whole",
    )

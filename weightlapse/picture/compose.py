"""From kind to arrangement: levels, gaps and wrapping."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from weightlapse.picture.arrangement import Arrangement, Level
from weightlapse.picture.fused import Shapes
from weightlapse.picture.kinds import Kind, kind_of, kinds

STAGE = 1.6  # width over height that a wrapped picture comes near to
WIDE = 4  # a layer of kernels this many times wider than high has its inputs wrapped


def arrangement(shape: tuple[int, ...], kind: Kind) -> Arrangement:
    """How a tensor of ``shape`` and ``kind`` is laid out.

    >>> from weightlapse.picture.kinds import kind_of
    >>> shape = (24, 1, 3, 3)                      # 24 filters, set like text: six on a line
    >>> arrangement(shape, kind_of("conv.weight", shape)).rows
    12
    """
    if 0 in shape:
        return Arrangement(shape, *([Level(a, shape[a]) for a in axes] for axes in (kind.down, kind.across)))  # type: ignore[arg-type]
    down = [level for axis in kind.down for level in _levels(axis, shape[axis], kind)]
    across = [level for axis in kind.across for level in _levels(axis, shape[axis], kind)]
    if kind.wrap and down:
        rows, cols = _cells(down), _cells(across)
        if cols * 2 < rows:
            down, across = _wrapped(down, across)
        elif kind.word == "convolution" and cols > WIDE * rows and across[0].count > 1:
            across, down = _lines(down, across)
    return Arrangement(shape, tuple(down), tuple(across))


def arrangements(shapes: Shapes, wiring: Any = None) -> dict[str, Arrangement]:
    """The arrangement of every tensor of a network."""
    return {name: arrangement(tuple(shapes[name]), kind) for name, kind in kinds(shapes, wiring).items()}


def arrangement_of(name: str, shape: tuple[int, ...], shapes: Shapes | None = None, wiring: Any = None) -> Arrangement:
    """The arrangement of one tensor."""
    return arrangement(tuple(shape), kind_of(name, tuple(shape), shapes, wiring))


def alike(drawn: Arrangement, shape: tuple[int, ...]) -> Arrangement:
    """A tensor of another ``shape`` (before it grew) in the same lines and columns as ``drawn``: fewer or more entries of the outermost levels."""

    def resized(levels: Sequence[Level]) -> tuple[Level, ...]:
        out = []
        for level in levels:
            first = all(
                other.stride <= level.stride for other in (*drawn.down, *drawn.across) if other.axis == level.axis
            )
            changed = first and shape[level.axis] != drawn.shape[level.axis]
            out.append(replace(level, count=-(-shape[level.axis] // level.stride)) if changed else level)
        return tuple(out)

    return Arrangement(shape, resized(drawn.down), resized(drawn.across))


def strip(count: int, parts: int, *, upright: bool = False) -> Arrangement:
    """A vector in ``parts`` lines, or as one column."""
    if upright:
        return Arrangement((count,), (Level(0, count),), ())
    per = -(-count // parts)
    lines = -(-count // per)
    return Arrangement((count,), (Level(0, lines, per, gap=2),) if lines > 1 else (), (Level(0, per),))


def _levels(axis: int, size: int, kind: Kind) -> list[Level]:
    out: list[Level] = []
    rest = size
    for cut in kind.cuts:
        if cut.axis != axis or rest % cut.count:
            continue
        rest //= cut.count
        out.append(Level(axis, cut.count, rest, cut.gap if cut.count > 1 else 0, cut.unit, cut.names))
    if rest > 1 or not out:
        out.append(Level(axis, rest, 1, 0, kind.units[axis]))
    return out


def _cells(levels: Sequence[Level]) -> int:
    return math.prod(level.count for level in levels)


def _wrapped(down: list[Level], across: list[Level]) -> tuple[list[Level], list[Level]]:
    """The outermost entries down set like text: left to right, then the next line."""
    first, high, wide = down[0], _cells(down[1:]), _cells(across)
    parts = _best(first.count, lambda n: (n * wide) / (-(-first.count // n) * high))
    if parts == 1:
        return down, across
    lines = Level(first.axis, -(-first.count // parts), first.stride * parts, first.gap, first.unit, first.names)
    beside = Level(first.axis, parts, first.stride, max(first.gap, 2), first.unit, first.names)
    return [lines, *down[1:]], [beside, *across]


def _lines(down: list[Level], across: list[Level]) -> tuple[list[Level], list[Level]]:
    """The inputs of each filter set like text inside it: (across, down)."""
    first, high, wide = across[0], _cells(down), _cells(across[1:])
    lines = _best(first.count, lambda n: (-(-first.count // n) * wide) / (n * high))
    if lines == 1:
        return across, down
    per = -(-first.count // lines)
    lines = -(-first.count // per)
    inner = Level(first.axis, lines, first.stride * per, first.gap, first.unit)
    return [Level(first.axis, per, first.stride, first.gap, first.unit), *across[1:]], [down[0], inner, *down[1:]]


def _best(count: int, aspect: Any) -> int:
    """Into how many pieces, so that the picture is near the stage's form and its last line nearly full."""

    def badness(pieces: int) -> float:
        empty = -(-count // pieces) * pieces - count
        return abs(math.log(aspect(pieces) / STAGE)) + 2 * empty / count

    near = range(1, min(count, 4096) + 1)
    return min(near, key=badness)

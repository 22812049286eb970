"""What a tensor is, in a few words: "32 filters of 16×3×3", "query, key, value of 64 units"."""

from __future__ import annotations

import math

from weightlapse.picture.kinds import Kind


def describe(shape: tuple[int, ...], kind: Kind) -> str:
    """A label for a tensor, with the names of its axes.

    >>> from weightlapse.picture.kinds import kind_of
    >>> describe((32, 16, 3, 3), kind_of("conv.weight", (32, 16, 3, 3)))
    '32 filters of 16×3×3'
    >>> describe((10, 64), kind_of("fc.weight", (10, 64)))
    '10 units × 64 inputs'
    """
    sizes = "×".join(map(str, shape))
    if not shape:
        return "one number"
    parts = []
    for at, cut in enumerate(kind.cuts):
        outer = kind.cuts[at - 1] if at and kind.cuts[at - 1].axis == cut.axis else None
        if cut.unit == "head" and outer is not None and outer.unit == "group":
            parts.append(f"{_count(outer.count * cut.count, 'head')} in {_count(outer.count, 'group')}")
        elif cut.unit in ("part", "gate", "head"):
            parts.append(", ".join(dict.fromkeys(cut.names)) if cut.names else _count(cut.count, cut.unit))
    if kind.word == "convolution":
        filters = kind.down[0]
        rest = [
            shape[axis]
            for axis in (kind.across[0], *sorted(a for a in range(len(shape)) if a not in (filters, kind.across[0])))
        ]
        return f"{_count(shape[filters], 'filter')} of {'×'.join(map(str, rest))}"
    if kind.word in ("experts", "stack"):
        return f"{_count(math.prod(shape[:-2]), 'expert' if kind.word == 'experts' else 'matrix')} of {shape[-2]}×{shape[-1]}"
    if parts:
        return f"{sizes}: {'; '.join(parts)}"
    if len(shape) == 2:
        return f"{_count(shape[0], kind.units[0])} × {_count(shape[1], kind.units[1])}"
    return sizes


def ordinal(number: int) -> str:
    """
    >>> [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 21, 102, 113)]
    ['1st', '2nd', '3rd', '4th', '11th', '12th', '21st', '102nd', '113th']
    """
    teens = 10 < number % 100 < 20
    return f"{number}{'th' if teens else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def _count(number: int, unit: str) -> str:
    if number == 1:
        return f"1 {unit}"
    return f"{number} {'matrices' if unit == 'matrix' else unit + 's'}"

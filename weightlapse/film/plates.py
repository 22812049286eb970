"""What is laid out: tensors with the vectors that belong to them, the sizes all rules share, and places."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from weightlapse.film.tiles import Tile
from weightlapse.picture.arrangement import Arrangement
from weightlapse.picture.compose import arrangement
from weightlapse.picture.kinds import Kind, kinds
from weightlapse.picture.strips import Side, module_of, strips


@dataclass(frozen=True)
class Plate:
    """A tensor with the vectors that belong to it: ``beside`` along its rows, ``below`` along its columns."""

    title: str
    main: str
    arrangement: Arrangement
    kind: Kind
    beside: tuple[str, ...] = ()
    below: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    badge: str = ""  # a letter before its name
    said: tuple[str, ...] = ()  # words after it

    @property
    def names(self) -> tuple[str, ...]:
        """The tensor first, then the vectors beside and below it."""
        return (self.main, *self.beside, *self.below)


@dataclass(frozen=True)
class Measure:
    """Sizes in pixels that all rules share; ``unit`` is 1 at 1280 × 720."""

    unit: float
    text: int  # size of a label
    label: int  # height of the line above a plate; 0: no label
    gap: int  # between plates
    words: int  # size of the letters above a plate
    narrowest: int  # of a plate with a label
    lines: int = 1  # of a label: the name, and, on a second one, what else is to be said

    @staticmethod
    def of(width: int, height: int) -> Measure:
        """For a picture of so many pixels; letters shrink less than the rest, and never below 10 pixels."""
        unit = min(width / 1280, height / 720)
        text = round(13 * unit) if unit >= 1 else max(round(13 * math.sqrt(unit)), 10)
        return Measure(unit, text, even(text * 1.6), even(18 * max(unit, 0.5)), text, even(84 * max(unit, 0.7)))

    def compact(self) -> Measure:
        """For pictures with very many plates: small letters, little space."""
        words = max(round(9 * self.unit), 9)
        return replace(
            self, label=even(words * 1.6), gap=even(8 * max(self.unit, 0.5)), words=words, narrowest=even(words * 6.6)
        )

    def unlabelled(self) -> Measure:
        """No letters at all."""
        return replace(self.compact(), label=0, gap=even(6 * max(self.unit, 0.5)))


@dataclass(frozen=True)
class Placed:
    """A plate at its place: the box includes the label line, the tiles are at their final pixels."""

    plate: Plate
    x: int
    y: int
    width: int
    height: int
    tiles: tuple[Tile, ...]
    label: int  # height of the label line
    words: int  # size of its letters

    def moved(self, x: int, y: int) -> Placed:
        """The same plate with its top left at (x, y); its tiles move with it."""
        dx, dy = x - self.x, y - self.y
        return replace(self, x=x, y=y, tiles=tuple(tile.at(tile.x + dx, tile.y + dy) for tile in self.tiles))


def even(value: float) -> int:
    """The largest even integer that is at most ``value``, at least 2: cells and places that H.264's halved chroma keeps apart."""
    return max(int(value) // 2 * 2, 2)


def plates(shapes: Mapping[str, tuple[int, ...]], wiring: Any = None) -> list[Plate]:
    """Tensors in network order, biases put beside their matrices, vectors of one module together.

    >>> [b.names for b in plates({"fc.weight": (3, 4), "fc.bias": (3,), "ln.weight": (3,), "ln.bias": (3,)})]
    [('fc.weight', 'fc.bias'), ('ln.weight', 'ln.bias')]
    """
    known = kinds(shapes, wiring)
    belonging = strips(shapes, known)
    of: dict[str, dict[Side, list[str]]] = {}
    for name, (main, side) in belonging.items():
        of.setdefault(main, {"right": [], "below": []})[side].append(name)
    out: list[Plate] = []
    for name, shape in shapes.items():
        if name in belonging:
            continue
        mine = of.get(name, {"right": [], "below": []})
        beside, below = tuple(mine["right"]), tuple(mine["below"])
        title = (module_of(name) if below and len(shape) < 2 else "") or name
        out.append(Plate(title, name, arrangement(shape, known[name]), known[name], beside, below, shapes))
    return out

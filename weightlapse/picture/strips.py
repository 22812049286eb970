"""Which vectors are drawn as strips of another tensor: a bias along the rows or the columns of its matrix, the vectors of one norm under each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from weightlapse.picture.kinds import Kind

Side = Literal["right", "below"]
Shapes = Mapping[str, tuple[int, ...]]


def strips(shapes: Shapes, known: Mapping[str, Kind]) -> dict[str, tuple[str, Side]]:
    """For each vector that belongs to another tensor, that tensor and the side where its strip stands. ``known``: the kinds of all.

    A bias stands to the right of its matrix, entry by entry along the rows, or below it, along the columns, where its units are; the vectors of
    one module (scale, shift, running mean and variance of a norm) stand below the first of them. In the order of the network.

    >>> from weightlapse.picture.kinds import kinds
    >>> shapes = {"fc.weight": (3, 4), "fc.bias": (3,), "ln.weight": (3,), "ln.bias": (3,), "out/kernel": (3, 2), "out/bias": (2,)}
    >>> strips(shapes, kinds(shapes))
    {'fc.bias': ('fc.weight', 'right'), 'ln.bias': ('ln.weight', 'below'), 'out/bias': ('out/kernel', 'below')}
    """
    found: dict[str, tuple[str, Side]] = {}
    first: dict[tuple[str, tuple[int, ...]], str] = {}
    biases = {bias_of(name): name for name, shape in shapes.items() if len(shape) >= 2}
    for name, shape in shapes.items():
        if len(shape) >= 2:
            continue
        main = biases.get(name)
        if main is not None and len(shape) == 1 and (side := _side(shape[0], shapes[main], known[main])) is not None:
            found[name] = (main, side)
        elif main is None:
            leader = first.setdefault((module_of(name), shape), name)
            if leader != name:
                found[name] = (leader, "below")
    return found


def _side(count: int, shape: tuple[int, ...], kind: Kind) -> Side | None:
    units_across = kind.units[-1] in ("unit", "output")  # Keras, Flax and GPT-2 keep (in, out)
    if count == shape[kind.down[0]] and not units_across:
        return "right"
    return "below" if len(shape) == 2 and count == shape[1] else None


def bias_of(name: str) -> str | None:
    """The name that the bias of a matrix bears."""
    head, cut, last = _split(name)
    for word in ("weight", "kernel"):
        if word in last:
            return head + cut + last.replace(word, "bias")
    return None


def module_of(name: str) -> str:
    """The module that a tensor belongs to, "" for none."""
    return _split(name)[0]


def _split(name: str) -> tuple[str, str, str]:
    separator = "/" if "/" in name and "." not in name else "."
    return name.rpartition(separator)

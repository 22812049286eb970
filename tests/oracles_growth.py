"""Slow, obvious twins of growth: one weight at a time, exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def widened_layers(
    first: Array, bias: Array, second: Array, parents: list[int], parts: list[float]
) -> tuple[Array, Array, Array]:
    """A hidden layer widened by hand: rows and bias copied, every column times the part of its replica."""
    rows = np.array([first[p] for p in parents])
    biases = np.array([bias[p] for p in parents])
    columns = np.zeros((len(second), len(parents)))
    for unit, (parent, part) in enumerate(zip(parents, parts, strict=True)):
        for row in range(len(second)):
            columns[row, unit] = second[row, parent] * part
    return rows, biases, columns


def exact_sum(values: list[float]) -> Fraction:
    """The sum without any rounding."""
    return sum((Fraction(float(v)) for v in values), Fraction(0))


def lines_up(source: list[int], outer: int, size: int, inner: int, parents: list[int]) -> bool:
    """Whether an axis of (outer, units, inner) positions was widened to (outer, new units, inner) of the parents' positions."""
    wanted = [
        (a * size + parents[u]) * inner + b for a in range(outer) for u in range(len(parents)) for b in range(inner)
    ]
    return list(source) == wanted

"""Places of units by the unit of another group that they lie in, against what is written beside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.test_wiring_decisions import fresh
from weightlapse.wiring.groups import Spot, _distinct, _overlap, divided, walk


def spot(axis: int, index: list[list[int]], where: tuple[int, list[int]] | None = None, tensor: str = "t") -> Spot:
    return Spot(tensor, axis, np.array(index), None if where is None else (where[0], np.array(where[1])))


def told(spots: list[Spot], outer: list[Spot], size: int) -> Any:
    found = divided(spots, outer, size)
    if found is None:
        return None
    return {
        unit: [(s.axis, s.index.tolist(), None if s.where is None else (s.where[0], s.where[1].tolist())) for s in mine]
        for unit, mine in found.items()
    }


MIXED = [[0, 1, 4, 5, 8], [2, 3, 6, 7, 9]]
HEADS = [[0, 1, 2, 3], [4, 5, 6, 7]]
CASES: dict[str, tuple[list[Spot], list[Spot], Any]] = {
    "flattened together": ([spot(0, MIXED)], [spot(0, HEADS)], {0: [(0, [[0, 1], [2, 3]], None)], 1: [(0, [[4, 5], [6, 7]], None)]}),
    "the one on its own axis": ([spot(0, MIXED)], [spot(1, [[0], [1]]), spot(0, HEADS)], {0: [(0, [[0, 1], [2, 3]], None)], 1: [(0, [[4, 5], [6, 7]], None)]}),
    "on another axis": ([spot(0, [[0], [1]])], [spot(1, [[2, 0], [1, 3]])], {0: [(0, [[0], [1]], (1, [0, 2]))], 1: [(0, [[0], [1]], (1, [1, 3]))]}),
    "in a slab of it": ([spot(1, [[0], [1]], (0, [0, 1, 2]))], [spot(0, [[0, 1], [2, 3]])], {0: [(1, [[0], [1]], (0, [0, 1]))], 1: [(1, [[0], [1]], (0, [2]))]}),
    "in a slab of one unit": ([spot(1, [[0], [1]], (0, [2, 3]))], [spot(0, [[0, 1], [2, 3]])], {1: [(1, [[0], [1]], (0, [2, 3]))]}),
    "two slabs": ([spot(0, [[0], [1]], (1, [0]))], [spot(2, [[0], [1]])], None),
    "two slabs of which one is its own": ([spot(0, [[0], [1]], (1, [0]))], [spot(2, [[0], [1]], (0, [0]))], {}),
    "two slabs of which one is another's": ([spot(0, [[0], [1]], (1, [0]))], [spot(2, [[0], [1]], (1, [0]))], None),
    "in another tensor": ([spot(0, MIXED)], [spot(0, HEADS, tensor="u")], {}),
    "beside, on its own axis": ([spot(0, [[8], [9]])], [spot(0, HEADS)], {}),
    "of the first unit alone": ([spot(0, [[0, 1], [2, 3]])], [spot(0, HEADS)], {0: [(0, [[0, 1], [2, 3]], None)]}),
    "in two tensors": (
        [spot(0, MIXED), spot(0, [[0], [1]], tensor="u")], [spot(0, HEADS), spot(1, [[0], [1]], tensor="u")],
        {0: [(0, [[0, 1], [2, 3]], None), (0, [[0], [1]], (1, [0]))], 1: [(0, [[4, 5], [6, 7]], None), (0, [[0], [1]], (1, [1]))]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_places_by_the_unit_that_they_lie_in(name: str) -> None:
    spots, outer, expected = CASES[name]
    assert told(spots, outer, 2) == expected


def test_positions_of_every_part_of_an_axis() -> None:
    dims, (a, b, c) = fresh(2, 3, 4)
    node = dims.sum([dims.product([a, b]), c])
    found = {atom: index.tolist() for atom, index in walk(dims, node, np.arange(10)[:, None])}
    assert found == {a: [[0, 1, 2], [3, 4, 5]], b: [[0, 3], [1, 4], [2, 5]], c: [[6], [7], [8], [9]]}
    twice = {atom: index.tolist() for atom, index in walk(dims, dims.product([a, b]), np.arange(12).reshape(6, 2))}
    assert twice == {a: [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]], b: [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]}


def test_positions_are_distinct_or_overlap() -> None:
    assert _distinct(np.array([[0, 3], [1, 2]]))
    assert not _distinct(np.array([[0, 3], [1, 3]]))
    assert _distinct(np.zeros((0, 0), dtype=np.int64))
    assert _overlap(np.array([[0], [3]]), np.array([[3], [5]]))
    assert not _overlap(np.array([[0], [3]]), np.array([[1], [5]]))
    assert not _overlap(np.array([[0], [9]]), np.array([[1], [5]]))

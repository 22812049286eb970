"""Rows of bytes, and where in each of them the arrays of a model lie.

Arrays that lie behind each other are copied with one call, and nothing is kept for any single row: what an array costs, in time and in memory, is
little beside its values even where these are few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 8  # arrays begin at multiples of so many bytes; what is between them stays zero


@dataclass(frozen=True)
class Rows:
    """``memory`` (capacity, row_nbytes) uint8; array i of each row begins at ``offsets[i]``, with ``dtypes[i]`` (as stored) and ``shapes[i]``."""

    memory: NDArray[np.uint8]
    offsets: Sequence[int]
    dtypes: Sequence[np.dtype[Any]]
    shapes: Sequence[tuple[int, ...]]

    def nbytes(self, i: int) -> int:
        return int(np.prod(self.shapes[i], dtype=np.int64)) * self.dtypes[i].itemsize

    def column(self, i: int) -> NDArray[Any]:
        """The places of array i in all rows: a view of shape (capacity, \\*S)."""
        start, capacity = self.offsets[i], len(self.memory)
        flat = self.memory[:, start : start + self.nbytes(i)]
        if not flat.size:
            return np.empty((capacity, *self.shapes[i]), self.dtypes[i])
        return flat.view(self.dtypes[i]).reshape(capacity, *self.shapes[i])

    def bytes_of(self, i: int) -> NDArray[np.uint8]:
        """The same as bytes (capacity, nbytes)."""
        return self.memory[:, self.offsets[i] : self.offsets[i] + self.nbytes(i)]


class Gather:
    """Copies arrays into a row, those that lie behind each other and have the same dtype with one call.

    >>> rows = Rows(np.zeros((4, 24), np.uint8), (0, 16), (np.dtype("f4"), np.dtype("f4")), ((3,), (2,)))
    >>> Gather(rows, (0, 1)).copy(2, [np.ones(3, "f4"), np.full(2, 2, "f4")])
    >>> rows.column(0)[2], rows.column(1)[2]
    (array([1., 1., 1.], dtype=float32), array([2., 2.], dtype=float32))
    """

    def __init__(self, rows: Rows, numbers: Sequence[int]) -> None:
        """``numbers``: the arrays that will be given to :meth:`copy`, in rising order."""
        self._runs: list[_Run] = []
        order = enumerate(numbers)
        for _, run in groupby(order, lambda at: (at[1] - at[0], rows.dtypes[at[1]])):
            self._runs.append(_Run(rows, list(run)))

    def copy(self, slot: int, arrays: Sequence[NDArray[Any]]) -> None:
        """Copy ``arrays``, which have the shapes and dtypes of the rows, into the row ``slot``."""
        for run in self._runs:
            np.concatenate(run.among(arrays), axis=None, out=run.column[slot])


class GatherBytes:
    """The same for arrays that stay where they are: their bytes, whatever their dtypes."""

    def __init__(self, rows: Rows, numbers: Sequence[int], arrays: Sequence[NDArray[Any]]) -> None:
        """``arrays``: C-contiguous, in stored dtype."""
        self._runs: list[tuple[NDArray[np.uint8], list[NDArray[np.uint8]]]] = []
        for _, run in groupby(enumerate(numbers), lambda at: at[1] - at[0]):
            numbered = list(run)
            parts: list[NDArray[np.uint8]] = []
            for k, i in numbered:
                parts.append(arrays[k].reshape(-1).view(np.uint8))
                if gap := -rows.nbytes(i) % ALIGNMENT:
                    parts.append(_ZEROS[:gap])
            start = rows.offsets[numbered[0][1]]
            self._runs.append((rows.memory[:, start : start + sum(map(len, parts))], parts))

    def copy(self, slot: int) -> None:
        for column, parts in self._runs:
            np.concatenate(parts, out=column[slot])


_ZEROS = np.zeros(ALIGNMENT, np.uint8)


class _Run:
    """Neighbours of one dtype: those numbered ``first`` to ``last`` of the arrays given to :meth:`among`."""

    def __init__(self, rows: Rows, numbered: list[tuple[int, int]]) -> None:
        self.first, self.last = numbered[0][0], numbered[-1][0] + 1
        dtype = rows.dtypes[numbered[0][1]]
        self._template: list[NDArray[Any]] = []
        self._at: list[int] = []  # place of each array in the template
        for _, i in numbered:
            self._at.append(len(self._template))
            self._template.append(_ZEROS)
            if gap := -rows.nbytes(i) % ALIGNMENT:
                self._template.append(np.zeros(gap // dtype.itemsize, dtype))
        start, (_, end) = rows.offsets[numbered[0][1]], numbered[-1]
        stop = rows.offsets[end] + -(-rows.nbytes(end) // ALIGNMENT) * ALIGNMENT
        self.column: NDArray[Any] = rows.memory[:, start:stop].view(dtype)

    def among(self, arrays: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        mine = arrays[self.first : self.last]
        if len(self._template) == len(mine):
            return mine
        parts = self._template.copy()  # which would else hold on to arrays whose memory the program may give away
        for place, array in zip(self._at, mine):
            parts[place] = array
        return parts

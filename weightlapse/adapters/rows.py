"""Rows of bytes, and where in each of them the arrays of a model lie.

Arrays that lie behind each other are copied with one call, and nothing is kept for any single row: what an array costs, in time and in memory, is
little beside its values even where these are few.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FEW = 12  # parts below which each is put by itself, where its memory is known; from which on they are joined, where they are
_SMALL = 8 << 10  # bytes of a part, on average, up to which
_AT_ONCE = 512 << 10  # bytes that are joined: few enough for a fast cache
ALIGNMENT = 8  # arrays begin at multiples of so many bytes; what is between them stays zero


@dataclass(frozen=True)
class Rows:
    """``memory`` (capacity, row_nbytes) uint8; array i of each row begins at ``offsets[i]``, with ``dtypes[i]`` (as stored) and ``shapes[i]``."""

    memory: NDArray[np.uint8]
    offsets: Sequence[int]
    dtypes: Sequence[np.dtype[Any]]
    shapes: Sequence[tuple[int, ...]]

    def nbytes(self, i: int) -> int:
        """Bytes of array ``i`` in one row, without padding."""
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
            parts = run.among(arrays)
            if run.joined is not None:
                try:
                    run.joined.copy(slot, parts)
                    continue
                except (TypeError, ValueError, BufferError):  # one of them does not lie in C order
                    pass
            np.concatenate(parts, axis=None, out=run.column[slot])


class GatherBytes:
    """The same for arrays that stay where they are: their bytes, whatever their dtypes."""

    def __init__(self, rows: Rows, numbers: Sequence[int], arrays: Sequence[NDArray[Any]]) -> None:
        """``arrays``: C-contiguous, in stored dtype."""
        self._runs: list[tuple[NDArray[np.uint8], list[NDArray[np.uint8]]]] = []
        self._joined: list[tuple[Joined, list[memoryview]]] = []
        self._placed: list[tuple[int, int, memoryview]] = []  # where in a row, and what
        self._memory = rows.memory.reshape(-1).data if rows.memory.flags.c_contiguous else None
        self._pitch = rows.memory.shape[1]
        for _, run in groupby(enumerate(numbers), lambda at: at[1] - at[0]):
            numbered = list(run)
            parts: list[NDArray[np.uint8]] = []
            for k, i in numbered:
                parts.append(arrays[k].reshape(-1).view(np.uint8))
                if gap := -rows.nbytes(i) % ALIGNMENT:
                    parts.append(_ZEROS[:gap])
            self._add(rows, rows.offsets[numbered[0][1]], parts)

    def _add(self, rows: Rows, start: int, parts: list[NDArray[np.uint8]]) -> None:
        """Neighbours that begin at byte ``start`` of a row, in as many calls as are best for them."""
        ends = list(accumulate(map(len, parts), initial=0))
        a = 0
        while a < len(parts):
            b = max(bisect_right(ends, ends[a] + _AT_ONCE) - 1, a + 1)
            begin, stop, some = start + ends[a], start + ends[b], parts[a:b]
            if self._memory is not None and len(some) < _FEW:
                edges = [start + at for at in ends[a : b + 1]]
                here = zip(edges, edges[1:], some)
                self._placed += [
                    (at, end, part.data) for at, end, part in here if part.base is not _ZEROS
                ]  # zero already
            elif are_joined(rows, len(some), stop - begin):
                self._joined.append((Joined(rows, begin, stop), [part.data for part in some]))
            else:
                self._runs.append((rows.memory[:, begin:stop], some))
            a = b

    def copy(self, slot: int) -> None:
        """The present bytes of all arrays into row ``slot``; nobody else may write to that row meanwhile."""
        if self._placed:
            memory, row = self._memory, slot * self._pitch
            assert memory is not None
            for at, end, view in self._placed:
                memory[row + at : row + end] = view
        for joined, views in self._joined:
            joined.copy(slot, views)
        for column, parts in self._runs:
            np.concatenate(parts, out=column[slot])


def are_joined(rows: Rows, count: int, nbytes: int) -> bool:
    """Whether so many parts are so small that Python's own ``join`` and one copy more cost less than a call of NumPy, which looks at each."""
    return rows.memory.flags.c_contiguous and count >= _FEW and count * _SMALL >= nbytes and nbytes <= _AT_ONCE


class Joined:
    """Bytes ``[start, stop)`` of the rows, where small neighbours are put with one call."""

    def __init__(self, rows: Rows, start: int, stop: int) -> None:
        self._memory = rows.memory.reshape(-1).data
        self._pitch, self._start, self._nbytes = rows.memory.shape[1], start, stop - start

    def copy(self, slot: int, parts: Sequence[Any]) -> None:
        """The bytes of all parts into the row ``slot``. What does not lie in C order raises (BufferError, mostly), and nothing is done."""
        data = b"".join(parts)
        begin = slot * self._pitch + self._start
        self._memory[begin : begin + self._nbytes] = data


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
        self.joined = Joined(rows, start, stop) if are_joined(rows, len(self._template), stop - start) else None

    def among(self, arrays: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        mine = arrays[self.first : self.last]
        if len(self._template) == len(mine):
            return mine
        parts = self._template.copy()  # which would else hold on to arrays whose memory the program may give away
        for place, array in zip(self._at, mine):
            parts[place] = array
        return parts

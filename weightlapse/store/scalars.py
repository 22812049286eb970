"""Scalars over frames: columns that are made when they are looked at, from one sorting of everything that was logged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray


class Scalars(Mapping[str, NDArray[np.float64]]):
    """``scalars["loss"]`` is float64 (T,), NaN where nothing was logged: a new array each time, the reader's own."""

    def __init__(self, names: list[str], column: Callable[[str], NDArray[np.float64]]) -> None:
        self._names = dict.fromkeys(names)
        self._column = column

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        if name not in self._names:
            raise KeyError(name)
        return self._column(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"<Scalars {', '.join(map(repr, self._names))}>"


def columns(
    names: dict[str, int], ids: NDArray[np.int64], frames: NDArray[np.int64], values: NDArray[np.float64], count: int
) -> Scalars:
    """Scalars of ``count`` frames from entries (id, frame, value) in the order in which they were logged: of several the last counts."""
    inside = (frames >= 0) & (frames < count)
    ids, frames, values = ids[inside], frames[inside], values[inside]
    order = np.argsort(ids, kind="stable")
    ids, frames, values = ids[order], frames[order], values[order]

    def column(name: str) -> NDArray[np.float64]:
        first, last = np.searchsorted(ids, [names[name], names[name] + 1])
        made = np.full(count, np.nan)
        made[frames[first:last]] = values[first:last]
        return made

    return Scalars(list(names), column)

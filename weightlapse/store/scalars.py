"""Scalars over frames: columns that are made when they are looked at, from one sorting of everything that was logged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray


class Scalars(Mapping[str, NDArray[np.float64]]):
    """``scalars["loss"]`` is float64 (T,), NaN where nothing was logged: a new array each time, the reader's own."""

    def __init__(
        self,
        names: list[str],
        column: Callable[[str], NDArray[np.float64]],
        logged: Callable[[str], NDArray[np.bool_]],
    ) -> None:
        self._names = dict.fromkeys(names)
        self._column = column
        self._logged = logged

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        if name not in self._names:
            raise KeyError(name)
        return self._column(name)

    def logged(self, name: str) -> NDArray[np.bool_]:
        """bool (T,): whether a number was logged there, NaN too: what tells a loss that is NaN from one that was not logged."""
        if name not in self._names:
            raise KeyError(name)
        return self._logged(name)

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

    def entries(name: str) -> slice:
        first, last = np.searchsorted(ids, [names[name], names[name] + 1])
        return slice(first, last)

    def column(name: str) -> NDArray[np.float64]:
        made = np.full(count, np.nan)
        made[frames[entries(name)]] = values[entries(name)]
        return made

    def logged(name: str) -> NDArray[np.bool_]:
        made = np.zeros(count, np.bool_)
        made[frames[entries(name)]] = True
        return made

    return Scalars(list(names), column, logged)

"""The k largest things seen so far, each counted once, in an order that does not depend on how they came."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Key = tuple[int, tuple[int, ...]]  # the number of a tensor, and a position in it


class Best:
    """Things by key, the largest first, of equal ones that whose key comes first. The same thing may be added again: its largest value counts."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._held: dict[Key, float] = {}
        self._last: tuple[float, Key] | None = None  # the k-th

    def may_enter(self, bound: float, first: Key) -> bool:
        """Whether something of at most this value, whose key is ``first`` or behind it, can be among the largest."""
        if self._last is None or bound > self._last[0]:
            return True
        return bound == self._last[0] and first < self._last[1]

    def hopeless(self, bound: float) -> bool:
        """Whether nothing of at most this value can be among the largest."""
        return self._last is not None and bound < self._last[0]

    def add(
        self, tensor: int, shape: tuple[int, ...], offset: tuple[int, ...], flat: Any, values: NDArray[np.float64]
    ) -> None:
        """``values`` (n,) of the elements ``flat`` (n,) of an array of this shape, which begins at ``offset`` of the tensor. NaN is none."""
        worth = ~np.isnan(values) if self._last is None else values >= self._last[0]
        if not worth.any():
            return
        numbers, values = np.asarray(flat)[worth], values[worth]
        if len(values) > self._k:  # of equal ones those in front
            keep = np.lexsort((numbers, -values))[: self._k]
            numbers, values = numbers[keep], values[keep]
        places = (
            np.stack(np.unravel_index(numbers, shape), axis=1) + offset if shape else np.zeros((len(numbers), 0), int)
        )
        for place, value in zip(places.tolist(), values.tolist()):
            key = (tensor, tuple(place))
            if value > self._held.get(key, -1.0):
                self._held[key] = value
        self._settle()

    def _settle(self) -> None:
        if len(self._held) >= self._k:
            ordered = self.items()[: self._k]
            self._held = dict(ordered)
            key, value = ordered[-1]
            self._last = (value, key)

    def items(self) -> list[tuple[Key, float]]:
        """The (key, value) held, at most k, largest value first and of equal values the smaller key first."""
        return sorted(self._held.items(), key=lambda item: (-item[1], item[0]))

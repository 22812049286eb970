"""Which steps become frames."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from weightlapse.errors import InvalidArgument


class Schedule(Protocol):
    """Says of a step (counted from 0, where 0 is the network before its first update) whether it is recorded."""

    def wants(self, step: int) -> bool:
        """Whether the step becomes a frame."""
        ...


class every:
    """Every ``n``-th step.

    >>> [step for step in range(25) if every(10).wants(step)]
    [0, 10, 20]
    """

    def __init__(self, n: int) -> None:
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
            raise InvalidArgument(f"every={n!r}: record every n-th step with a whole n of 1 or more")
        self.n = int(n)

    def wants(self, step: int) -> bool:
        """Whether the step becomes a frame; steps are asked for in ascending order."""
        return step % self.n == 0

    def __repr__(self) -> str:
        return f"every({self.n})"


class log_spaced:
    """About ``per_decade`` steps between 1 and 10, 10 and 100, ...: dense where weights move fast, and never too many.

    >>> [step for step in range(101) if log_spaced(per_decade=4).wants(step)]
    [0, 1, 2, 3, 6, 10, 18, 32, 56, 100]
    """

    def __init__(self, per_decade: int = 50) -> None:
        if isinstance(per_decade, bool) or not isinstance(per_decade, int) or per_decade < 1:
            raise InvalidArgument(f"log_spaced(per_decade={per_decade!r}): give a whole number of 1 or more")
        self.per_decade = per_decade
        self._known = {0, 1}
        self._count = 0  # exponents up to _count / per_decade are in _known
        self._last = 1

    def wants(self, step: int) -> bool:
        """Whether the step becomes a frame; steps are asked for in ascending order."""
        while self._last < step:
            self._count += 1
            self._last = round(10 ** (self._count / self.per_decade))
            self._known.add(self._last)
        return step in self._known

    def __repr__(self) -> str:
        return f"log_spaced(per_decade={self.per_decade})"


class at:
    """Exactly these steps (and step 0).

    >>> [step for step in range(20) if at([3, 7]).wants(step)]
    [0, 3, 7]
    """

    def __init__(self, steps: Iterable[int]) -> None:
        self._steps = frozenset(int(step) for step in steps) | {0}
        if min(self._steps) < 0:
            raise InvalidArgument(f"at({sorted(self._steps)[:3]}...): steps are counted from 0, none is negative")
        if len(self._steps) == 1:
            raise InvalidArgument("at([]): no step after the first frame would be recorded; name some steps")

    def wants(self, step: int) -> bool:
        """Whether the step becomes a frame; steps are asked for in ascending order."""
        return step in self._steps

    def __repr__(self) -> str:
        return f"at({sorted(self._steps)})"


def schedule(value: int | Schedule | Iterable[int]) -> Schedule:
    """The schedule that the ``every=`` argument means: a number, a schedule, or a list of steps."""
    if isinstance(value, type):
        raise InvalidArgument(f"every={value.__name__}: this is the class; call it, as in wl.every(10)")
    if hasattr(value, "wants"):
        return value  # type: ignore[return-value]
    if isinstance(value, (int, np.integer)):
        return every(int(value) if isinstance(value, np.integer) else value)
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return at(value)
    raise InvalidArgument(
        f"every={value!r}: give a whole number, wl.every(n), wl.log_spaced(per_decade=n) or wl.at([steps])"
    )

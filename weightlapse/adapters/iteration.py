"""When an iteration of several optimizers is over: one frame for all their updates (``frame="iteration"``)."""

from __future__ import annotations


class Iteration:
    """The first iteration is over when each of ``count`` optimizers has stepped; the one that stepped last then ends every iteration.

    So an iteration may have any number of steps of the others, also none (a gradient scaler skipped one). A loop whose last optimizer steps several
    times shows no such end: ``doubtful`` becomes True when a third of the iterations, and at least three, had no step of any other.

    >>> turns = Iteration(2)
    >>> [turns.ended_by(k) for k in (0, 0, 1, 0, 1, 0, 0, 0, 1)]
    [False, False, True, False, True, False, False, False, True]
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._stepped: set[int] = set()
        self._last: int | None = None  # the optimizer that ends an iteration
        self._iterations = self._alone = 0  # how many there were, and how many of them had no step of another

    @property
    def under_way(self) -> bool:
        """Whether some optimizer has stepped since the last iteration ended."""
        return bool(self._stepped)

    @property
    def doubtful(self) -> bool:
        """Whether the iterations that were told are likely too short; can become False again as more come."""
        return self._count > 1 and self._alone >= max(3, self._iterations / 3)

    def ended_by(self, optimizer: int) -> bool:
        """The optimizer of this number has stepped: is the iteration over with that?"""
        alone = not self._stepped
        self._stepped.add(optimizer)
        if self._last is None and len(self._stepped) == self._count:
            self._last = optimizer
        if optimizer != self._last:
            return False
        self._stepped.clear()
        self._iterations += 1
        self._alone += alone
        return True

    def ended_by_hand(self) -> None:
        """The user said that an iteration is over, by ``rec.step()``: what was stepped so far belongs to it."""
        self._stepped.clear()


DOUBTFUL = (
    "frame='iteration': the optimizer that stepped last in the first iteration steps again and again without any other, so it does not show where an "
    "iteration ends, and frames lie within iterations. Leave optimizer= out and call rec.step() at the end of each iteration"
)

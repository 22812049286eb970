"""Which numbers that are logged belong to the newest frame.

A recording keeps numbers at its frames. One that is logged at the step of a frame is that frame's own. Where only some steps are frames, the newest
also takes a number of a later step, if it has none of that name: the first one, which is the nearest. What it has is never replaced by one of another
step, or ``run.scalars`` would show the loss of step 19 at step 10.
"""

from __future__ import annotations


class Numbers:
    """What the newest frame, that of ``step``, has been given.

    >>> numbers = Numbers(-1)
    >>> numbers.frame(10)
    >>> [numbers.takes("loss", step) for step in (10, 10, 11)], [numbers.takes("accuracy", step) for step in (14, 15)]
    ([True, True, False], [True, False])
    """

    def __init__(self, step: int) -> None:
        """``step``: that of the last frame that is there already, -1 where there is none."""
        self.step = step
        self._there = step >= 0  # nobody knows here what it was given before: it takes no number of another step
        self._of: dict[str, int] = {}  # by name, the step at which it was logged

    def frame(self, step: int) -> None:
        """The frame of ``step`` is the newest from now on."""
        self.step, self._there = step, False
        if self._of:
            self._of = {}

    def takes(self, name: str, step: int) -> bool:
        """Whether the newest frame takes a number of this name that is logged at ``step``; its number of the same step is replaced."""
        return self._of.setdefault(name, self.step if self._there else step) == step

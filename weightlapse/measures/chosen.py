"""Some frames of a recording as a recording of its own: what is measured goes from each of them to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.recording.frames import frame_of_step
from weightlapse.recording.run import LayoutSpan, Run, Seen, TensorHistory


class Chosen(Seen):
    """The frames ``at`` of ``run``, int64 (n,), rising. Tensors whose shape changes are refused as the recording refuses them."""

    def __init__(self, run: Run, at: NDArray[np.int64]) -> None:
        super().__init__(run)
        self.whole, self.at = run, at

    @property
    def steps(self) -> NDArray[np.int64]:
        """The optimizer steps of the chosen frames, int64 (n,)."""
        return np.asarray(self.whole.steps)[self.at]

    @property
    def layouts(self) -> Sequence[LayoutSpan]:
        """None: tensors whose shape changes are refused, so there are no stretches to tell apart."""
        return ()

    @property
    def scalars(self) -> Mapping[str, NDArray[np.float64]]:
        """Name -> float64 (n,): the values at the chosen frames, not means of what lies between."""
        return {name: values[self.at] for name, values in self.whole.scalars.items()}

    @property
    def observed(self) -> list[tuple[int, dict[str, Any]]]:
        """(step, facts) from the first chosen step to the last, also of steps in between that are not chosen."""
        steps = self.steps
        return [o for o in self.whole.observed if len(steps) and int(steps[0]) <= o[0] <= int(steps[-1])]

    def bound(self, name: str, frame: int | None = None) -> float:
        """As `Run.bound`, the frame counted among the chosen ones; None is the largest of the whole recording."""
        return self.whole.bound(name, None if frame is None else int(self.at[frame]))

    def state(self, step: int | None = None, *, frame: int | None = None) -> dict[str, NDArray[Any]]:
        """As `Run.state`, the frame counted among the chosen ones. Raises MissingStep for a step that is not among them, wherever the recording has it."""
        if step is not None and frame is None:
            frame, step = frame_of_step(self, step), None
        if step is None:
            frame = int(self.at[-1 if frame is None else frame])
        return self.whole.state(step, frame=frame)

    def __getitem__(self, name: str, /) -> TensorHistory:
        return _History(self.whole[name], self.at)


class _History:
    """One tensor at the frames ``at``."""

    def __init__(self, history: TensorHistory, at: NDArray[np.int64]) -> None:
        self._history, self._at = history, at

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._at), *self._history.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._history.dtype

    def __len__(self) -> int:
        return len(self._at)

    def __getitem__(self, key: Any, /) -> Any:
        key = key if isinstance(key, tuple) else (key,)
        first, rest = (slice(None), key) if not key or key[0] is ... else (key[0], key[1:])
        here = self._at[first]
        return self._history[(int(here) if here.ndim == 0 else here.tolist(), *rest)]

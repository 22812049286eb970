"""One stretch of a recording as a recording of its own: a network that grew is examined layout by layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.recording.run import LayoutSpan, Run, Seen, Shapes, TensorHistory
from weightlapse.wiring.data import Wiring


class Part(Seen):
    """The frames of ``span``; the wiring is known only where the shapes still fit."""

    def __init__(self, run: Run, span: LayoutSpan) -> None:
        super().__init__(run)
        self.whole, self.span = run, span

    @property
    def steps(self) -> NDArray[np.int64]:
        return self.span.steps

    @property
    def names(self) -> Sequence[str]:
        return self.span.names

    @property
    def shapes(self) -> Shapes:
        return self.span.shapes

    @property
    def dtypes(self) -> Mapping[str, str]:
        return self.span.dtypes

    @property
    def epochs(self) -> Sequence[LayoutSpan]:
        return ()

    @property
    def scalars(self) -> dict[str, NDArray[np.float64]]:
        return {name: values[self.span.start : self.span.stop] for name, values in self.whole.scalars.items()}

    @property
    def observed(self) -> list[tuple[int, dict[str, Any]]]:
        steps = self.steps
        return [o for o in self.whole.observed if len(steps) and int(steps[0]) <= o[0] <= int(steps[-1])]

    @property
    def wiring(self) -> Wiring | None:
        found, mine = self.whole.wiring, self.span.shapes
        fits = found is not None and all(tuple(mine.get(n, s)) == tuple(s) for n, s in found.shapes.items())
        return found if fits else None

    def bound(self, name: str, frame: int | None = None) -> float:
        return self.whole.bound(name, None if frame is None else self.span.start + range(self.frames)[frame])

    def state(self, step: int | None = None, *, frame: int | None = None) -> dict[str, NDArray[Any]]:
        if step is None:
            frame = self.span.start + range(self.frames)[-1 if frame is None else frame]
        return self.whole.state(step, frame=frame)

    def __contains__(self, name: object, /) -> bool:
        return name in self.span.names

    def __getitem__(self, name: str, /) -> TensorHistory:
        return self.span[name]

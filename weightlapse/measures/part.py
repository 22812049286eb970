"""One stretch of a recording as a recording of its own: a network that grew is examined layout by layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from weightlapse.measures.chosen import Chosen
from weightlapse.recording.run import LayoutSpan, Run, Shapes, TensorHistory
from weightlapse.wiring.data import Wiring


class Part(Chosen):
    """The frames of ``span``; the wiring is known only where the shapes still fit."""

    def __init__(self, run: Run, span: LayoutSpan) -> None:
        super().__init__(run, np.arange(span.start, span.stop))
        self.span = span

    @property
    def names(self) -> Sequence[str]:
        """The tensors of the stretch, in the order of the network."""
        return self.span.names

    @property
    def shapes(self) -> Shapes:
        """Name -> shape in this stretch, which later ones may not have."""
        return self.span.shapes

    @property
    def dtypes(self) -> Mapping[str, str]:
        """Name -> dtype as recorded in this stretch."""
        return self.span.dtypes

    @property
    def wiring(self) -> Wiring | None:
        """That of the whole recording, where none of its tensors has another shape here; else None: it is that of another layout."""
        found, mine = self.whole.wiring, self.span.shapes
        fits = found is not None and all(tuple(mine.get(n, s)) == tuple(s) for n, s in found.shapes.items())
        return found if fits else None

    def __contains__(self, name: object, /) -> bool:
        return name in self.span.names

    def __getitem__(self, name: str, /) -> TensorHistory:
        return self.span[name]

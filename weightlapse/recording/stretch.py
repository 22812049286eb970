"""A stretch of frames over which the layout of a recording stays the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import UnknownTensor, closest
from weightlapse.recording.track import Track
from weightlapse.store.journal import LayoutEpoch
from weightlapse.store.layout import TensorSpec
from weightlapse.store.ranks import RankedStore
from weightlapse.store.reader import Store


class LayoutStretch:
    """Frames ``[start, stop)`` of one layout. ``stretch[name]`` is a :class:`Track` over these frames alone.

    ``note`` says what changed when it began; ``lineage`` which unit came from which, where the change was a growth.
    """

    def __init__(self, store: Store | RankedStore, begun: LayoutEpoch, stop: int) -> None:
        self._store = store
        self._layout = begun.layout
        self.start = min(begun.start, stop)
        self.stop = stop
        self.note = begun.note
        self.lineage: Any = begun.lineage

    def __len__(self) -> int:
        return self.stop - self.start

    def __repr__(self) -> str:
        return f"<LayoutStretch: frames {self.start} to {self.stop - 1}, {len(self.names)} tensors{', ' + self.note if self.note else ''}>"

    @property
    def steps(self) -> NDArray[np.int64]:
        """The optimizer steps of its frames, int64 (frames,)."""
        return self._store.steps[self.start : self.stop]

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """Name, shape, dtype and stream of every tensor in these frames."""
        return self._layout.tensors

    @property
    def names(self) -> list[str]:
        """Names of the tensors in these frames, in the order of the network."""
        return [t.name for t in self._layout.tensors]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of one frame's array."""
        return {t.name: t.shape for t in self._layout.tensors}

    @property
    def dtypes(self) -> dict[str, str]:
        """Name -> dtype as recorded."""
        return {t.name: t.dtype for t in self._layout.tensors}

    def __contains__(self, name: object) -> bool:
        return name in self._layout.index

    def primary(self, name: str) -> str | None:
        """The name under which a (perhaps tied) tensor is stored here, None when it is not here."""
        found = self._layout.index.get(name)
        return None if found is None else self._layout.tensors[found].name

    def spec(self, name: str) -> TensorSpec:
        """Name, shape, dtype and stream of one tensor here. Raises UnknownTensor with the nearest name."""
        if name not in self._layout.index:
            raise UnknownTensor(
                f"there is no tensor {name!r} in frames {self.start} to {self.stop - 1}; {closest(name, self.names)}"
            )
        return self._layout.tensors[self._layout.index[name]]

    def tell(self, name: str) -> str:
        """One phrase: what ``name`` is in these frames."""
        found = self.primary(name)
        what = "absent" if found is None else f"{self.dtypes[found]}{list(self.shapes[found])}"
        return f"frames {self.start} to {self.stop - 1}: {what}"

    def __getitem__(self, name: str) -> Track:
        return Track(self._store, self.spec(name), self.start, self.stop)

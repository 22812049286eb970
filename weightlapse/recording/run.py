"""What may be relied on of a recording: by whoever measures, draws, aligns or shows one.

:class:`weightlapse.Recording` is a :class:`Run`, and so is everything that stands in for one: a recording under other names, in another order of its
units, with complex tensors in two parts, or one stretch of it. Whatever is not moved is that of the recording behind (:class:`Seen`).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from weightlapse.arguments import Former

if TYPE_CHECKING:
    from weightlapse.wiring.data import Wiring

Shapes = Mapping[str, tuple[int, ...]]


class TensorHistory(Protocol):
    """One tensor of shape S over T frames. Slicing gives arrays, time first: ``history[100:200, 3]``. An array (T, \\*S) is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, \\*S)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the arrays that slicing gives."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> Any:
        """An array, or a number where every axis has an index: basic slicing, or a list of frames first."""


class LayoutSpan(Protocol):
    """The frames ``[start, stop)`` over which names, shapes and dtypes stay the same."""

    @property
    def start(self) -> int:
        """Its first frame."""

    @property
    def stop(self) -> int:
        """The frame behind its last."""

    @property
    def note(self) -> str:
        """What changed when it began."""

    @property
    def lineage(self) -> Any:
        """Group -> parent of each unit, where the change was a growth; else None."""

    @property
    def steps(self) -> NDArray[np.int64]:
        """The optimizer steps of its frames, int64 (frames,)."""

    @property
    def names(self) -> Sequence[str]:
        """Its tensors, in the order of the network."""

    @property
    def shapes(self) -> Shapes:
        """Name -> shape of one frame's array."""

    @property
    def dtypes(self) -> Mapping[str, str]:
        """Name -> dtype as recorded."""

    def __len__(self) -> int: ...

    def __getitem__(self, name: str, /) -> TensorHistory:
        """A tensor over these frames alone."""


class Run(Protocol):
    """One training run: weights over time. Type your own analysis with it, and it takes whatever weightlapse takes for a recording.

    >>> import numpy as np, tempfile, weightlapse as wl
    >>> def distance_from_start(run: wl.Run, name: str) -> float:
    ...     history = run[name]
    ...     return float(np.linalg.norm(history[-1] - history[0]))
    >>> with wl.watch({"w": np.zeros(4)}, tempfile.mkdtemp()) as rec:
    ...     rec.step({"w": np.ones(4)})
    >>> distance_from_start(wl.load(rec.path), "w")
    2.0
    """

    @property
    def path(self) -> str | os.PathLike[str]:
        """Where it lies, or what to call it where it lies nowhere."""

    @property
    def name(self) -> str:
        """What to call it."""

    @property
    def steps(self) -> NDArray[np.int64]:
        """The optimizer steps of its frames, int64 (T,), ascending."""

    @property
    def frames(self) -> int:
        """T."""

    @property
    def names(self) -> Sequence[str]:
        """All tensors, each once, in the order of the network."""

    @property
    def shapes(self) -> Shapes:
        """Name -> shape of one frame's array; of one that changes, its last."""

    @property
    def dtypes(self) -> Mapping[str, str]:
        """Name -> dtype as recorded: a NumPy name or one such as "bfloat16"."""

    @property
    def streams(self) -> Mapping[str, str]:
        """Name -> "weights", "buffers", "gradients" or "optimizer"."""

    @property
    def aliases(self) -> Mapping[str, Sequence[str]]:
        """Name -> further names, of tied tensors."""

    @property
    def layouts(self) -> Sequence[LayoutSpan]:
        """The stretches of frames of one layout; one or none where it never changes."""

    @property
    def scalars(self) -> Mapping[str, NDArray[np.float64]]:
        """Name -> float64 (T,), NaN where nothing was logged."""

    @property
    def events(self) -> Sequence[tuple[int, str]]:
        """What was marked: (step, text)."""

    @property
    def gaps(self) -> Sequence[tuple[int, int, str]]:
        """Steps that are missing: (first, last, reason)."""

    @property
    def observed(self) -> Sequence[tuple[int, dict[str, Any]]]:
        """What the recorder saw besides the weights: (step, facts)."""

    @property
    def stopped(self) -> str | None:
        """Why the recorder had to stop, None when it did not."""

    @property
    def closed(self) -> bool:
        """Whether its recorder ended in order."""

    @property
    def wiring(self) -> Wiring | None:
        """Which axes of which tensors are the same units, where that is known."""

    @property
    def tolerance(self) -> float | None:
        """What was asked for, as a fraction of a standard deviation; None is bit-exact."""

    @property
    def branches(self) -> Mapping[str, Run]:
        """What was trained after a step to which it was rewound later."""

    @property
    def nbytes(self) -> int:
        """Bytes of all values without compression."""

    @property
    def stored_nbytes(self) -> int:
        """Bytes that it takes on disk."""

    def bound(self, name: str, frame: int | None = None) -> float:
        """The largest absolute error that values of a tensor may have at a frame, or at any."""

    def state(self, step: int | None = None, *, frame: int | None = None) -> dict[str, NDArray[Any]]:
        """All weights and buffers of one frame by name; the last one where none is named."""

    def load_into(self, model: Any, step: int | None = None, *, frame: int | None = None) -> None:
        """Put the weights and buffers of one frame into a model, in place."""

    def refresh(self) -> int:
        """Take up what was written since the last look: how many frames are new."""

    def __contains__(self, name: object, /) -> bool:
        """Whether it has a tensor of this name, aliases counted."""

    def __getitem__(self, name: str, /) -> TensorHistory:
        """One tensor over time. Raises UnknownTensor, and InvalidArgument where it changes its shape."""


class Seen:
    """A recording seen in another way: what a subclass does not say otherwise is that of the recording behind."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @property
    def path(self) -> str | os.PathLike[str]:
        """Where the recording behind lies: what is only seen in another way lies nowhere itself."""
        return self._run.path

    @property
    def name(self) -> str:
        """What to call it; that of the recording behind, so that pictures of both bear one title."""
        return self._run.name

    @property
    def steps(self) -> NDArray[np.int64]:
        """The optimizer steps of its frames, int64 (T,), ascending. A subclass that leaves frames out says only this anew and :attr:`frames` follows."""
        return self._run.steps

    @property
    def frames(self) -> int:
        """T, counted from :attr:`steps`."""
        return len(self.steps)

    @property
    def names(self) -> Sequence[str]:
        """All tensors of the recording behind, each once, in the order of the network."""
        return self._run.names

    @property
    def shapes(self) -> Shapes:
        """Name -> shape of one frame's array; of a tensor that changes, its last."""
        return self._run.shapes

    @property
    def dtypes(self) -> Mapping[str, str]:
        """Name -> dtype as recorded, a NumPy name or one such as "bfloat16"."""
        return self._run.dtypes

    @property
    def streams(self) -> Mapping[str, str]:
        """Name -> "weights", "buffers", "gradients" or "optimizer"."""
        return self._run.streams

    @property
    def aliases(self) -> Mapping[str, Sequence[str]]:
        """Name -> further names of tied tensors; names without any are not in it."""
        return self._run.aliases

    @property
    def layouts(self) -> Sequence[LayoutSpan]:
        """The stretches of one layout of the recording behind, in its own frame numbers: a subclass that leaves frames out must say others."""
        return self._run.layouts

    if not TYPE_CHECKING:  # a checker sees the new name alone
        epochs = Former("0.3", "layouts")

    @property
    def scalars(self) -> Mapping[str, NDArray[np.float64]]:
        """Name -> float64 (T,), NaN where nothing was logged."""
        return self._run.scalars

    @property
    def events(self) -> Sequence[tuple[int, str]]:
        """(step, text) of what was marked, by optimizer steps and so the same however frames are chosen."""
        return self._run.events

    @property
    def gaps(self) -> Sequence[tuple[int, int, str]]:
        """(first step, last step, reason) of steps that the recorder could not keep."""
        return self._run.gaps

    @property
    def observed(self) -> Sequence[tuple[int, dict[str, Any]]]:
        """(step, facts) of each look of the recorder at the network besides its weights."""
        return self._run.observed

    @property
    def stopped(self) -> str | None:
        """Why the recorder behind had to stop, None when it did not."""
        return self._run.stopped

    @property
    def closed(self) -> bool:
        """Whether the recorder behind ended in order; False while it still writes, too."""
        return self._run.closed

    @property
    def wiring(self) -> Wiring | None:
        """The wiring of the recording behind, None where it is not known. A subclass that moves names or units moves this with them."""
        return self._run.wiring

    @property
    def tolerance(self) -> float | None:
        """As a fraction of a standard deviation; None is bit-exact."""
        return self._run.tolerance

    @property
    def branches(self) -> Mapping[str, Run]:
        """What was trained before each rewind of the recording behind, as that holds it: neither renamed nor reordered unless a subclass does so."""
        return self._run.branches

    @property
    def nbytes(self) -> int:
        """Bytes of all values without compression, of all frames of the recording behind."""
        return self._run.nbytes

    @property
    def stored_nbytes(self) -> int:
        """Bytes that the recording behind takes on disk, whatever part of it is seen here."""
        return self._run.stored_nbytes

    def bound(self, name: str, frame: int | None = None) -> float:
        """The largest absolute error of a tensor's values at a frame, or (None) at any: right wherever a subclass moves values and computes none."""
        return self._run.bound(name, frame)

    def state(self, step: int | None = None, *, frame: int | None = None) -> dict[str, NDArray[Any]]:
        """All weights and buffers of one frame by name; the last one where none is named. What is seen otherwise must say this anew."""
        return self._run.state(step, frame=frame)

    def load_into(self, model: Any, step: int | None = None, *, frame: int | None = None) -> None:
        """Put one frame into a model in place, as it is seen here (renamed, reordered): the values come from :meth:`state` of the subclass."""
        importlib.import_module("weightlapse.adapters.find").load_into(model, self.state(step, frame=frame))

    def refresh(self) -> int:
        """Let the recording behind take up what was written since the last look: how many frames are new to it, and to all who see it."""
        return self._run.refresh()

    def __contains__(self, name: object, /) -> bool:
        return name in self._run

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, name: str, /) -> TensorHistory:
        return self._run[name]


class SeenSpan:
    """The same of a stretch of one layout."""

    def __init__(self, span: LayoutSpan) -> None:
        self._span = span

    @property
    def start(self) -> int:
        """Its first frame, in frame numbers of the whole recording."""
        return self._span.start

    @property
    def stop(self) -> int:
        """The frame behind its last."""
        return self._span.stop

    @property
    def note(self) -> str:
        """What changed when it began, in words; empty where nothing was said."""
        return self._span.note

    @property
    def lineage(self) -> Any:
        """Group -> parent of each unit, where the change was a growth; else None."""
        return self._span.lineage

    @property
    def steps(self) -> NDArray[np.int64]:
        """The optimizer steps of its frames alone, int64 (stop - start,)."""
        return self._span.steps

    @property
    def names(self) -> Sequence[str]:
        """Its tensors, in the order of the network."""
        return self._span.names

    @property
    def shapes(self) -> Shapes:
        """Name -> shape of one frame's array, the same in all its frames."""
        return self._span.shapes

    @property
    def dtypes(self) -> Mapping[str, str]:
        """Name -> dtype as recorded."""
        return self._span.dtypes

    def __len__(self) -> int:
        return len(self._span)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str, /) -> TensorHistory:
        return self._span[name]

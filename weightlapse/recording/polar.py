"""A recording as pictures need it: each complex tensor is two real ones, its magnitude and its phase.

A colour scale from - to + has no place for a complex number, so whatever draws tensors draws ``w.magnitude`` and ``w.phase`` (radians, from -pi to
pi; 0 for a zero) where the recording holds a complex ``w``. All else is as in the recording.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from weightlapse.recording.run import LayoutSpan, Run, Seen, SeenSpan, Shapes, TensorHistory
from weightlapse.store.layout import value_dtype

T = TypeVar("T")

PARTS = ("magnitude", "phase")


def polar(run: Run) -> Run:
    """``run`` itself, or where it holds complex tensors, the same recording with two real tensors for each of them.

    >>> import numpy as np, tempfile, weightlapse as wl
    >>> with wl.watch({"w": np.array([3 + 4j]), "b": np.ones(2)}, tempfile.mkdtemp()) as rec:
    ...     pass
    >>> seen = polar(wl.load(rec.path))
    >>> seen.names, seen["w.magnitude"][0]
    (['w.magnitude', 'w.phase', 'b'], array([5.]))
    """
    dtypes = [run.dtypes, *(span.dtypes for span in run.layouts)]
    return _Polar(run) if any(_is_complex(d) for some in dtypes for d in some.values()) else run


def whole(run: Run) -> Run:
    """The recording behind one that :func:`polar` gave; any other is itself."""
    return run._run if isinstance(run, _Polar) else run


def _is_complex(dtype: Any) -> bool:
    return value_dtype(str(dtype)).kind == "c"


def _parts(name: str, dtype: str) -> list[str]:
    return [f"{name}.{part}" for part in PARTS] if _is_complex(dtype) else [name]


def _for_each(given: Mapping[str, T], dtypes: Mapping[str, str]) -> dict[str, T]:
    return {part: value for name, value in given.items() if name in dtypes for part in _parts(name, dtypes[name])}


def _history(there: Run | LayoutSpan, name: str) -> TensorHistory:
    stem, _, part = name.rpartition(".")
    if part in PARTS and name not in there.dtypes and stem in there.dtypes:
        return PolarTrack(there[stem], name, part)
    return there[name]


def _real_dtypes(dtypes: Mapping[str, str]) -> dict[str, str]:
    return _for_each({name: _real(dtype) if _is_complex(dtype) else dtype for name, dtype in dtypes.items()}, dtypes)


class _Polar(Seen):
    """A recording with the names of the parts in the place of those of complex tensors."""

    @property
    def names(self) -> list[str]:
        return list(self.shapes)

    @property
    def shapes(self) -> Shapes:
        return _for_each(self._run.shapes, self._run.dtypes)

    @property
    def dtypes(self) -> Mapping[str, str]:
        return _real_dtypes(self._run.dtypes)

    @property
    def streams(self) -> Mapping[str, str]:
        return _for_each(self._run.streams, self._run.dtypes)

    @property
    def aliases(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, more in self._run.aliases.items():
            for i, part in enumerate(_parts(name, self._run.dtypes[name])):
                found[part] = [f"{alias}.{PARTS[i]}" for alias in more] if part != name else list(more)
        return found

    @property
    def layouts(self) -> list[LayoutSpan]:
        return [_PolarSpan(span) for span in self._run.layouts]

    @property
    def branches(self) -> Mapping[str, Run]:
        return {name: polar(branch) for name, branch in self._run.branches.items()}

    def bound(self, name: str, frame: int | None = None) -> float:
        stem, _, part = name.rpartition(".")
        there = name if name in self._run.dtypes or part not in PARTS else stem
        return self._run.bound(there, frame)

    def __contains__(self, name: object, /) -> bool:
        return name in self.names

    def __getitem__(self, name: str, /) -> TensorHistory:
        return _history(self._run, name)

    def state(self, step: int | None = None, *, frame: int | None = None) -> dict[str, NDArray[Any]]:
        found: dict[str, NDArray[Any]] = {}
        for name, values in self._run.state(step, frame=frame).items():
            if values.dtype.kind == "c":
                found |= {f"{name}.{part}": _part(values, part) for part in PARTS}
            else:
                found[name] = values
        return found


class _PolarSpan(SeenSpan):
    @property
    def names(self) -> list[str]:
        return list(self.shapes)

    @property
    def shapes(self) -> Shapes:
        return _for_each(self._span.shapes, self._span.dtypes)

    @property
    def dtypes(self) -> Mapping[str, str]:
        return _real_dtypes(self._span.dtypes)

    def __getitem__(self, name: str, /) -> TensorHistory:
        return _history(self._span, name)


class PolarTrack:
    """The magnitude or the phase of a complex tensor over time."""

    def __init__(self, track: TensorHistory, name: str, part: str) -> None:
        self.name = name
        self._track = track
        self._part = part
        self.dtype = np.dtype(_real(track.dtype))

    @property
    def shape(self) -> tuple[int, ...]:
        """(frames, *shape of one frame's array)."""
        return self._track.shape

    @property
    def ndim(self) -> int:
        """Axes, that of time counted."""
        return len(self.shape)

    def __len__(self) -> int:
        return len(self._track)

    def __getitem__(self, key: Any, /) -> Any:
        return _part(self._track[key], self._part)

    def __iter__(self) -> Iterator[Any]:
        return (self[frame] for frame in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)


def _real(dtype: Any) -> str:
    return "float64" if value_dtype(str(dtype)) == np.complex128 else "float32"


def _part(values: Any, part: str) -> Any:
    return np.abs(values) if part == "magnitude" else np.angle(values)

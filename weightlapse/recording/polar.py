"""A recording as pictures need it: each complex tensor is two real ones, its magnitude and its phase.

A colour scale from - to + has no place for a complex number, so whatever draws tensors draws ``w.magnitude`` and ``w.phase`` (radians, from -pi to
pi; 0 for a zero) where the recording holds a complex ``w``. All else is as in the recording.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.store.layout import value_dtype

PARTS = ("magnitude", "phase")


def polar(run: Any) -> Any:
    """``run`` itself, or where it holds complex tensors, the same recording with two real tensors for each of them.

    >>> import numpy as np, tempfile, weightlapse as wl
    >>> with wl.watch({"w": np.array([3 + 4j]), "b": np.ones(2)}, tempfile.mkdtemp()) as rec:
    ...     pass
    >>> seen = polar(wl.load(rec.path))
    >>> seen.names, seen["w.magnitude"][0]
    (['w.magnitude', 'w.phase', 'b'], array([5.]))
    """
    dtypes = [run.dtypes, *(epoch.dtypes for epoch in getattr(run, "epochs", ()))]
    return _Polar(run) if any(_is_complex(d) for some in dtypes for d in some.values()) else run


def whole(run: Any) -> Any:
    """The recording behind one that :func:`polar` gave; any other is itself."""
    return run._run if isinstance(run, _Polar) else run


def _is_complex(dtype: Any) -> bool:
    return value_dtype(str(dtype)).kind == "c"


class _Polar:
    """The face of a recording, or of one of its epochs, with the names of the parts in the place of those of complex tensors."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    def __len__(self) -> int:
        return len(self._run)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    @property
    def names(self) -> list[str]:
        return [part for name in self._run.names for part in self._parts(name)]

    def _parts(self, name: str) -> list[str]:
        return [f"{name}.{part}" for part in PARTS] if _is_complex(self._run.dtypes[name]) else [name]

    def _for_each(self, given: dict[str, Any]) -> dict[str, Any]:
        return {part: value for name, value in given.items() for part in self._parts(name)}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self._for_each(self._run.shapes)

    @property
    def dtypes(self) -> dict[str, str]:
        real = {name: _real(dtype) if _is_complex(dtype) else dtype for name, dtype in self._run.dtypes.items()}
        return self._for_each(real)

    @property
    def streams(self) -> dict[str, str]:
        known = self._run.dtypes
        return self._for_each({name: stream for name, stream in self._run.streams.items() if name in known})

    @property
    def aliases(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, more in self._run.aliases.items():
            for i, part in enumerate(self._parts(name)):
                found[part] = [f"{alias}.{PARTS[i]}" for alias in more] if part != name else list(more)
        return found

    @property
    def epochs(self) -> list[Any]:
        return [_Polar(epoch) for epoch in self._run.epochs]

    def __getitem__(self, name: str) -> Any:
        stem, _, part = name.rpartition(".")
        if part in PARTS and name not in self._run.dtypes and stem in self._run.dtypes:
            return PolarTrack(self._run[stem], name, part)
        return self._run[name]

    def state(self, *arguments: Any, **chosen: Any) -> dict[str, NDArray[Any]]:
        found: dict[str, NDArray[Any]] = {}
        for name, values in self._run.state(*arguments, **chosen).items():
            if values.dtype.kind == "c":
                found |= {f"{name}.{part}": _part(values, part) for part in PARTS}
            else:
                found[name] = values
        return found


class PolarTrack:
    """The magnitude or the phase of a complex tensor over time, with the face of its :class:`Track`."""

    def __init__(self, track: Any, name: str, part: str) -> None:
        self.name = name
        self._track = track
        self._part = part
        self.dtype = np.dtype(_real(track.dtype))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._track, name)

    def __len__(self) -> int:
        return len(self._track)

    def __getitem__(self, key: Any) -> Any:
        return _part(self._track[key], self._part)

    def __iter__(self) -> Iterable[Any]:  # type: ignore[misc]
        return (self[frame] for frame in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)


def _real(dtype: Any) -> str:
    return "float64" if value_dtype(str(dtype)) == np.complex128 else "float32"


def _part(values: Any, part: str) -> Any:
    return np.abs(values) if part == "magnitude" else np.angle(values)

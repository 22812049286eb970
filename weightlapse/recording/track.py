"""One tensor over time, read lazily."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument
from weightlapse.store.layout import TensorSpec, value_dtype, widen
from weightlapse.store.ranks import RankedStore
from weightlapse.store.reader import Store


class Track:
    """A tensor of shape S over T frames: ``shape`` is (T, \\*S). Slicing reads from disk only what it needs and gives arrays.

    Values of bfloat16 and of floats of eight bits and fewer come as float32, which holds every one of them exactly; :meth:`raw` gives
    their bit patterns.

    >>> import numpy as np, tempfile, weightlapse as wl
    >>> path = tempfile.mkdtemp()
    >>> with wl.watch({"W": np.arange(6.0).reshape(2, 3)}, path) as rec:
    ...     rec.step({"W": np.ones((2, 3))})
    >>> wl.load(path)["W"][:, 1, 0]
    array([3., 1.])
    """

    def __init__(self, store: Store | RankedStore, spec: TensorSpec, start: int, stop: int) -> None:
        self.name = spec.name
        self._store = store
        self._spec = spec
        self._start, self._stop = start, stop

    @property
    def shape(self) -> tuple[int, ...]:
        """(frames, *shape of one frame's array)."""
        return (self._stop - self._start, *self._spec.shape)

    @property
    def ndim(self) -> int:
        """Axes, that of time counted."""
        return 1 + len(self._spec.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the arrays that slicing gives."""
        return value_dtype(self._spec.dtype)

    @property
    def stream(self) -> str:
        """What it is: "weights", "buffers", "gradients" or "optimizer"."""
        return self._spec.stream

    @property
    def steps(self) -> NDArray[np.int64]:
        """The optimizer steps of its frames, int64 (frames,)."""
        return self._store.steps[self._start : self._stop]

    def __len__(self) -> int:
        return self._stop - self._start

    def __repr__(self) -> str:
        return f"<Track {self.name}: {len(self)} frames of {self._spec.dtype}{list(self._spec.shape)}>"

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[frame] for frame in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError(f"{self.name} lies on disk: it cannot become an array without a copy")
        values = self[:]
        return values if dtype is None else values.astype(dtype, copy=False)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        return self._read(key, raw=False)

    def raw(self, key: Any = slice(None)) -> NDArray[Any]:
        """Like slicing, but in the stored dtype: for bfloat16 the uint16 patterns, for float8 those of uint8."""
        return self._read(key, raw=True)

    def _read(self, key: Any, *, raw: bool) -> NDArray[Any]:
        keys = _spread(key if isinstance(key, tuple) else (key,), self.ndim, self.name)
        reads: list[Any] = []
        after: list[Any] = []
        for item in keys:
            if item is None:
                after.append(None)
                continue
            read, then = _selected(item, self.shape[len(reads)], self.name, is_time=not reads)
            reads.append(read)
            after.append(then)
        frames, region = reads[0], tuple(reads[1:])
        if isinstance(frames, slice):
            frames = slice(frames.start + self._start, frames.stop + self._start, frames.step)
        else:
            frames = frames + self._start
        if isinstance(frames, slice) and frames.stop <= frames.start:
            values = np.empty((0, *self._spec.shape), self._spec.storage)[(slice(None), *region)]
        else:
            values = self._store.read(self._spec.name, frames, region)
        if not raw:
            values = widen(values, self._spec.dtype)
        if after == [slice(None)] * self.ndim:
            return values
        values = values[tuple(after)]
        return values.copy() if values.ndim else values[()]  # a copy, so that one weight does not hold its whole tensor


def _spread(keys: tuple[Any, ...], ndim: int, name: str) -> list[Any]:
    """The index with its Ellipsis written out and full slices added, one entry per axis (and one per new axis)."""
    axes = sum(item is not None and item is not Ellipsis for item in keys)
    if axes > ndim or sum(item is Ellipsis for item in keys) > 1:
        raise IndexError(f"{name} has {ndim} axes (time first), and the index {keys} asks for more")
    rest = [slice(None)] * (ndim - axes)
    spread: list[Any] = []
    for item in keys:
        spread += rest if item is Ellipsis else [item]
    return spread if any(item is Ellipsis for item in keys) else spread + rest


def _selected(item: Any, length: int, name: str, *, is_time: bool) -> tuple[Any, Any]:
    """What to read along one axis (a rising slice, or frame numbers), and the index to apply to what was read."""
    if isinstance(item, slice):
        wanted = range(*item.indices(length))
        if not wanted:
            return slice(0, 0, 1), slice(None)
        if wanted.step < 0:
            return slice(wanted[-1], wanted[0] + 1, -wanted.step), slice(None, None, -1)
        return slice(wanted[0], wanted[-1] + 1, wanted.step), slice(None)
    if is_time and isinstance(item, (list, np.ndarray)) and np.ndim(item) == 1:
        numbers = np.asarray(item)
        if numbers.dtype == np.bool_:
            if len(numbers) != length:
                raise IndexError(f"a mask of {len(numbers)} frames for the {length} frames of {name}")
            numbers = np.flatnonzero(numbers)
        numbers = numbers.astype(np.int64)
        numbers = np.where(numbers < 0, numbers + length, numbers)
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < length:
            raise IndexError(f"{name} has {length} frames; the index asks for frames outside of them")
        return numbers, slice(None)
    try:
        number = operator.index(item)
    except TypeError:
        raise InvalidArgument(
            f"{name}[...] takes numbers, slices, ... and None (and a list of frames first), not {type(item).__name__}: "
            "read an array with basic slices and index that"
        ) from None
    if not -length <= number < length:
        raise IndexError(f"{name}: index {number} is out of range for an axis of length {length}")
    number %= length
    return slice(number, number + 1, 1), 0

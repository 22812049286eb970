"""A plain mapping of names to arrays: training written by hand in NumPy."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.adapters.source import ArrayInfo, Selection, Views
from weightlapse.errors import CannotRecord, InvalidArgument, closest


@dataclass(frozen=True)
class BFloat16:
    """An array of bfloat16 values, which NumPy does not have, as the uint16 patterns of their bits."""

    patterns: NDArray[np.uint16]
    dtype = "bfloat16"


def as_array(name: str, value: Any) -> NDArray[Any]:
    """``value`` as the array that is stored for it, without a copy where possible. bfloat16 arrays become their uint16 patterns."""
    if isinstance(value, BFloat16):
        return value.patterns
    if hasattr(value, "detach"):  # a torch tensor inside a mapping
        from weightlapse.adapters.torch import as_numpy

        return as_numpy(name, value)
    array = np.asarray(value)
    if array.dtype.name == "bfloat16":  # the dtype that jax and ml_dtypes register
        return array.view(np.uint16)
    if array.dtype.kind not in "biufc":
        raise CannotRecord(f"{name!r} has dtype {array.dtype}: only numbers can be recorded")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def dtype_name(name: str, value: Any) -> str:
    """The recorded dtype of an array of any framework: a NumPy name or "bfloat16"."""
    return "bfloat16" if "bfloat16" in str(getattr(value, "dtype", "")) else as_array(name, value).dtype.name


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and sequences as one flat dict with dotted names.

    >>> flatten({"layers": [{"w": 1}, {"w": 2}]})
    {'layers.0.w': 1, 'layers.1.w': 2}
    """
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        items = [(str(i), item) for i, item in enumerate(value)]
    else:
        return {prefix: value} if value is not None else {}
    flat: dict[str, Any] = {}
    for key, item in items:
        for name, leaf in flatten(item, f"{prefix}.{key}" if prefix else key).items():
            if name in flat:
                raise InvalidArgument(f"two arrays of the mapping have the dotted name {name!r}: rename one of them")
            flat[name] = leaf
    return flat


Entry = tuple[str, str, Any]  # name, stream, value


class ArraySource:
    """Records mappings of arrays given to ``rec.step(mapping)``.

    For other objects that are made of arrays, :meth:`entries` is overridden, and ``takes_params`` where the object holds its arrays itself.
    """

    framework = "arrays"
    takes_params = True

    def __init__(self, selection: Selection) -> None:
        self.shards: dict[str, dict[str, list[int]]] = {}
        self._selection = selection
        self._infos: list[ArrayInfo] = []

    def entries(self, params: Any) -> list[Entry]:
        """All arrays that there are now, of every stream."""
        if not isinstance(params, Mapping):
            raise InvalidArgument(f"a mapping of names to arrays is needed here, not {type(params).__name__}")
        return [(name, "weights", value) for name, value in flatten(params).items()]

    def _chosen(self, entries: list[Entry]) -> list[Entry]:
        streams, wants = self._selection.streams, self._selection.wants
        return [entry for entry in entries if entry[1] in streams and wants(entry[0])]

    def arrays(self, params: Any) -> Sequence[ArrayInfo]:
        entries = self.entries(params)
        for stream in self._selection.streams:
            if stream in ("gradients", "optimizer"):
                raise InvalidArgument(
                    f"the stream {stream!r} is only there for torch modules; put such arrays into the mapping yourself"
                )
        if not entries:
            raise InvalidArgument(f"there is no array to record in this {self.framework} object")
        self._selection.check([name for name, stream, _ in entries if stream in self._selection.streams])
        self._infos = [
            ArrayInfo(name, dtype_name(name, value), as_array(name, value).shape, stream)
            for name, stream, value in self._chosen(entries)
        ]
        return self._infos

    def bind(self, slots: int, views: Views) -> None:
        self._views = [[views(slot, i) for i in range(len(self._infos))] for slot in range(slots)]
        self._bound = self._infos

    def before_any(self, slot: int) -> None: ...

    def before(self, slot: int) -> None: ...

    def copy(self, slot: int, params: Any) -> bool:
        chosen = self._chosen(self.entries(params))
        if self._infos is not self._bound or len(chosen) != len(self._infos):
            return False
        for (name, _, value), info, view in zip(chosen, self._infos, self._views[slot]):
            array = as_array(name, value)
            if name != info.name or array.shape != info.shape or dtype_name(name, value) != info.dtype:
                return False
            np.copyto(view, array)
        return True


def load_mapping(target: MutableMapping[str, Any], state: Mapping[str, NDArray[Any]]) -> None:
    """Put named arrays into a (nested) mapping of arrays, in place; nothing is changed when one does not fit."""
    flat = flatten(target)
    for name, values in state.items():
        if name not in flat:
            raise InvalidArgument(f"the mapping has no array {name!r} to load into; {closest(name, flat)}")
        if not isinstance(flat[name], np.ndarray) or flat[name].shape != values.shape:
            raise InvalidArgument(
                f"{name} has shape {values.shape} in the recording and does not fit what the mapping holds there"
            )
    for name, values in state.items():
        flat[name][...] = values

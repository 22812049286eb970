"""A plain mapping of names to arrays: training written by hand in NumPy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.adapters.rows import Gather, Rows
from weightlapse.adapters.source import DTYPES, FLOATS, ArrayInfo, Selection, left_out_text
from weightlapse.adapters.structure import Structure
from weightlapse.errors import CannotRecord, InvalidArgument, closest

_DTYPE, _SHAPE = attrgetter("dtype"), attrgetter("shape")


@dataclass(frozen=True)
class Patterns:
    """An array of values that NumPy has no dtype for, as the patterns of their bits: ``dtype`` is the recorded one ("bfloat16", ...)."""

    patterns: NDArray[np.unsignedinteger[Any]]
    dtype: str


# what jax, ml_dtypes and Keras call by names of their own: the dtype in which NumPy keeps the patterns, or the values
_PATTERNS = {"bfloat16": "u2", "complex32": "u4", "bcomplex32": "u4", **dict.fromkeys(FLOATS, "u1")}
_FEW_BITS = {f"{sign}int{bits}": np.dtype(f"{sign}int8") for sign in ("", "u") for bits in range(1, 8)}


def stored(name: str, value: Any) -> tuple[NDArray[Any], str]:
    """``value`` as the array that is stored for it, without a copy where possible, and its recorded dtype.

    Raises :class:`CannotRecord` for what is not made of numbers, :class:`InvalidArgument` for what has no value yet.
    """
    if isinstance(value, Patterns):
        return value.patterns, value.dtype
    if hasattr(value, "detach"):  # a torch tensor inside a mapping
        from weightlapse.adapters.torch import as_numpy
        from weightlapse.adapters.torch_kinds import dtype_of

        return as_numpy(name, value), dtype_of(value)
    refuse_symbol(name, value)
    array = value if type(value) is np.ndarray else np.asarray(value)
    dtype = _name_of(array.dtype)
    if dtype in _PATTERNS:
        return array.view(_PATTERNS[dtype]), dtype
    if dtype in _FEW_BITS:
        return array.astype(_FEW_BITS[dtype]), dtype
    if dtype not in DTYPES:
        raise CannotRecord(
            f"its dtype is {array.dtype}, and only numbers of up to 64 bits (complex: 128) can be recorded"
        )
    return (array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))), dtype


_name_of = lru_cache(maxsize=None)(attrgetter("name"))  # NumPy makes the name of a dtype anew each time


def refuse_symbol(name: str, value: Any) -> None:
    """Raise for a variable or tensor of a TensorFlow graph, which stands for a value and has none."""
    if not type(value).__module__.startswith("tensorflow."):
        return
    tensorflow = sys.modules["tensorflow"]
    if not tensorflow.executing_eagerly() or tensorflow.is_symbolic_tensor(value):
        raise InvalidArgument(
            f"{name!r} belongs to a TensorFlow graph and has no value of its own, a session holds it: watch the mapping of names to arrays "
            "session.run({v.name: v for v in tf.compat.v1.trainable_variables()}), and give rec.step() a new one after each update; a loop that does "
            "so every 40th time numbers the frames itself: rec.step(session.run(...), step=40)"
        )


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


class EntrySource:
    """An object that is made of arrays, listed by :meth:`entries`."""

    framework = "arrays"
    generation = 0
    takes_params = True
    elsewhere = on_device = graded = False
    module: Any = None
    unpacked = ""
    pending: Callable[[], None] | None = None
    device = "cpu"

    def __init__(self, selection: Selection) -> None:
        self.shards: dict[str, dict[str, list[int]]] = {}
        self.left_out: dict[str, str] = {}  # arrays that cannot be recorded, and why
        self._selection = selection
        self._infos: list[ArrayInfo] = []

    def entries(self, params: Any) -> list[Entry]:
        """All arrays that there are now, of every stream."""
        raise NotImplementedError

    def arrays(self, params: Any) -> Sequence[ArrayInfo]:
        """As `Source.arrays`; what NumPy cannot hold goes to ``left_out``. Raises InvalidArgument for no array, a stream of torch, or a glob that meets nothing."""
        entries = self.entries(params)
        streams = self._selection.streams
        for stream in streams:
            if stream in ("gradients", "optimizer"):
                raise InvalidArgument(
                    f"the stream {stream!r} is only there for torch modules; put such arrays into the mapping yourself"
                )
        if not entries:
            raise InvalidArgument(f"there is no array to record in this {self.framework} object")
        self._selection.check([name for name, stream, _ in entries if stream in streams])
        self._infos, self.left_out = [], {}
        self._listed = [entry[:2] for entry in entries]
        self._picked: list[int] = []
        for i, (name, stream, value) in enumerate(entries):
            if stream not in streams or not self._selection.wants(name):
                continue
            try:
                array, dtype = stored(name, value)
            except CannotRecord as error:
                self.left_out[name] = str(error)
            else:
                self._infos.append(ArrayInfo(name, dtype, array.shape, stream))
                self._picked.append(i)
        if not self._infos:
            raise CannotRecord(left_out_text(self.left_out))
        self._shapes = [info.shape for info in self._infos]
        return self._infos

    def bind(self, rows: Rows | None) -> None:
        """As `Source.bind`; rows are always given, because :meth:`packed_copies` takes nothing here."""
        assert rows is not None, "only what packed_copies() takes has no rows"
        self._bound = self._infos
        self._gather = Gather(rows, range(len(self._infos)))
        self._dtypes = [dtype.newbyteorder("=") for dtype in rows.dtypes]

    def before_any(self, slot: int) -> None:
        """Nothing: there are no gradients."""

    def before(self, slot: int) -> None:
        """Nothing: there are no gradients."""

    # what only some frameworks can say

    def refresh(self) -> bool:
        """True: :meth:`copy` compares each array with what was listed."""
        return True

    def settle(self) -> None:
        """Nothing to wait for: copies are done when :meth:`copy` returns."""

    def version(self, *, copied: bool = False) -> Any:
        """None: arrays do not tell when they are written to."""
        return None

    def moved_since(self, version: Any) -> bool:
        """False: without a :meth:`version` nothing can be told to have moved."""
        return False

    def held(self, tensors: Sequence[Any]) -> tuple[list[str], list[str]] | None:
        """None: which arrays an optimizer holds cannot be told."""
        return None

    def adopt(self, names: Iterable[str]) -> None:
        """Nothing: the framework keeps the names."""

    def allocate(self, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """Plain memory, uninitialised."""
        return np.empty(shape, np.uint8)

    def packed_copies(self, tolerance: float | None, *, every: int, memory: int) -> Any:
        """None: frames are packed on devices of torch alone."""
        return None

    def follow(self, model: Any, optimizers: Sequence[Any]) -> None:
        """Raises InvalidArgument, always: only torch modules can be exchanged for another."""
        raise InvalidArgument("only the recording of a torch module can go on with another one")

    def values(self, params: Any) -> list[Any] | None:
        """The present values of what was last listed, None when there are other arrays now."""
        entries = self.entries(params)
        if [entry[:2] for entry in entries] != self._listed:
            return None
        return [entries[i][2] for i in self._picked]

    def copy(self, slot: int, params: Any) -> bool:
        """As `Source.copy`: all values at once, in the training thread; values that are no NumPy arrays of the stored dtypes are converted first."""
        if self._infos is not self._bound or (values := self.values(params)) is None:
            return False
        if {*map(type, values)} != {np.ndarray} or [*map(_DTYPE, values)] != self._dtypes:
            kept = [stored(info.name, value) for info, value in zip(self._infos, values)]
            if [dtype for _, dtype in kept] != [info.dtype for info in self._infos]:
                return False
            values = [array for array, _ in kept]
        if [*map(_SHAPE, values)] != self._shapes:
            return False
        self._gather.copy(slot, values)
        return True


class ArraySource(EntrySource):
    """Records mappings of arrays given to ``rec.step(mapping)``."""

    def entries(self, params: Any) -> list[Entry]:
        """(dotted name, "weights", array) of a mapping, nested ones flattened. Raises InvalidArgument for what is no mapping."""
        if not isinstance(params, Mapping):
            raise InvalidArgument(f"a mapping of names to arrays is needed here, not {type(params).__name__}")
        return [(name, "weights", value) for name, value in flatten(params).items()]

    def arrays(self, params: Any) -> Sequence[ArrayInfo]:
        """As `EntrySource.arrays`; the structure of the mapping is kept, so that later ones of the same structure need no flattening."""
        infos = super().arrays(params)
        self._structure = Structure(params)
        return infos

    def values(self, params: Any) -> list[Any] | None:
        """The arrays to be recorded, in the order of the listing; looked up name by name where the mapping has another structure than the listed one."""
        leaves = self._structure.leaves(params)
        if leaves is None:
            return super().values(params)
        return leaves if len(self._picked) == len(leaves) else [leaves[i] for i in self._picked]


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

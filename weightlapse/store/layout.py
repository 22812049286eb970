"""Which tensor lies where in a frame: every frame of a layout epoch is one flat row of bytes.

Tensors follow each other in C order, little-endian, each starting at a multiple of eight bytes. What NumPy has no dtype for is kept as unsigned
patterns of its bits (bfloat16, the floats of eight bits and fewer, complex numbers of two half floats), integers of few bits as bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import CannotRecord, DamagedRecording
from weightlapse.store.small_floats import FORMATS, values_of

ALIGNMENT = 8
MAX_NAME = 4096  # characters; a longer name is a mistake or an attack
_NO_NAME = re.compile("[\0\ud800-\udfff]")  # halves of surrogate pairs are no characters: no file could hold them
MAX_TENSORS = 2_000_000
MAX_ROW = 1 << 46  # 64 TiB: far above any model, far below an overflow
STREAMS = ("weights", "buffers", "gradients", "optimizer")

_STORED = {
    name: np.dtype(name).newbyteorder("<")
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
}
_STORED |= {"bfloat16": np.dtype("<u2"), "complex32": np.dtype("<u4"), "bcomplex32": np.dtype("<u4")}
_STORED |= {name: np.dtype("u1") for name in FORMATS}
_STORED |= {f"int{bits}": np.dtype("i1") for bits in range(1, 8)} | {
    f"uint{bits}": np.dtype("u1") for bits in range(1, 8)
}
DTYPES = frozenset(_STORED)


def storage_dtype(dtype: str) -> np.dtype[Any]:
    """The NumPy dtype in which values of ``dtype`` lie on disk.

    >>> storage_dtype("bfloat16")
    dtype('uint16')
    """
    if dtype not in _STORED:
        raise CannotRecord(
            f"values of dtype {dtype!r} cannot be recorded; dtypes that can: {', '.join(sorted(_STORED))}"
        )
    return _STORED[dtype]


def value_dtype(dtype: str) -> np.dtype[Any]:
    """The NumPy dtype in which values of ``dtype`` are given to whoever reads them: one that holds each exactly.

    >>> value_dtype("float8_e4m3fn"), value_dtype("int4")
    (dtype('float32'), dtype('int8'))
    """
    if dtype == "bfloat16" or dtype in FORMATS:
        return np.dtype(np.float32)
    if dtype in ("complex32", "bcomplex32"):
        return np.dtype(np.complex64)
    return storage_dtype(dtype).newbyteorder("=")


def widen(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Stored patterns as values of :func:`value_dtype`, exactly; what NumPy has a dtype for stays as it is."""
    if dtype == "bfloat16":
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype in FORMATS:
        return values_of(dtype)[values]
    if dtype in ("complex32", "bcomplex32"):
        half = np.array(values, order="C")[..., None].view("<u2")
        parts = half.view("<f2").astype(np.float32) if dtype == "complex32" else widen(half, "bfloat16")
        return parts.view(np.complex64)[..., 0]
    return values


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One recorded tensor: ``dtype`` is one of ``DTYPES``; ``aliases`` are further names of the same (tied) tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    stream: str = "weights"
    aliases: tuple[str, ...] = ()

    @property
    def storage(self) -> np.dtype[Any]:
        """The NumPy dtype in which its values lie on disk, little-endian: its own, or unsigned integers for what NumPy does not have."""
        return storage_dtype(self.dtype)

    @property
    def size(self) -> int:
        """How many values it has in one frame; 1 of a single number, 0 of an empty tensor."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in one frame, without the padding to the next tensor."""
        return self.size * self.storage.itemsize


@dataclass(frozen=True)
class Layout:
    """The tensors of a frame in their order, with the byte offset of each; ``row_nbytes`` is the length of a frame."""

    tensors: tuple[TensorSpec, ...]
    offsets: tuple[int, ...] = field(init=False)
    row_nbytes: int = field(init=False)
    index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __init__(self, tensors: Iterable[TensorSpec]) -> None:
        object.__setattr__(self, "tensors", tuple(tensors))
        offsets, end = [], 0
        for spec in self.tensors:
            offsets.append(end)
            end += -(-spec.nbytes // ALIGNMENT) * ALIGNMENT
        object.__setattr__(self, "offsets", tuple(offsets))
        object.__setattr__(self, "row_nbytes", end)
        index: dict[str, int] = {}
        for i, spec in enumerate(self.tensors):
            for name in (spec.name, *spec.aliases):
                if not _is_name(name):
                    raise CannotRecord(
                        f"{str(name)[:80]!r} cannot be the name of a tensor: names have 1 to {MAX_NAME} characters, all of them Unicode and none NUL"
                    )
                if index.setdefault(name, i) != i:
                    raise CannotRecord(f"two tensors have the name {name!r}: a recording could not tell them apart")
        object.__setattr__(self, "index", index)

    @property
    def value_nbytes(self) -> int:
        """Bytes of the values alone, without padding."""
        return sum(spec.nbytes for spec in self.tensors)

    def view(self, rows: NDArray[np.uint8], tensor: int) -> NDArray[Any]:
        """The values of one tensor in ``rows`` (K, row_nbytes), as a view of shape (K, \\*S)."""
        spec, offset = self.tensors[tensor], self.offsets[tensor]
        flat = rows[:, offset : offset + spec.nbytes]
        return flat.view(spec.storage).reshape(len(rows), *spec.shape) if spec.nbytes else _no_values(len(rows), spec)

    def to_json(self) -> list[dict[str, Any]]:
        """What `from_json` reads: the tensors alone, for their offsets follow from them."""
        return [
            {"name": t.name, "dtype": t.dtype, "shape": list(t.shape), "stream": t.stream, "aliases": list(t.aliases)}
            for t in self.tensors
        ]

    @classmethod
    def from_json(cls, entries: Any) -> Layout:
        """A layout from its JSON, refused with :class:`DamagedRecording` when a name, dtype or size cannot be meant."""
        if not isinstance(entries, list) or len(entries) > MAX_TENSORS:
            raise DamagedRecording("the layout of the recording is not a list of tensors")
        layout = cls(_spec_from_json(entry) for entry in entries)
        if layout.row_nbytes > MAX_ROW:
            raise DamagedRecording(
                f"the layout claims {layout.row_nbytes} bytes a frame, more than any recording can have"
            )
        return layout


def _no_values(count: int, spec: TensorSpec) -> NDArray[Any]:
    return np.empty((count, *spec.shape), spec.storage)


def _spec_from_json(entry: Any) -> TensorSpec:
    if not isinstance(entry, dict):
        raise DamagedRecording("a tensor of the layout is not described by an object")
    name, dtype, shape = entry.get("name"), entry.get("dtype"), entry.get("shape")
    stream, aliases = entry.get("stream", "weights"), entry.get("aliases", [])
    if not isinstance(aliases, list) or not all(_is_name(n) for n in (name, *aliases)):
        raise DamagedRecording(f"a tensor of the layout has no usable name: {str(name)[:80]!r}")
    if dtype not in _STORED or stream not in STREAMS:
        raise DamagedRecording(
            f"tensor {name!r} has dtype {dtype!r} and stream {stream!r}, which this format does not know"
        )
    if not isinstance(shape, list) or len(shape) > 64 or not all(type(n) is int and 0 <= n <= MAX_ROW for n in shape):
        raise DamagedRecording(f"tensor {name!r} has the impossible shape {str(shape)[:80]}")
    assert isinstance(name, str)
    assert isinstance(dtype, str)
    return TensorSpec(name, dtype, tuple(shape), stream, tuple(aliases))


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and 0 < len(name) <= MAX_NAME and _NO_NAME.search(name) is None

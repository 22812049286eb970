"""Tensors that are not plain numbers in plain memory: how each is read, or why it cannot be.

- dtypes that NumPy does not have are recorded under their own name (``bfloat16``, ``float8_e4m3fn``, ``int4``, ``complex32``) or, where one
  byte holds several values, as the bytes they are stored in;
- conjugate and negative views are resolved, quantised tensors and tensors made of others (``__tensor_flatten__``) become several arrays:
  these are computed anew for every frame;
- sparse and nested tensors, and whatever else has no dense memory, are left out, one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from weightlapse.adapters.dtensor import local
from weightlapse.adapters.source import DTYPES
from weightlapse.errors import CannotRecord

Reader = Callable[[torch.Tensor], torch.Tensor]

# dtypes that a tensor in a row of the ring can have as well, though NumPy has none of them: what NumPy sees instead
_OWN = {
    name: bits
    for name, bits in {
        "bfloat16": torch.int16,
        "complex32": torch.int32,
        **{f"float8_{kind}": torch.uint8 for kind in ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz", "e8m0fnu")},
    }.items()
    if hasattr(torch, name)
}
# dtypes that can do nothing but lie in memory: the name they are recorded under, and the dtype as which they are copied
_BYTES: dict[torch.dtype, tuple[str, torch.dtype]] = {
    getattr(torch, name): kept
    for name, kept in {
        **{f"int{bits}": (f"int{bits}", torch.int8) for bits in range(1, 8)},
        **{f"uint{bits}": (f"uint{bits}", torch.uint8) for bits in range(1, 8)},
        **dict.fromkeys(("float4_e2m1fn_x2", "bits1x8", "bits2x4", "bits4x2", "bits8"), ("uint8", torch.uint8)),
        "bits16": ("uint16", torch.uint16),
    }.items()
    if hasattr(torch, name)
}


def dtype_of(tensor: torch.Tensor) -> str:
    """The recorded dtype of a dense tensor."""
    return _BYTES[tensor.dtype][0] if tensor.dtype in _BYTES else str(tensor.dtype).removeprefix("torch.")


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """A dense tensor over the same memory, in a dtype that torch can copy."""
    return tensor.view(_BYTES[tensor.dtype][1]) if tensor.dtype in _BYTES else tensor


def as_array(tensor: torch.Tensor) -> NDArray[Any]:
    """A dense CPU tensor as an array over the same memory, in the dtype that is stored."""
    tensor = plain(tensor.detach())
    bits = _OWN.get(str(tensor.dtype).removeprefix("torch."))
    if bits is None:
        return tensor.numpy()
    array = tensor.view(bits).numpy()
    return array.view(f"u{array.itemsize}")


def over(view: NDArray[Any], dtype: str) -> torch.Tensor:
    """A place in a row, in stored dtype, as a tensor over the same memory."""
    bits = _OWN.get(dtype)
    if bits is None:
        return torch.from_numpy(view)
    return torch.from_numpy(view.view(f"i{view.itemsize}" if bits != torch.uint8 else "u1")).view(getattr(torch, dtype))


def problem(tensor: Any) -> str | None:
    """Why a tensor cannot be recorded; None where it can."""
    if tensor.is_nested:
        return "it is a nested tensor, which has no single shape"
    if tensor.layout != torch.strided:
        kind = str(tensor.layout).removeprefix("torch.")
        return f"it is {kind}, and only dense tensors can be recorded: keep a dense copy, or watch its values as a mapping of arrays"
    if tensor.is_quantized and tensor.qscheme() not in _QUANTISED:
        return f"it is quantised by {tensor.qscheme()}, whose scales are not known here"
    if not tensor.is_quantized and dtype_of(tensor) not in DTYPES:
        return f"its dtype {tensor.dtype} means nothing without a scale, and it has none"
    return None


def sort(tensor: Any) -> str | None:
    """What makes a tensor one that cannot be copied from its memory as it is; None for one that can."""
    if tensor.is_quantized:
        return str(tensor.qscheme())
    if hasattr(tensor, "__tensor_flatten__") and not hasattr(tensor, "placements"):
        return f"{type(tensor).__name__} of {tensor.__tensor_flatten__()[0]}"
    return "view" if tensor.is_conj() or tensor.is_neg() else None


def readers(tensor: Any) -> dict[str, Reader] | None:
    """Where a tensor cannot be copied from its memory as it is: how its arrays are made, by suffix of its name. Else None."""
    if tensor.is_quantized:
        return _QUANTISED.get(tensor.qscheme())
    if hasattr(tensor, "__tensor_flatten__") and not hasattr(tensor, "placements"):
        return _flattened(tensor)
    if tensor.is_conj() or tensor.is_neg():
        return {"": lambda t: local(t).detach().resolve_conj().resolve_neg()}
    return None


def _flattened(tensor: Any) -> dict[str, Reader]:
    """The plain tensors that a wrapper is made of, each under the name that it has there."""
    found: dict[str, Reader] = {}
    for key in tensor.__tensor_flatten__()[0]:
        part = getattr(tensor, key)
        why = problem(part)
        if why is not None:
            raise CannotRecord(f"its part {key!r} cannot be recorded: {why}")
        for suffix, read in (readers(part) or {"": lambda t: t.detach()}).items():
            found[f".{key}{suffix}"] = lambda t, key=key, read=read: read(getattr(t, key))  # type: ignore[misc]
    return found


def _numbers(value: Any, dtype: torch.dtype) -> torch.Tensor:
    return torch.as_tensor(value, dtype=dtype)


_PER_TENSOR: dict[str, Reader] = {
    "": lambda t: t.detach().int_repr(),
    ".scale": lambda t: _numbers(t.q_scale(), torch.float64),
    ".zero_point": lambda t: _numbers(t.q_zero_point(), torch.int64),
}
_PER_CHANNEL: dict[str, Reader] = {
    "": lambda t: t.detach().int_repr(),
    ".scale": lambda t: t.q_per_channel_scales(),
    ".zero_point": lambda t: t.q_per_channel_zero_points(),
}
_QUANTISED: dict[Any, dict[str, Reader]] = {
    torch.per_tensor_affine: _PER_TENSOR,
    torch.per_tensor_symmetric: _PER_TENSOR,
    torch.per_channel_affine: _PER_CHANNEL,
    torch.per_channel_symmetric: _PER_CHANNEL,
    torch.per_channel_affine_float_qparams: _PER_CHANNEL,
}


class ScriptedHome:
    """The parameters or buffers of a scripted or traced module, with the face of the dict that other modules have."""

    def __init__(self, held: Any) -> None:
        self._held = held

    def get(self, key: str) -> Any:
        """The tensor of this name, None where there is none."""
        return self._held[key] if key in self._held else None  # noqa: SIM401 — torch's own object has no get()

    def __getitem__(self, key: str) -> Any:
        return self._held[key]

    def items(self) -> Any:
        """(name, tensor) pairs, asked of the module anew by every call."""
        return self._held.items()

    def values(self) -> Any:
        """The tensors, asked of the module anew by every call: torch's own object has no ``values``."""
        return [value for _, value in self._held.items()]

    def __len__(self) -> int:
        return len(self._held)


def home_of(held: Any) -> Any:
    """``module._parameters`` or ``module._buffers`` as a mapping."""
    return held if isinstance(held, dict) else ScriptedHome(held)


def load_plain(tensor: torch.Tensor, values: NDArray[Any]) -> None:
    """Put values into a dense tensor of any dtype; torch cannot convert to those of few bits, so their bytes are set."""
    plain(tensor).copy_(torch.from_numpy(np.array(values)))

"""NumPy arrays and torch tensors, spelt one way: the few operations on weights that must be made where the weights are.

Large products are made in main memory or on a GPU, wherever the numbers lie and in their own precision; what decisions hang on comes back
as small NumPy arrays. No framework is imported unless a tensor is there already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument

Numbers = Any  # a NumPy array or a torch tensor


def shape_of(arrays: Mapping[str, Any], name: str) -> tuple[int, ...]:
    """The shape of one of the arrays; none is made, or read, where the mapping knows its ``shapes``."""
    known = getattr(arrays, "shapes", None)
    return tuple(arrays[name].shape) if known is None else tuple(known[name])


def is_tensor(x: Numbers) -> bool:
    """Whether it is a torch tensor rather than a NumPy array."""
    return hasattr(x, "detach")


def on_device(value: Any, device: Any) -> Any:
    """A torch tensor of it on a device; floats of fewer than 32 bits are widened, exactly."""
    import torch

    tensor = value.detach() if is_tensor(value) else torch.from_numpy(np.ascontiguousarray(value))
    tensor = tensor.to(device)
    return tensor.float() if tensor.is_floating_point() and tensor.dtype.itemsize < 4 else tensor


def device_of(*states: Mapping[str, Any]) -> Any:
    """The device on which some tensor of these lies beside main memory; None when all lie there."""
    for state in states:
        for name in state:
            value = state[name]
            if getattr(getattr(value, "device", None), "type", "cpu") not in ("cpu", "meta"):
                return value.device
            if not isinstance(state, dict):  # a mapping that may load what it is asked for is asked once
                break
    return None


def check_device(device: Any) -> None:
    """Raises InvalidArgument for what is no device of this machine, or none that holds double precision."""
    import torch

    try:
        if isinstance(device, bool) or not isinstance(device, (str, torch.device)):
            raise TypeError(f"a name or a torch.device is needed, not {type(device).__name__}")
        if torch.device(device).type == "meta":
            raise RuntimeError("tensors there have no values")
        on_device(np.zeros(1), device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidArgument(
            f'device={device!r} cannot be computed on ({reason}); pass "cpu", "cuda" where there is one, or leave device out'
        ) from None


@contextmanager
def in_full_precision(device: Any) -> Iterator[None]:
    """Within, products of float32 on a GPU are not rounded to fewer bits (TF32), whatever the training has asked for."""
    if device is None or "cuda" not in str(device):
        yield
        return
    import torch

    matmul = torch.backends.cuda.matmul
    name, exact = ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)
    before = getattr(matmul, name)
    setattr(matmul, name, exact)
    try:
        yield
    finally:
        setattr(matmul, name, before)


def at_home(x: Numbers) -> NDArray[Any]:
    """The same numbers as a NumPy array."""
    return np.asarray(x.detach().cpu().numpy() if is_tensor(x) else x)


def copied(x: Numbers, double: bool) -> Numbers:
    """A copy that may be written to, in double precision if that is asked for."""
    if is_tensor(x):
        import torch

        return x.to(torch.float64, copy=True) if double else x.clone()
    return np.array(x, dtype=np.float64 if double else None)


def doubled(x: Numbers) -> Numbers:
    """In double precision; the same object where it is."""
    return x.double() if is_tensor(x) else x.astype(np.float64, copy=False)


def like(value: Numbers, sample: Any) -> Any:
    """``value`` in the kind, precision and place of ``sample``; the same memory where it has them."""
    if is_tensor(sample):
        if not is_tensor(value) and sample.device.type == "cpu":
            import torch

            value = torch.from_numpy(value)
        return value.to(sample) if is_tensor(value) else sample.new_tensor(value)
    return at_home(value).astype(np.asarray(sample).dtype, copy=False)


def real_pairs(x: Numbers) -> Numbers:
    """Complex numbers with a last axis (real, imaginary)."""
    return joined([x.real[..., None], x.imag[..., None]], x.ndim)


def is_single(x: Numbers) -> bool:
    """Whether its numbers are float32."""
    return str(x.dtype).endswith("float32")


def axis_first(x: Numbers, axis: int) -> Numbers:
    """A view with that axis in front."""
    if axis == 0:
        return x
    return x.movedim(axis, 0) if is_tensor(x) else np.moveaxis(x, axis, 0)


def unrounded(value: Numbers, sample: Any) -> Any:
    """Like ``sample``, but in float32 where that has shorter floats and these would round what is no number of theirs."""
    found = like(value, sample)
    if is_tensor(sample):
        if not (sample.is_floating_point() and sample.dtype.itemsize < 4):
            return found
        wide = value.float() if is_tensor(value) else as_float32(value).to(sample.device)
        return (
            found if bool(((found.float() - wide).abs() <= _NO_ROUNDING * wide.abs()).all()) else wide.to(sample.device)
        )
    dtype = np.asarray(sample).dtype
    if not (dtype.kind == "V" or (dtype.kind == "f" and dtype.itemsize < 4)):
        return found
    wide = at_home(value).astype(np.float32)
    return found if (np.abs(found.astype(np.float32) - wide) <= _NO_ROUNDING * np.abs(wide)).all() else wide


def as_float32(value: NDArray[Any]) -> Any:
    """A tensor of it in main memory."""
    import torch

    return torch.from_numpy(value).float()


_NO_ROUNDING = 1e-5  # relative; a sixteen-bit float is off by a hundred times that where it rounds


def axes_as(x: Numbers, order: tuple[int, ...]) -> Numbers:
    """A view with the axes in that order."""
    return x.permute(order) if is_tensor(x) else np.transpose(x, order)


def joined(some: Sequence[Numbers], axis: int) -> Numbers:
    """One behind the other along an axis."""
    if is_tensor(some[0]):
        import torch

        return torch.cat(list(some), dim=axis)
    return np.concatenate(some, axis=axis)


def stacked(some: Sequence[Numbers]) -> Numbers:
    """One behind the other along a new first axis."""
    if is_tensor(some[0]):
        import torch

        return torch.stack(list(some))
    return np.stack(some)


def products(x: Numbers, y: Numbers) -> NDArray[Any]:
    """The inner products of all rows, (..., n, d) with (..., m, d) to (..., n, m), in the precision of the numbers."""
    return at_home(x @ (y.mT if is_tensor(y) else np.swapaxes(y, -1, -2)))


def of_rows(x: Numbers, y: Numbers) -> NDArray[Any]:
    """The inner product of each row with its partner, (n, d) twice to (n,), added up in double precision."""
    if is_tensor(x):
        return at_home((x.double() * y).sum(dim=1))
    return np.einsum("ud,ud->u", x, y, dtype=np.float64)


def dot(x: Numbers, y: Numbers) -> float:
    """The sum of products of all numbers."""
    if is_tensor(x):
        return float((x.double() * y).sum())
    return float(np.vdot(x, y))


def size_of(x: Numbers) -> float:
    """The Euclidean norm of all numbers."""
    return float(x.double().norm() if is_tensor(x) else np.linalg.norm(x))


def squares(x: Numbers, axes: tuple[int, ...]) -> NDArray[np.float64]:
    """Squares summed over some axes, which keep length 1."""
    if is_tensor(x):
        wide = x.double().square()
        return at_home(wide.sum(dim=axes, keepdim=True) if axes else wide)
    found: NDArray[np.float64] = np.square(x, dtype=np.float64).sum(axis=axes, keepdims=True)
    return found


def ascending(x: Numbers, axis: int) -> Numbers:
    """Sorted along an axis."""
    return x.sort(dim=axis).values if is_tensor(x) else np.sort(x, axis=axis)


def without(x: Numbers, mask: NDArray[np.bool_]) -> Numbers:
    """Zero where the mask is set."""
    if is_tensor(x):
        return x.masked_fill(on_device(mask, x.device), 0)
    return np.where(mask, np.zeros((), x.dtype), x)


def is_finite(x: Numbers) -> bool:
    """Whether no number is NaN or infinite; most often one sum says so."""
    if is_tensor(x):
        return bool(x.sum().isfinite()) or bool(x.isfinite().all())
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(x.sum()) or np.isfinite(x).all())


def has_nan(x: Numbers) -> bool:
    """Whether some number is NaN."""
    return bool(x.isnan().any()) if is_tensor(x) else bool(np.isnan(x).any())

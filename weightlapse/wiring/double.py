"""A network run in double precision on weights of any precision: every operator's inputs are widened as it is called.

The usual way, ``model.double()``, needs a copy of twice the size. Here the weights stay as they are: a matrix is widened for the one
product that reads it and forgotten, so that running a network of W bytes takes its largest tensor more, not 2 W. What the
forward itself casts to float32 (norms in many language models do) is computed in float64 too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

_WIDE = {
    torch.float32: torch.float64,
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.complex64: torch.complex128,
    torch.complex32: torch.complex128,
}
_FULL = frozenset({torch.float64, torch.complex128})
# Operators that only move numbers: their results are as exact in the precision of their inputs.
_MOVING = frozenset("clone repeat roll flip _unsafe_view lift_fresh _local_scalar_dense equal is_nonzero".split())
_READING = frozenset(
    "embedding index_select index gather masked_select".split()
)  # few numbers of a large tensor: they are widened
_PRODUCTS = ("mm", "conv", "attention", "dot", "mv")
_LIKE = frozenset(
    "zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full new_empty new_empty_strided".split()
)
# torch refuses mixed types in these before any operator is called.
_STRICT = frozenset(
    "lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell conv1d conv2d conv3d conv_transpose1d conv_transpose2d "
    "conv_transpose3d conv_tbc convolution prelu bilinear rms_norm".split()
)
# Running statistics that are written without the schema saying so: the positions of the arguments.
_UNDECLARED = {"native_batch_norm": (3, 4)}
_PIECE = 1 << 20  # numbers of a matrix that are widened at a time
_LARGE = 1 << 18  # numbers; smaller tensors are not worth a buffer


class WritesWeights(RuntimeError):
    """The forward writes into a weight that it must leave as it is."""


class Double(TorchDispatchMode):
    """While it is entered, everything is computed in float64 (complex128). See `in_double`.

    ``casts`` tells whether the forward itself asked for less (it gets float64 all the same), ``rounds`` whether it wrote results into
    tensors that hold less. ``products`` counts matrix
    products and convolutions, which is where rounding grows. ``steps`` are the operators that were called, with their plain arguments.
    """

    def __init__(self, kept: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.casts = False
        self.rounds = False
        self.products = 0
        self.steps: list[tuple[Any, ...]] = []
        self._kept = {_memory(t) for t in kept}
        self._buffers = _SHARED[-1] if _SHARED else []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise the first use imports torch._dynamo, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        self.steps.append((func, *(a for a in (*args, *kwargs.values()) if isinstance(a, (bool, int, float)))))
        written = _written(func, args, kwargs)
        if self._kept and any(_memory(t) in self._kept for t in written):
            raise WritesWeights(f"{func} writes into a weight")
        if kwargs.get("dtype") in _WIDE:
            self.casts = self.casts or any(isinstance(a, Tensor) and a.dtype in _FULL for a in args)
            kwargs["dtype"] = _WIDE[kwargs["dtype"]]
        if name in _READING:
            return _mapped(func(*args, **kwargs), _widened)
        if name in _MOVING or _is_view(func):
            return func(*args, **kwargs)
        if name in _LIKE or not any(isinstance(a, (Tensor, list, tuple)) for a in (*args, *kwargs.values())):
            return _mapped(func(*args, **kwargs), _widened)
        self.products += is_product(func)
        if not kwargs and _can_go_in_pieces(name, args):
            return self._in_pieces(*args)
        return self._run(func, args, kwargs, written)

    def _in_pieces(self, *args: Tensor) -> Tensor:
        """``mm(x, w)`` or ``addmm(b, x, w)`` of a huge narrow ``w``, widened piece by piece: little memory, and it stays in the cache."""
        x, w = args[-2:]
        out = x.new_zeros(x.shape[0], w.shape[1])
        by_columns = w.t().is_contiguous()
        length = w.shape[1] if by_columns else w.shape[0]
        step = max(1, _PIECE * length // w.numel())
        for start in range(0, length, step):
            part, scratch = slice(start, start + step), _Scratch(self._buffers)
            if by_columns:
                out[:, part] = x @ scratch.widened(w[:, part])
            else:
                out.addmm_(x[:, part], scratch.widened(w[part]))
        return out if len(args) == 2 else out.add_(_widened(args[0]))

    def _run(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], written: list[Tensor]) -> Any:
        narrow: list[tuple[Tensor, Tensor]] = []  # (what the caller holds, what the operator gets)
        scratch = _Scratch(self._buffers)  # what gradients need is saved before it comes here

        def widen(value: Tensor) -> Tensor:
            if value.dtype not in _WIDE:
                return value
            wide = scratch.widened(value)
            narrow.append((value, wide))
            return wide

        result = func(*_mapped(tuple(args), widen), **{k: _mapped(v, widen) for k, v in kwargs.items()})
        if not narrow:
            return result
        for value, wide in narrow:
            if any(value is t for t in written):
                value.copy_(wide)
                self.rounds = self.rounds or (value.numel() > 1 and func.overloadpacket.__name__ not in _UNDECLARED)
        back = {id(wide): value for value, wide in narrow}

        def own(value: Tensor) -> Tensor:
            original = back.get(id(value))
            if original is not None:
                return original if any(original is t for t in written) else value.clone()
            return value.clone() if scratch.holds(value) else value

        return _mapped(result, own)


def _can_go_in_pieces(name: str, args: Sequence[Any]) -> bool:
    if (
        name not in ("mm", "addmm")
        or len(args) != (2 if name == "mm" else 3)
        or not all(isinstance(a, Tensor) for a in args)
    ):
        return False
    x, w = args[-2:]
    plain = (
        x.layout is torch.strided and w.layout is torch.strided and x.dtype == torch.float64 and w.device == x.device
    )
    if not plain or w.dtype not in _WIDE or w.is_complex() or w.numel() < 4 * _PIECE:
        return False
    return bool(w.t().is_contiguous() or w.is_contiguous())


class _Scratch:
    """Memory that is used again for every large tensor that is widened: new pages cost more than the numbers."""

    def __init__(self, buffers: list[Tensor]) -> None:
        self._buffers, self._used = buffers, 0

    def widened(self, value: Tensor) -> Tensor:
        size = value.numel()
        if size < _LARGE or value.is_complex() or value.device.type != "cpu" or not _is_dense(value):
            return _widened(value)
        if self._used == len(self._buffers):
            self._buffers.append(torch.empty(0, dtype=torch.float64))
        if self._buffers[self._used].numel() < size:
            self._buffers[self._used] = torch.empty(0, dtype=torch.float64)  # the old one goes first
            self._buffers[self._used] = torch.empty(size, dtype=torch.float64)
        out = self._buffers[self._used].as_strided(value.shape, value.stride())
        self._used += 1
        return out.copy_(value)

    def holds(self, value: Tensor) -> bool:
        return value.layout is torch.strided and any(_memory(value) == _memory(b) for b in self._buffers[: self._used])


class _Strict(TorchFunctionMode):
    """Widens the arguments of functions that compare their types before they call any operator."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _STRICT:
            args, kwargs = tree_map(_widened, args), tree_map(_widened, kwargs)
        return func(*args, **kwargs)


_SHARED: list[list[Tensor]] = []


@contextmanager
def shared_buffers() -> Iterator[None]:
    """Within, runs in double precision use the memory of earlier ones again; it is given back at the end."""
    _SHARED.append(_SHARED[-1] if _SHARED else [])
    try:
        yield
    finally:
        _SHARED.pop()


@contextmanager
def in_double(*, kept: Iterable[Tensor] = ()) -> Iterator[Double]:
    """Within, networks compute in double precision whatever their weights are in; the weights are left as they are.

    ``kept`` are tensors that must not be written: a forward that does raises `WritesWeights`, before anything is changed. Not every
    network can be run so (operators that exist in single precision only, types compared by the code): then it raises what it
    raises, and a copy in float64 may still run. Gradients reach tensors that are in double precision themselves, no others.

    >>> import torch
    >>> layer, x = torch.nn.Linear(3, 2), torch.randn(4, 3)
    >>> with in_double(), torch.no_grad():
    ...     y = layer(x)
    >>> y.dtype, layer.weight.dtype, torch.equal(y, torch.nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double()))
    (torch.float64, torch.float32, True)
    """
    mode = Double(kept)
    with _Strict(), mode:
        yield mode


def with_wide_parts(other: torch.nn.Module) -> torch.nn.Module:
    """A twin whose recurrent layers hold double weights of their own: their Python code compares types. Changed in place."""
    for module in other.modules():
        if isinstance(module, torch.nn.RNNBase):
            module.double()
    return other


def _widened(value: Any) -> Any:
    return value.to(_WIDE[value.dtype]) if isinstance(value, Tensor) and value.dtype in _WIDE else value


@cache
def is_product(func: Any) -> bool:
    """Whether an operator sums products: where rounding grows."""
    return any(word in func.overloadpacket.__name__ for word in _PRODUCTS)


@cache
def _is_view(func: Any) -> bool:
    returned = [r.alias_info for r in func._schema.returns]
    return any(a is not None and not a.is_write for a in returned)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with every tensor in it changed; quicker than a general walk."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (tuple, list)):
        return type(value)([_mapped(v, change) for v in value])
    return value


@cache
def _places_written(func: Any) -> tuple[tuple[int, str, bool], ...]:
    """Position and name of each argument that an operator writes into, and whether it is given by name alone; to ask torch takes longer than to run most."""
    arguments = enumerate(func._schema.arguments)
    return tuple((i, a.name, a.kwarg_only) for i, a in arguments if a.alias_info is not None and a.alias_info.is_write)


def _written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    found = []
    for i, name, by_name in _places_written(func):
        value = args[i] if i < len(args) and not by_name else kwargs.get(name)
        found += [v for v in (value if isinstance(value, (list, tuple)) else (value,)) if isinstance(v, Tensor)]
    for i in _UNDECLARED.get(func.overloadpacket.__name__, ()):
        found += [args[i]] if i < len(args) and isinstance(args[i], Tensor) else []
    return found


def _memory(t: Tensor) -> int:
    return int(t.untyped_storage()._cdata) if t.layout is torch.strided else id(t)


def _is_dense(t: Tensor) -> bool:
    return t.layout is torch.strided and (t.is_contiguous() or (t.ndim >= 2 and t.transpose(-1, -2).is_contiguous()))

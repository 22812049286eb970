"""Runs a module once and writes down every operator it calls; the module is left exactly as it was.

The forward runs eagerly under a ``TorchDispatchMode`` in eval mode without gradients, so control flow, in-place writes,
scripted modules and custom operators all appear as what they really do. Whatever a forward might change (mode, buffers,
attributes, random state) is put back.
"""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from weightlapse.errors import CannotTrace

# Results that hold no data of their inputs, only their shape: constants.
_FACTORIES = frozenset(
    "zeros_like ones_like full_like empty_like rand_like randn_like randint_like new_zeros new_ones new_full new_empty new_empty_strided".split()
)
# Python reads a value out of a tensor here: a branch may depend on it.
READS_VALUE = frozenset({"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "nonzero_numpy", "item"})


def storage_of(t: Tensor) -> int:
    """Which memory a tensor lies in; tensors without plain storage (sparse) count as memory of their own."""
    if t.layout is not torch.strided:
        return id(t)
    return int(t.untyped_storage()._cdata)


def place_of(t: Tensor) -> tuple[Any, ...]:
    """Where exactly a tensor lies: two tensors of one place are one array."""
    if t.layout is not torch.strided:
        return (id(t),)
    return (storage_of(t), t.storage_offset(), tuple(t.shape), t.stride())


@dataclass
class Call:
    """One operator call: what went in, what came out, and along which axes its constant inputs were constant."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[Tensor]
    outs: list[Tensor]
    writes: list[Tensor]
    flat: dict[int, tuple[bool, ...]] = field(default_factory=dict)
    zeros: frozenset[int] = frozenset()  # ids of constant inputs that are zero throughout
    live: bool = False
    _bound: dict[str, Any] | None = None

    @functools.cached_property
    def name(self) -> str:
        """``add`` for aten::add_.Tensor; custom operators keep their namespace."""
        space, _, rest = self.func._schema.name.partition("::")
        base = rest.rstrip("_") if rest != "_" else rest
        return str(base if space == "aten" else f"{space}::{base}")

    def __getitem__(self, argument: str) -> Any:
        """An argument by its name in the operator's schema, defaults included."""
        if self._bound is None:
            bound = {a.name: a.default_value for a in self.func._schema.arguments}
            bound.update(zip((a.name for a in self.func._schema.arguments), self.args, strict=False))
            bound.update(self.kwargs)
            self._bound = bound
        return self._bound[argument]


@dataclass
class Tape:
    calls: list[Call]
    inputs: list[Tensor]
    outputs: list[Tensor]
    grown: dict[int, tuple[bool, ...]]  # constants that were written to later: id of the first tensor -> constant axes
    grown_storages: set[int]
    tracked: set[int]  # storages that hold data of the model or its inputs


class _Recorder(TorchDispatchMode):
    def __init__(self, model_tensors: list[Tensor], inputs: list[Tensor]) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.tracked = {storage_of(t) for t in [*model_tensors, *inputs]}
        self.protected = {storage_of(t): t for t in model_tensors}
        self.saved: dict[int, tuple[Tensor, Tensor]] = {}
        self.first: dict[int, tuple[Tensor, bool]] = {}  # storage -> its first tensor, whether its content is arbitrary
        self.grown: dict[int, tuple[bool, ...]] = {}
        self.grown_storages: set[int] = set()
        self._flat_cache: dict[tuple[int, int], tuple[bool, ...]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise the first use of any mode imports torch._dynamo, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        writes = _written(func, args, kwargs)
        base = func._schema.name.partition("::")[2] if hasattr(func, "_schema") else str(func)
        known = [t for t in inputs if storage_of(t) in self.tracked]
        for t in writes:
            self._before_write(t, bool(known))
        call = Call(func, args, kwargs, inputs, [], writes)
        if torch.Tag.inplace_view in getattr(func, "tags", ()):
            alias = self._keep_old_geometry(inputs[0])
            call = Call(func, (alias, *args[1:]), kwargs, [alias, *inputs[1:]], [], writes)
        if known and base not in _FACTORIES:
            constants = [t for t in call.inputs if storage_of(t) not in self.tracked]
            call.flat = {id(t): self._flat(t) for t in constants}
            call.zeros = frozenset(
                id(t) for t in constants if all(call.flat[id(t)]) and t.numel() and not bool(t.flatten()[0])
            )
        out = func(*args, **kwargs)
        call.outs = [t for t in tree_flatten(out)[0] if isinstance(t, Tensor)]
        for t in call.outs:
            s = storage_of(t)
            if known and base not in _FACTORIES:
                self.tracked.add(s)
            else:
                self.first.setdefault(s, (t, "empty" in base))
        self.calls.append(call)
        return out

    def _before_write(self, t: Tensor, tracked_source: bool) -> None:
        s = storage_of(t)
        if s in self.protected and s not in self.saved:
            whole = self.protected[s]
            self.saved[s] = (whole, whole.detach().clone())
        if tracked_source and s not in self.tracked:
            first, arbitrary = self.first.get(s, (t, False))
            self.grown[id(first)] = (True,) * first.ndim if arbitrary else self._flat(first)
            self.grown_storages.add(s)
            self.tracked.add(s)

    def _keep_old_geometry(self, t: Tensor) -> Tensor:
        """``t.transpose_()`` changes the axes of an existing tensor: what stands on the tape gets an alias that keeps its own."""
        alias = t.detach()

        def swap(value: Any) -> Any:
            return alias if value is t else value

        for call in self.calls:
            if any(x is t for x in [*call.inputs, *call.outs, *call.writes]):
                call.args, call.kwargs = tree_map(swap, call.args), tree_map(swap, call.kwargs)
                call.inputs, call.outs, call.writes = (
                    [swap(x) for x in xs] for xs in (call.inputs, call.outs, call.writes)
                )
                if id(t) in call.flat:
                    call.flat[id(alias)] = call.flat[id(t)]
        return alias

    def _flat(self, t: Tensor) -> tuple[bool, ...]:
        """Along which axes a constant tensor does not vary."""
        key = (id(t), t._version if not t.is_inference() else -1)
        if key not in self._flat_cache:
            if t.layout is not torch.strided or t.is_quantized:
                self._flat_cache[key] = (False,) * t.ndim
            else:
                same = (lambda a: (a == a.flatten()[:1].view([1] * a.ndim)).all()) if t.numel() else None
                whole = same is not None and bool(same(t))
                self._flat_cache[key] = tuple(
                    whole or n < 2 or bool((t == t.narrow(d, 0, 1)).all()) for d, n in enumerate(t.shape)
                )
        return self._flat_cache[key]

    def restore(self) -> None:
        for whole, copy in self.saved.values():
            whole.detach().copy_(copy)


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    schema = getattr(func, "_schema", None)
    if schema is None or not schema.is_mutable:
        return []
    found: list[Tensor] = []
    for i, a in enumerate(schema.arguments):
        if a.alias_info is not None and a.alias_info.is_write:
            value = args[i] if i < len(args) else kwargs.get(a.name)
            found += [t for t in tree_flatten(value)[0] if isinstance(t, Tensor)]
    return found


def as_call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """One example as positional and keyword arguments, its tensors copied so that a forward cannot change the caller's."""
    if isinstance(example, Mapping):
        args, kwargs = (), dict(example)
    else:
        args, kwargs = (tuple(example) if type(example) is tuple else (example,)), {}

    def own(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(value)
        return value.detach().clone() if isinstance(value, Tensor) else value

    return tree_map(own, args), tree_map(own, kwargs)


@contextlib.contextmanager
def untouched(model: torch.nn.Module) -> Iterator[None]:
    """Inside, the model is in eval mode and no fused kernels hide operators; afterwards everything is as before."""
    modules = list(model.modules())
    training = [m.training for m in modules]
    attributes = [(m, dict(m.__dict__), dict(m._buffers)) for m in modules if not isinstance(m, torch.jit.ScriptModule)]
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    mha, mkldnn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    cudnn = torch._C._get_cudnn_enabled()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.backends.mha.set_fastpath_enabled(False)
            torch._C._set_mkldnn_enabled(False)
            torch._C._set_cudnn_enabled(False)
            for m in modules:
                m.training = False
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(mha)
        torch._C._set_mkldnn_enabled(mkldnn)
        torch._C._set_cudnn_enabled(cudnn)
        for m, saved, buffers in attributes:
            if m.__dict__ != saved if _comparable(m.__dict__, saved) else True:
                m.__dict__.clear()
                m.__dict__.update(saved)
            m._buffers.clear()
            m._buffers.update(buffers)
        for m, flag in zip(modules, training, strict=True):
            m.training = flag
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


def _comparable(now: dict[str, Any], saved: dict[str, Any]) -> bool:
    # Identity is what counts, and == on tensors is no truth value: same keys and objects mean nothing to restore.
    return False if now.keys() != saved.keys() else all(now[k] is saved[k] for k in saved)


def record(model: torch.nn.Module, example: Any, tensors: list[Tensor], choose: Callable[[Any], list[Tensor]]) -> Tape:
    """The tape of one forward; ``tensors`` are the model's parameters and buffers, ``choose`` picks the outputs that count."""
    args, kwargs = as_call(example)
    inputs = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
    recorder = _Recorder(tensors, inputs)
    try:
        with recorder:
            result = model(*args, **kwargs)
    except CannotTrace:
        raise
    except Exception as err:
        shapes = ", ".join(str(tuple(t.shape)) for t in inputs)
        raise CannotTrace(
            f"{type(model).__name__} does not run on the example (tensors of shape {shapes or 'none'}): {type(err).__name__}: {err}; "
            "pass an example that the model accepts in eval mode, as a tuple when it takes several arguments"
        ) from err
    finally:
        recorder.restore()
    outputs = choose(result)
    if not outputs:
        raise CannotTrace(
            f"{type(model).__name__} returned no tensor, so nothing says what its weights must preserve; choose with outputs=..."
        )
    tape = Tape(recorder.calls, inputs, outputs, recorder.grown, recorder.grown_storages, recorder.tracked)
    _mark_live(tape)
    return tape


def _mark_live(tape: Tape) -> None:
    """Only what reaches an output constrains the weights: nn.LSTM stacks final states that nobody may use."""
    live = {storage_of(t) for t in tape.outputs}
    for call in reversed(tape.calls):
        touched = {storage_of(t) for t in [*call.outs, *call.writes]}
        if touched & live or call.name in READS_VALUE:
            call.live = True
            live.update(storage_of(t) for t in call.inputs)

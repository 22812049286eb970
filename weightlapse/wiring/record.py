"""Runs a module once and writes down every operator it calls.

The forward runs eagerly under a ``TorchDispatchMode`` in eval mode without gradients, so control flow, in-place writes,
scripted modules and custom operators all appear as what they really do. It runs on a twin (``twin.py``); what it writes into
the weights themselves, which the twin shares, is put back.
"""

from __future__ import annotations

import contextlib
import contextvars
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
from weightlapse.wiring.hollow import Hollow
from weightlapse.wiring.operators import FACTORIES, READS_VALUE, base_name, storage_of, tensors_among, written

# For each axis of a constant tensor: where its values change along it, () for nowhere and None for (nearly) everywhere.
Runs = tuple[tuple[int, ...] | None, ...]
_MOST_RUNS = 16


@dataclass
class Call:
    """One operator call: what went in, what came out, and how its constant inputs vary along their axes (``flat``)."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[Tensor]
    outs: list[Tensor]
    writes: list[Tensor]
    flat: dict[int, Runs] = field(default_factory=dict)
    zeros: frozenset[int] = frozenset()  # ids of constant inputs that are zero throughout
    live: bool = False
    hollow: Hollow | None = None
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

    def value(self, t: Tensor) -> Tensor | None:
        """The values of an input, where there are any: weights on the meta device have none, nor has what is made of them."""
        return t if self.hollow is None else self.hollow.value(t)


@dataclass
class Tape:
    """All operations of one forward, and the tensors that they began and ended with."""

    calls: list[Call]
    inputs: list[Tensor]
    outputs: list[Tensor]
    buffers: list[Tensor]
    written: list[Tensor]  # constants that something was written into later
    steady: set[int]  # ids of those of them that were not zero (nor empty) before
    grown: dict[int, Runs]  # constants that were written to later: id of the first tensor -> its runs
    tracked: set[int]  # storages that hold data of the model or its inputs


class _Recorder(TorchDispatchMode):
    """``weights`` and ``inputs`` are what the wiring is about; ``buffers`` are constants that may be written to."""

    def __init__(
        self, weights: list[Tensor], buffers: list[Tensor], inputs: list[Tensor], hollow: Hollow | None = None
    ) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.tracked = {storage_of(t) for t in [*weights, *inputs]}
        self.protected = {storage_of(t): t for t in weights if isinstance(t, torch.nn.Parameter)}
        self.saved: dict[int, tuple[Tensor, Tensor]] = {}
        # storage -> its first tensor, whether its content is arbitrary
        self.first: dict[int, tuple[Tensor, bool]] = {storage_of(t): (t, False) for t in buffers}
        self.grown: dict[int, Runs] = {}
        self.steady: set[int] = set()
        self.written: list[Tensor] = []
        self.hollow = hollow
        self._flat_cache: dict[tuple[int, int], Runs] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise the first use of any mode imports torch._dynamo, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not hasattr(func, "_schema"):
            raise CannotTrace(f"the operator {func} runs a whole program of its own, which cannot be followed")
        inputs = tensors_among((*args, *kwargs.values()))
        writes = written(func, args, kwargs)
        base = base_name(func)
        known = base not in FACTORIES and any(storage_of(t) in self.tracked for t in inputs)
        for t in writes:
            self._before_write(t, known or any(storage_of(i) in self.tracked for i in inputs))
        call = Call(func, args, kwargs, inputs, [], writes, hollow=self.hollow)
        if torch.Tag.inplace_view in getattr(func, "tags", ()):
            alias = self._keep_old_geometry(inputs[0])
            call = Call(func, (alias, *args[1:]), kwargs, [alias, *inputs[1:]], [], writes, hollow=self.hollow)
        if known:
            constants = [t for t in call.inputs if storage_of(t) not in self.tracked]
            if constants:
                call.flat = {id(t): self._flat(t) for t in constants}
                call.zeros = frozenset(id(t) for t in constants if _uniform(call.flat[id(t)]) and self._is_zero(t))
        out = func(*args, **kwargs) if self.hollow is None else self.hollow.run(func, args, kwargs)
        call.outs = tensors_among((out,))
        for t in call.outs:
            s = storage_of(t)
            if known:
                self.tracked.add(s)
            else:
                self.first.setdefault(s, (t, "empty" in base))
        self.calls.append(call)
        return out

    def _is_zero(self, t: Tensor) -> bool:
        value = t if self.hollow is None else self.hollow.value(t)
        return value is not None and t.numel() > 0 and not bool(value.flatten()[0])

    def _before_write(self, t: Tensor, tracked_source: bool) -> None:
        s = storage_of(t)
        if s in self.protected and s not in self.saved:
            whole = self.protected[s]
            self.saved[s] = (whole, whole.detach().clone())
        if tracked_source and s not in self.tracked:
            first, arbitrary = self.first.get(s, (t, False))
            self.grown[id(first)] = ((),) * first.ndim if arbitrary else self._flat(first)
            self.written.append(first)
            if not arbitrary and not (_uniform(self.grown[id(first)]) and self._is_zero(first)):
                self.steady.add(id(first))
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

    def _flat(self, t: Tensor) -> Runs:
        key = (id(t), t._version if not t.is_inference() else -1)
        if key not in self._flat_cache:
            value = t if self.hollow is None else self.hollow.value(t)
            if value is None or t.layout is not torch.strided or t.is_quantized:
                self._flat_cache[key] = tuple(() if n < 2 else None for n in t.shape)
            else:
                self._flat_cache[key] = _runs(value)
        return self._flat_cache[key]

    def restore(self) -> None:
        for whole, copy in self.saved.values():
            whole.detach().copy_(copy)


def _uniform(runs: Runs) -> bool:
    return all(r == () for r in runs)


def _runs(t: Tensor) -> Runs:
    still = [n < 2 or s == 0 for n, s in zip(t.shape, t.stride(), strict=True)]
    if t.numel() and not all(still):
        core = t[tuple(slice(0, 1) if f else slice(None) for f in still)]
        if bool((core == core.flatten()[0]).all()):
            return ((),) * t.ndim
    return tuple(() if f else _runs_along(t, d) for d, f in enumerate(still))


def _runs_along(t: Tensor, axis: int) -> tuple[int, ...] | None:
    n = t.shape[axis]
    steps = (t.narrow(axis, 1, n - 1) != t.narrow(axis, 0, n - 1)).transpose(0, axis).reshape(n - 1, -1).any(1)
    found = steps.nonzero().flatten().tolist()
    return tuple(i + 1 for i in found) if len(found) < min(_MOST_RUNS, n // 2) else None


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


_QUIET: contextvars.ContextVar[bool] = contextvars.ContextVar("_QUIET", default=False)


@contextlib.contextmanager
def quietly(*, unfused: bool = False) -> Iterator[None]:
    """Nothing that is global stays changed: random states, gradient and inference mode, backends.

    ``unfused`` takes plain kernels, which hide no operators (a whole recurrent layer, say), and are slower.
    """
    if _QUIET.get() and not unfused:  # what is around puts everything back
        yield
        return
    token = _QUIET.set(True)
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    mha, mkldnn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    cudnn = torch._C._get_cudnn_enabled()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices), torch.inference_mode(False), torch.no_grad():
            torch.backends.mha.set_fastpath_enabled(False)
            if unfused:
                torch._C._set_mkldnn_enabled(False)
                torch._C._set_cudnn_enabled(False)
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(mha)
        torch._C._set_mkldnn_enabled(mkldnn)
        torch._C._set_cudnn_enabled(cudnn)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
        _QUIET.reset(token)


def record(
    model: torch.nn.Module,
    example: Any,
    weights: list[Tensor],
    buffers: list[Tensor],
    choose: Callable[[Any], list[Tensor]],
) -> Tape:
    """The tape of one forward of ``model`` (a twin, in eval mode); ``choose`` picks the outputs that count."""
    given = as_call(example)
    hollow = Hollow() if any(t.is_meta for t in [*weights, *buffers]) else None
    ways = [given]
    if hollow is not None and all(
        t.is_meta for t in weights
    ):  # with its inputs beside the weights, as programs like to have them
        ways.insert(0, tree_map(lambda v: hollow.emptied(v) if isinstance(v, Tensor) else v, given))
    failed: CannotTrace | None = None
    for args, kwargs in ways:
        inputs = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        recorder = _Recorder(weights, buffers, inputs, hollow)
        try:
            with recorder:
                result = model(*args, **kwargs)
            break
        except CannotTrace as err:
            failed = failed or err
        except Exception as err:  # noqa: BLE001  whatever the program raises
            failed = failed or _failure(model, inputs, hollow, err)
        finally:
            recorder.restore()
    else:
        assert failed is not None
        raise failed
    outputs = choose(result)
    if not outputs:
        raise CannotTrace(
            f"{type(model).__name__} returned no tensor, so nothing says what its weights must preserve; choose with outputs=..."
        )
    tape = Tape(
        recorder.calls, inputs, outputs, buffers, recorder.written, recorder.steady, recorder.grown, recorder.tracked
    )
    _mark_live(tape)
    return tape


def hides_operators(tape: Tape) -> bool:
    """Whether a fused kernel ran that hides what it is made of."""
    return any("_rnn" in call.name for call in tape.calls)


def _failure(model: torch.nn.Module, inputs: list[Tensor], hollow: Hollow | None, err: Exception) -> CannotTrace:
    shapes = ", ".join(str(tuple(t.shape)) for t in inputs) or "none"
    advice = "pass an example that the model accepts in eval mode, as a tuple when it takes several arguments"
    if hollow is not None:
        advice = (
            "weights on the meta device have no values, and the program may need some there: give the weights memory first "
            "(model.to_empty(device='cpu'), any values will do), or pass an example that the model accepts"
        )
    found = CannotTrace(
        f"{type(model).__name__} does not run on the example (tensors of shape {shapes}): {type(err).__name__}: {err}; {advice}"
    )
    found.__cause__ = err
    return found


def _mark_live(tape: Tape) -> None:
    """Only what reaches an output constrains the weights.

    nn.LSTM stacks final states that nobody may use, and a slice may be taken for its shape alone. A call is live when one of
    its very results is read by a live call, or when it writes into memory that one reads later.
    """
    made = {id(t) for call in tape.calls for t in call.outs}
    wanted: set[int] = set()  # tensors that a later live call reads
    hidden: set[int] = set()  # memory read through a view that no operator made: anything there may be meant
    read: set[int] = set()  # memory that a later live call reads

    def need(tensors: list[Tensor]) -> None:
        for t in tensors:
            wanted.add(id(t))
            read.add(storage_of(t))
            if id(t) not in made:
                hidden.add(storage_of(t))

    need(tape.outputs)
    for call in reversed(tape.calls):
        call.live = (
            any(id(t) in wanted or storage_of(t) in hidden for t in call.outs)
            or any(storage_of(t) in read for t in call.writes)
            or call.name in READS_VALUE
        )
        if call.live:
            need(call.inputs)

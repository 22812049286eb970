"""Running a module on data with other weights: outputs, losses, and what reaches each unit. Needs torch; nothing is changed."""

from __future__ import annotations

import contextlib
import copy
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import CannotTrace, InvalidArgument, missing_extra
from weightlapse.symmetry.states import as_array, bare
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Group


def torch_module() -> Any:
    """The torch package, or the error that says how to install it."""
    try:
        import torch
    except ImportError:
        raise missing_extra("torch", extra="torch", purpose="running a network on data") from None
    return torch


@dataclass(frozen=True)
class Data:
    """Inputs as tensors with the samples on axis 0, by position or by name, and integer labels when there are any."""

    inputs: tuple[Any, ...]
    labels: Any = None
    names: tuple[str, ...] = ()

    def with_inputs(self, inputs: Iterable[Any]) -> Data:
        """Other inputs of the same kind, without labels."""
        return Data(tuple(inputs), None, self.names)

    @property
    def example(self) -> Any:
        """The inputs as ``wl.trace`` takes them."""
        return dict(zip(self.names, self.inputs)) if self.names else self.inputs

    def passed_to(self, module: Any) -> Any:
        """What the module returns for these inputs."""
        return module(**self.example) if self.names else module(*self.inputs)

    @property
    def rows(self) -> int:
        return int(self.inputs[0].shape[0])

    def head(self, n: int) -> Data:
        """The first ``n`` samples; all of them when the inputs do not share the first axis (graphs)."""
        import torch

        if n >= self.rows or any(x.layout != torch.strided or x.shape[:1] != (self.rows,) for x in self.inputs):
            return self
        return Data(tuple(x[:n] for x in self.inputs), None if self.labels is None else self.labels[:n], self.names)


def data_of(data: Any, *modules: Any) -> Data:
    """``x``, a tuple or mapping of inputs, or ``(inputs, labels)`` where labels are integers, one for each sample.

    A pair that would also do as inputs and labels is two inputs when one of ``modules`` cannot run on one.

    Raises InvalidArgument for anything without samples.
    """
    torch = torch_module()
    if isinstance(data, Data):
        return data
    labels = None
    if (
        isinstance(data, tuple)
        and len(data) == 2
        and _is_labels(data[1], data[0])
        and not any(map(_wants_two, modules))
    ):
        data, labels = (
            data[0],
            torch.as_tensor(np.asarray(data[1]) if not hasattr(data[1], "detach") else data[1]).long(),
        )
    names = tuple(data) if isinstance(data, Mapping) else ()
    parts = tuple(data.values()) if isinstance(data, Mapping) else data if isinstance(data, tuple) else (data,)
    from weightlapse.wiring.programs.program import tensor_of

    inputs = tuple(x.detach().cpu() if hasattr(x, "detach") else tensor_of(np.asarray(x)) for x in parts)
    if not inputs or not inputs[0].ndim or inputs[0].shape[0] == 0:
        raise InvalidArgument(
            "data holds no samples: pass an array of inputs with at least one row, or (inputs, labels)"
        )
    return Data(inputs, labels, names)


def _wants_two(module: Any) -> bool:
    forward = getattr(bare(module), "forward", None)
    if forward is None:
        return False
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):  # a compiled forward tells no signature
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters) >= 2


def _is_labels(y: Any, x: Any) -> bool:
    shape = getattr(y, "shape", None)
    if shape is None:
        y = np.asarray(y)
        shape = y.shape
    kind = "i" if str(y.dtype).rpartition(".")[2].startswith(("int", "uint")) else "?"
    first = next(iter(x.values())) if isinstance(x, Mapping) else x[0] if isinstance(x, tuple) else x
    rows = getattr(first, "shape", (None,))
    return kind == "i" and len(shape) == 1 and len(rows) >= 1 and rows[0] == shape[0]


class Runner:
    """A module that is run on data with its own or other weights, in evaluation mode; nothing of the module is changed.

    What runs is a twin over the same memory, and other weights are put in place, not copied. Unless ``double`` is off, it
    computes in float64 where the module allows it: widening the weights as they are read or, where that fails, on a copy.
    """

    def __init__(self, module: Any, data: Data, *, double: bool = True) -> None:
        torch = torch_module()
        self._torch = torch
        module = bare(module)
        self._widens = False
        self.dtype = None
        with warnings.catch_warnings():  # copying and converting a scripted module touches gradients that are not there
            warnings.simplefilter("ignore", UserWarning)
            self.module, self._private = self._twin_of(module)
            self._make: Callable[[], Any] = lambda: self._twin_of(module)[0]
            if double and self._private:
                self._prepare_double(module, data)
        self._renew()
        self.data = Data(tuple(self._cast(x) for x in data.inputs), data.labels, data.names)
        parameters = {id(p) for p in self.module.parameters()}
        self.own = {n: v.detach() if id(v) in parameters else v.detach().clone() for n, v in self._home.items()}

    def _twin_of(self, module: Any) -> tuple[Any, bool]:
        from weightlapse.wiring.twin import twin

        try:
            return twin(module).cpu().eval(), True
        except (RuntimeError, TypeError, NotImplementedError, CannotTrace):
            return module, False

    def _renew(self) -> None:
        """A twin that has not been run: a forward pass may fill caches and count, and the next one must not see it."""
        if not self._private:
            self._home = {}
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            self.module = self._make()
        home = self.module.state_dict(keep_vars=True)
        self._home = {n: v for n, v in home.items() if isinstance(v, self._torch.Tensor) and not v.is_quantized}

    def _prepare_double(self, module: Any, data: Data) -> None:
        """Chooses how to compute in float64; leaves a twin that computes as the module does where nothing works."""
        from weightlapse.wiring.double import with_wide_parts

        few = data.head(8)
        few = few.with_inputs(x.double() if x.is_floating_point() else x for x in few.inputs)
        as_it_is = self._make
        for widens, make in (
            (True, lambda: with_wide_parts(as_it_is())),
            (False, lambda: copy.deepcopy(module).cpu().eval().double()),
        ):
            with contextlib.suppress(RuntimeError, TypeError, NotImplementedError):
                self._make, self._widens, self.dtype = make, widens, self._torch.float64
                self.module = make()
                if self._runs(few):
                    return
        self._make, self._widens, self.dtype = as_it_is, False, None

    def _runs(self, data: Data) -> bool:
        try:
            with self._computing(), self._torch.no_grad(), self._torch.random.fork_rng(devices=[]):
                data.passed_to(self.module)
        except (RuntimeError, TypeError, ValueError):  # the forward code fixes a precision of its own
            return False
        return True

    def _computing(self) -> AbstractContextManager[Any]:
        if not self._widens:
            return contextlib.nullcontext()
        from weightlapse.wiring.double import in_double

        return in_double(kept=list(self.module.parameters()))

    def _cast(self, x: Any) -> Any:
        if not x.is_floating_point():
            return x
        dtype = self.dtype or next((p.dtype for p in self.module.parameters() if p.is_floating_point()), x.dtype)
        return x.to(dtype)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        modes = {m: m.training for m in self.module.modules()}
        self.module.eval()
        try:
            with self._torch.no_grad():
                yield
        finally:
            for m, mode in modes.items():
                m.training = mode

    def weights(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A state as tensors, in this copy's precision where it does not widen them itself; shared with arrays where they can be."""
        torch = self._torch
        out = {}
        for name, value in state.items():
            t = value.detach().cpu() if hasattr(value, "detach") else torch.as_tensor(np.ascontiguousarray(value))
            out[name] = t.to(self.dtype) if self.dtype is not None and not self._widens and t.is_floating_point() else t
        return out

    def call(self, weights: Mapping[str, Any] | None = None, data: Data | None = None) -> Any:
        """What the module returns, with its own or other weights, as one tensor (samples, features).

        Random numbers that the forward pass draws are the same at every call.
        """
        data = self.data if data is None else data.with_inputs(self._cast(x) for x in data.inputs)
        with self._evaluating(), self._torch.random.fork_rng(devices=[]):
            self._torch.manual_seed(0)
            if self._private:
                self._fill(self.own if weights is None else weights)
                with self._computing():
                    out = data.passed_to(self.module)
                return self._flat(out)
            if weights is None:
                return self._flat(data.passed_to(self.module))
            call = self._torch.func.functional_call
            inputs = ((), data.example) if data.names else (data.inputs, {})
            return self._flat(call(self.module, dict(weights), *inputs, tie_weights=False))

    def _fill(self, weights: Mapping[str, Any]) -> None:
        """Puts weights in place. The module's own memory is never written: parameters are pointed elsewhere, buffers copied."""
        parameters = {id(p) for p in self.module.parameters()}
        wide = {id(p) for m in self.module.modules() if isinstance(m, self._torch.nn.RNNBase) for p in m.parameters()}
        for name, home in self._home.items():
            if name not in weights:
                continue
            value = weights[name]
            if value.is_floating_point() and (not self._widens or id(home) in wide):
                value = value.to(home.dtype)
            if value.shape != home.shape:
                raise RuntimeError(f"{name} has shape {tuple(value.shape)} where the module holds {tuple(home.shape)}")
            home.data = value if id(home) in parameters else value.clone()

    def outputs(self, state: Mapping[str, Any] | None = None, data: Data | None = None) -> NDArray[Any]:
        """The same as an array."""
        return as_array(self.call(None if state is None else self.weights(state), data))

    def outputs_of_new(self, state: Mapping[str, Any]) -> NDArray[Any]:
        """The same of a module that has never been run: whatever earlier passes have left in it plays no part."""
        self._renew()
        return self.outputs(state)

    def _flat(self, out: Any) -> Any:
        torch, rows = self._torch, self.data.rows
        parts = [t for t in _tensors(out) if t.is_floating_point() or t.is_complex()]
        if not parts:
            raise InvalidArgument("the network returns no floating-point tensor, so there is nothing to compare")
        parts = [torch.view_as_real(t) if t.is_complex() else t for t in parts]
        flat = [t.reshape(t.shape[0], -1) if t.ndim and t.shape[0] != 1 else t.reshape(1, -1) for t in parts]
        same = [t for t in flat if t.shape[0] == flat[0].shape[0]]
        joined = torch.cat([t.to(flat[0].dtype) for t in same], dim=1)
        return (
            joined if len(same) == len(flat) or rows == 0 else torch.cat([t.reshape(-1) for t in parts]).reshape(1, -1)
        )

    # ---- units ---------------------------------------------------------------------------------------------------

    def units(
        self,
        wiring: Wiring,
        groups: Sequence[str],
        state: Mapping[str, Any] | None = None,
        *,
        made: bool = False,
    ) -> dict[str, NDArray[Any]]:
        """What each unit says over the data, per group (units, samples, values): as its consumers read it.

        With ``made`` as its producers make it, before any activation function. Groups whose consumers (producers) are
        no dense or convolution layers are left out.
        """
        sides = (False,) if made else (True, False)
        taps = {name: tap for name in groups if (tap := self._tap(wiring.group(name), wiring, sides)) is not None}
        seen: dict[str, list[Any]] = {name: [] for name in taps}
        handles = []
        for name, (module, before, axis, index) in taps.items():
            keep = self._keeper(seen[name], before, axis, index)
            handles.append(module.register_forward_pre_hook(keep) if before else module.register_forward_hook(keep))
        try:
            self.call(None if state is None else self.weights(state))
        finally:
            for h in handles:
                h.remove()
        return {n: np.concatenate(parts, axis=2) for n, parts in seen.items() if _alike(parts)}

    def _keeper(self, kept: list[Any], before: bool, axis: int, index: NDArray[np.int64]) -> Any:
        positions = self._torch.as_tensor(index.ravel())

        def keep(_module: Any, inputs: Any, output: Any = None) -> None:
            value = inputs[0] if before else output
            picked = value.movedim(axis, 0)[positions]  # (units * k, samples, ...)
            n, k = index.shape
            samples = picked.shape[1] if picked.ndim > 1 else 1
            rest = picked.shape[2:].numel() if picked.ndim > 2 else 1
            picked = picked.reshape(n, k, samples, rest)
            kept.append(as_array(picked.movedim(1, 2).reshape(n, samples, k * rest)).copy())

        return keep

    def _tap(
        self, group: Group, wiring: Wiring, sides: tuple[bool, ...]
    ) -> tuple[Any, bool, int, NDArray[np.int64]] | None:
        modules = dict(self.module.named_modules())
        for before in sides:
            for m in group.consumers if before else group.producers:
                if m.where is not None or len(m.roles) > 1:
                    continue
                for name in wiring.names_of(m.tensor):
                    module = modules.get(name.rpartition(".")[0])
                    axis = None if module is None else self._unit_axis(module)
                    if module is not None and axis is not None and name.endswith("weight"):
                        return module, before, axis, m.index
        return None

    def _unit_axis(self, module: Any) -> int | None:
        nn = self._torch.nn
        if isinstance(module, nn.Linear):
            return -1
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and module.groups == 1:
            return 1
        return None


def _alike(parts: list[NDArray[Any]]) -> bool:
    return len({p.shape[:2] for p in parts}) == 1 and parts[0].size > 0


def _tensors(out: Any) -> Iterator[Any]:
    if hasattr(out, "is_floating_point"):
        yield out
    elif getattr(out, "logits", None) is not None:  # a Hugging Face output also carries caches and hidden states
        yield out.logits
    elif getattr(out, "last_hidden_state", None) is not None:
        yield out.last_hidden_state
    elif isinstance(out, Mapping):
        for value in out.values():
            yield from _tensors(value)
    elif isinstance(out, (tuple, list)):
        for value in out:
            yield from _tensors(value)

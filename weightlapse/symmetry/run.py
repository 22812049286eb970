"""Running a module on data with other weights: outputs, losses, and what reaches each unit. Needs torch; nothing is changed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument, missing_extra
from weightlapse.symmetry.states import bare
from weightlapse.wiring.data import Group, Wiring


def torch_module() -> Any:
    """The torch package, or the error that says how to install it."""
    try:
        import torch
    except ImportError:
        raise missing_extra("torch", extra="torch", purpose="running a network on data") from None
    return torch


@dataclass(frozen=True)
class Data:
    """Inputs as positional tensors with the samples on axis 0, and integer labels when there are any."""

    inputs: tuple[Any, ...]
    labels: Any = None

    @property
    def rows(self) -> int:
        return int(self.inputs[0].shape[0])

    def head(self, n: int) -> Data:
        """The first ``n`` samples."""
        cut = tuple(x[:n] if x.ndim and x.shape[0] == self.rows else x for x in self.inputs)
        return Data(cut, None if self.labels is None else self.labels[:n])


def data_of(data: Any) -> Data:
    """``x``, a tuple of positional inputs, or ``(inputs, labels)`` where labels are integers, one for each sample.

    Raises InvalidArgument for anything without samples.
    """
    torch = torch_module()
    if isinstance(data, Data):
        return data
    labels = None
    if isinstance(data, tuple) and len(data) == 2 and _is_labels(data[1], data[0]):
        data, labels = (
            data[0],
            torch.as_tensor(np.asarray(data[1]) if not hasattr(data[1], "detach") else data[1]).long(),
        )
    parts = data if isinstance(data, tuple) else (data,)
    inputs = tuple(x.detach().cpu() if hasattr(x, "detach") else torch.as_tensor(np.asarray(x)) for x in parts)
    if not inputs or not inputs[0].ndim or inputs[0].shape[0] == 0:
        raise InvalidArgument(
            "data holds no samples: pass an array of inputs with at least one row, or (inputs, labels)"
        )
    return Data(inputs, labels)


def _is_labels(y: Any, x: Any) -> bool:
    shape = getattr(y, "shape", None)
    if shape is None:
        y = np.asarray(y)
        shape = y.shape
    kind = "i" if str(y.dtype).rpartition(".")[2].startswith(("int", "uint")) else "?"
    first = x[0] if isinstance(x, (tuple, list)) and len(x) and hasattr(x[0], "shape") else x
    rows = getattr(first, "shape", (None,))
    return kind == "i" and len(shape) == 1 and len(rows) >= 1 and rows[0] == shape[0]


class Runner:
    """A private copy of a module, in evaluation mode and in float64 where the module allows it."""

    def __init__(self, module: Any, data: Data) -> None:
        torch = torch_module()
        self._torch = torch
        module = bare(module)
        self._original = module
        try:
            self.module = copy.deepcopy(module).cpu().eval()
            self._private = True
        except (RuntimeError, TypeError, NotImplementedError):  # tensors that are computed cannot be copied
            self.module, self._private = module, False
        self.dtype = torch.float64 if self._private and self._runs_in_double(data) else None
        self.data = Data(tuple(self._cast(x) for x in data.inputs), data.labels)

    def _runs_in_double(self, data: Data) -> bool:
        torch = self._torch
        probe = copy.deepcopy(self.module).double()
        try:
            with torch.no_grad():
                probe(*(x.double() if x.is_floating_point() else x for x in data.head(2).inputs))
        except (RuntimeError, TypeError, ValueError):  # the forward code fixes a precision of its own
            return False
        self.module = probe
        return True

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
        """A state as tensors of this copy's precision."""
        torch = self._torch
        out = {}
        for name, value in state.items():
            t = value.detach().cpu() if hasattr(value, "detach") else torch.as_tensor(np.ascontiguousarray(value))
            out[name] = t.to(self.dtype) if self.dtype is not None and t.is_floating_point() else t
        return out

    def call(self, weights: Mapping[str, Any] | None = None, data: Data | None = None) -> Any:
        """What the module returns, with its own or other weights, as one tensor (samples, features)."""
        inputs = self.data.inputs if data is None else tuple(self._cast(x) for x in data.inputs)
        with self._evaluating():
            out = (
                self.module(*inputs)
                if weights is None
                else self._torch.func.functional_call(self.module, dict(weights), inputs)
            )
        return self._flat(out)

    def outputs(self, state: Mapping[str, Any] | None = None, data: Data | None = None) -> NDArray[Any]:
        """The same as an array."""
        return np.asarray(self.call(None if state is None else self.weights(state), data).numpy())

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
        return {n: np.concatenate(parts, axis=2) for n, parts in seen.items() if parts and _alike(parts)}

    def _keeper(self, kept: list[Any], before: bool, axis: int, index: NDArray[np.int64]) -> Any:
        positions = self._torch.as_tensor(index.ravel())

        def keep(_module: Any, inputs: Any, output: Any = None) -> None:
            value = inputs[0] if before else output
            picked = value.movedim(axis, 0)[positions]  # (units * k, samples, ...)
            n, k = index.shape
            picked = picked.reshape(n, k, picked.shape[1] if picked.ndim > 1 else 1, -1)
            kept.append(picked.movedim(1, 2).reshape(n, picked.shape[2], -1).numpy().copy())

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
    return len({p.shape[:2] for p in parts}) == 1


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

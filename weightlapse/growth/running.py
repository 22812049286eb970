"""Two networks run under equal conditions: float64, the same random draws, dropout off, nothing of the caller touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from weightlapse.growth.module import copied, tensors_of

_DROPOUTS = {
    getattr(nn.functional, name)
    for name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
} | {torch.dropout, torch.dropout_, torch.alpha_dropout, torch.feature_dropout}


def prepared(model: nn.Module, precision: torch.dtype) -> nn.Module:
    """A copy in ``precision`` (float64 or float32) whose dropout modules do nothing."""
    twin = copied(model)
    twin = twin.double() if precision == torch.float64 else twin.float()
    for tensor, _ in tensors_of(twin).values():
        if tensor.is_complex():
            tensor.data = tensor.data.to(precision.to_complex())
    for module in twin.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
            module.dropout = 0.0
    return twin


def map_tensors(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """``value`` with every tensor inside its tuples, lists and mappings changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, nn.utils.rnn.PackedSequence):
        return value._replace(data=change(value.data))
    if isinstance(value, tuple):
        changed = [map_tensors(v, change) for v in value]
        return type(value)(*changed) if hasattr(value, "_fields") else type(value)(changed)
    if isinstance(value, list):
        return [map_tensors(v, change) for v in value]
    if isinstance(value, Mapping):
        return {k: map_tensors(v, change) for k, v in value.items()}
    return value


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Every tensor in an output, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [t for v in value.values() for t in tensors_in(v)]
    if isinstance(value, (tuple, list)):
        return [t for v in value for t in tensors_in(v)]
    if is_dataclass(value) and not isinstance(value, type):
        return [t for f in fields(value) for t in tensors_in(getattr(value, f.name))]
    return []


def in_precision(example: Any, precision: torch.dtype) -> Any:
    """``example`` in ``precision``, whole numbers as they are."""

    def changed(t: torch.Tensor) -> torch.Tensor:
        t = t.detach()
        return t.to(precision) if t.is_floating_point() else t.to(precision.to_complex()) if t.is_complex() else t

    return map_tensors(example, changed)


def random_like(example: Any, generator: torch.Generator) -> Any:
    """Random inputs of the same shapes: normal with the example's mean and spread, whole numbers from its range.

    Where that would give the example again (whole numbers that are all alike), they are drawn from 0 to at least 1.
    """
    drawn = map_tensors(example, lambda t: _drawn(t, generator, wider=False))
    pairs = zip(tensors_in(example), tensors_in(drawn), strict=True)
    if all(torch.equal(a, b) for a, b in pairs if a.layout is torch.strided):
        drawn = map_tensors(example, lambda t: _drawn(t, generator, wider=True))
    return drawn


def _drawn(t: torch.Tensor, generator: torch.Generator, *, wider: bool) -> torch.Tensor:
    if t.is_complex() or t.numel() == 0 or t.layout is not torch.strided:
        return t
    if t.is_floating_point():
        spread = t.double().std().item() if t.numel() > 1 else 0.0
        noise = torch.randn(t.shape, generator=generator, dtype=torch.float64) * (spread or 1.0)
        return (noise + t.double().mean().item()).to(device=t.device, dtype=t.dtype)
    low, high = (0, max(1, int(t.max()))) if wider else (int(t.min()), int(t.max()))
    return torch.randint(low, high + 1, t.shape, generator=generator).to(device=t.device, dtype=t.dtype)


def call(model: nn.Module, example: Any) -> Any:
    """The model on one example: a tuple is its positional arguments, a mapping its keyword arguments."""
    example = map_tensors(example, lambda t: t.clone())
    if isinstance(example, tuple) and not hasattr(example, "_fields"):
        return model(*example)
    if isinstance(example, Mapping):
        return model(**example)
    return model(example)


@contextmanager
def same_draws(seed: int = 0) -> Iterator[None]:
    """Seeds torch's generator for the block and puts its state back."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def outputs(model: nn.Module, example: Any, *, train: bool = False, seed: int = 0) -> list[torch.Tensor]:
    """The output tensors of one run without gradients, dropout off. In train mode the buffers move: give a copy."""
    model.train(train)
    with torch.no_grad(), same_draws(seed), _NoDropout():
        return [t.detach() for t in tensors_in(call(model, example))]


class _NoDropout(TorchFunctionMode):
    """Functional dropout does nothing: replicas would drop out apart from each other."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DROPOUTS:
            return args[0] if args else kwargs["input"]
        if func is nn.functional.scaled_dot_product_attention:
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
            kwargs = kwargs | ({"dropout_p": 0.0} if "dropout_p" in kwargs else {})
        return func(*args, **kwargs)


class Precision(TorchDispatchMode):
    """Notes whether anything is computed in less than double precision."""

    low: bool = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise the first use imports torch._dynamo, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for t in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(t, torch.Tensor) and t.is_floating_point() and t.dtype != torch.float64 and t.numel() > 1:
                self.low = True
        return result


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy whose biases, gains, norm statistics and constant tensors are random: at their defaults they hide every error.

    (A forgotten bias shows only where the bias is not zero, a forgotten gain only where it is not one.)
    """
    twin = copied(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, (tensor, _) in tensors_of(twin).items():
            if not tensor.is_floating_point() or tensor.numel() == 0:
                continue
            leaf = name.rpartition(".")[2]
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
            if "running_var" in leaf:
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator, dtype=torch.float64).to(tensor))
            elif "running_mean" in leaf:
                tensor.copy_(0.5 * noise)
            elif isinstance(tensor, nn.Parameter) and (tensor.ndim < 2 or bool((tensor == tensor.flatten()[0]).all())):
                tensor.add_(0.3 * noise)
    return twin

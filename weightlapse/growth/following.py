"""What the network does with the output of one layer: the norm and the activation that follow, however they are called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from weightlapse.growth.running import call, same_draws, tensors_in

_NORMS = ("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm")
_NEUTRAL = ("view", "_unsafe_view", "alias", "detach", "native_dropout", "unsqueeze", "squeeze", "flatten", "_to_copy")


def _hardtanh(_x: Any, low: float = -1.0, high: float = 1.0) -> nn.Module:
    return nn.ReLU6() if (low, high) == (0, 6) else nn.Hardtanh(low, high)


def _clamp(_x: Any, low: Any = None, high: Any = None) -> nn.Module | None:
    if low == 0 and high is None:
        return nn.ReLU()
    return None if low is None or high is None else nn.Hardtanh(float(low), float(high))


def _elu(_x: Any, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> nn.Module:
    if scale != 1:
        return nn.SELU()
    return nn.ELU(alpha) if input_scale == 1 else nn.CELU(1.0 / input_scale)


# aten operator -> the module that does the same, from the operator's arguments
ACTIVATIONS: dict[str, Callable[..., nn.Module | None]] = {
    "relu": lambda _x: nn.ReLU(),
    "hardtanh": _hardtanh,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "threshold": lambda _x, threshold, value: nn.Threshold(threshold, value),
    "tanh": lambda _x: nn.Tanh(),
    "sigmoid": lambda _x: nn.Sigmoid(),
    "gelu": lambda _x, approximate="none": nn.GELU(approximate=approximate),
    "silu": lambda _x: nn.SiLU(),
    "elu": _elu,
    "leaky_relu": lambda _x, slope=0.01: nn.LeakyReLU(slope),
    "softplus": lambda _x, beta=1, threshold=20: nn.Softplus(beta, threshold),
    "hardswish": lambda _x: nn.Hardswish(),
    "hardsigmoid": lambda _x: nn.Hardsigmoid(),
    "mish": lambda _x: nn.Mish(),
    "log_sigmoid_forward": lambda _x: nn.LogSigmoid(),
}


@dataclass
class Following:
    """``last`` is the module whose output the activation takes (the layer, or the norm behind it); ``activation`` a module
    that does the same, None when something else, or more than one thing, happens; ``others`` what else reads the output."""

    last: str
    activation: nn.Module | None = None
    norm: bool = False
    others: list[str] = field(default_factory=list)
    results: list[torch.Tensor] = field(default_factory=list)  # what the activation takes, one per call and example

    @property
    def idempotent(self) -> bool:
        """Whether acting twice is acting once: the condition for an identity layer in between."""
        if self.activation is None:
            return False
        x = torch.randn(4096, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4
        once = self.activation(x.clone())
        return bool(torch.equal(self.activation(once.clone()), once))


def what_follows(model: nn.Module, path: str, examples: Sequence[Any]) -> Following:
    """Watches ``model`` on the examples (eval mode) and says what it does with the output of the module at ``path``."""
    watch = _Watch(path)
    handles = [m.register_forward_hook(watch.module_done(p)) for p, m in model.named_modules()]
    try:
        model.eval()
        with torch.no_grad(), same_draws(), watch:
            for example in examples:
                tensors_in(call(model, example))
    finally:
        for handle in handles:
            handle.remove()
    found = watch.found
    if len(watch.kinds) > 1 or found.others:
        found.others += sorted(watch.kinds) if len(watch.kinds) > 1 else []
        found.activation = None
    return found


class _Watch(TorchDispatchMode):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.found = Following(path)
        self.kinds: set[str] = set()
        self.tracked: dict[int, torch.Tensor] = {}  # holds the tensors: an id must not be used twice
        self.kept: list[Any] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise the first use imports torch._dynamo, which takes seconds

    def module_done(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not isinstance(output, torch.Tensor):
                return
            if path == self.path:
                self.tracked[id(output)] = output
            elif id(output) in self.tracked and not self.path.startswith(f"{path}.") and path:
                self.found.last = path

        return hook

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        mine = [a for a in args if isinstance(a, torch.Tensor) and id(a) in self.tracked]
        name = func.overloadpacket.__name__.removesuffix("_")
        if mine and name in ACTIVATIONS:
            self.found.results.append(mine[0].detach().clone())
        result = func(*args, **kwargs)
        if not mine:
            return result
        if name in ACTIVATIONS:
            self.found.activation = ACTIVATIONS[name](*args, **kwargs)
            self.kinds.add(f"{name}{args[1:]}{kwargs}")
            self.kept.append(self.tracked.pop(id(result), None))  # in place: from here on it is the activated tensor
            self.kept.append(result)
        elif name in _NORMS:
            self.found.norm = True
            self.tracked[id(result[0])] = result[0]
        elif name in _NEUTRAL:
            out = result[0] if isinstance(result, (tuple, list)) else result
            self.tracked[id(out)] = out
        else:
            self.found.others.append(name)
        return result

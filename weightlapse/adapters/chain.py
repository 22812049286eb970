"""A module read as a plain chain of dense layers, where it is one.

Dense chains (`Linear`, activation, `Linear`, ...) have forward and backward passes that can be written as a handful of matrix products,
batched over samples or over whole networks. Everything that has such a fast path asks here whether it applies.
The forward pass is traced, not guessed from the list of submodules, so a chain is found in hand-written modules as well,
and a module that does anything else beside is never taken for one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

ACTIVATIONS = ("identity", "relu", "tanh", "sigmoid")

_MODULES: dict[type[nn.Module], str] = {
    nn.Identity: "identity",
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
}
_FUNCTIONS: dict[Any, str] = {
    torch.relu: "relu",
    F.relu: "relu",
    torch.tanh: "tanh",
    F.tanh: "tanh",
    torch.sigmoid: "sigmoid",
    F.sigmoid: "sigmoid",
}
# What user code may raise when it meets a proxy instead of a tensor: then the module is simply no chain.
_UNTRACEABLE = (
    fx.proxy.TraceError,
    TypeError,
    ValueError,
    RuntimeError,
    AttributeError,
    KeyError,
    IndexError,
    NameError,
)


@dataclass(frozen=True)
class Dense:
    """One dense layer of a chain: the names of its parameters, its sizes, and the activation that follows."""

    weight: str
    bias: str | None
    inputs: int
    outputs: int
    activation: str


@dataclass(frozen=True)
class Chain:
    """Dense layers, one after the other; nothing else happens between input and output."""

    layers: tuple[Dense, ...]

    @property
    def inputs(self) -> int:
        """Size of an input vector, that of the first layer."""
        return self.layers[0].inputs

    @property
    def outputs(self) -> int:
        """Size of an output vector, that of the last layer."""
        return self.layers[-1].outputs

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names in the order weight, bias, weight, bias, ..."""
        return tuple(n for layer in self.layers for n in (layer.weight, layer.bias) if n is not None)


def find_chain(module: nn.Module) -> Chain | None:
    """The dense chain that ``module`` computes, or None where it computes anything else.

    Every floating tensor of the module must belong to the chain, each used once; hooks, parametrisations and
    subclasses of `Linear` disqualify, because a fast path would pass them by.

    >>> find_chain(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1))).names
    ('0.weight', '0.bias', '2.weight', '2.bias')
    """
    if any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in module.modules()):
        return None
    if type(module) is nn.Linear:
        bias = None if module.bias is None else "bias"
        return Chain((Dense("weight", bias, module.in_features, module.out_features, "identity"),))
    try:
        graph = fx.Tracer().trace(module)
    except _UNTRACEABLE:
        return None
    parts = dict(module.named_modules())
    layers: list[Dense] = []
    previous: fx.Node | None = None
    for node in graph.nodes:
        if node.op == "placeholder":
            if previous is not None:
                return None
        elif node.args != (previous,) or any(k != "inplace" for k in node.kwargs):
            return None
        elif node.op == "call_module" and type(parts[node.target]) is nn.Linear:
            linear: Any = parts[node.target]
            prefix = f"{node.target}."
            bias = None if linear.bias is None else prefix + "bias"
            layers.append(Dense(prefix + "weight", bias, linear.in_features, linear.out_features, "identity"))
        elif (name := _activation(node, parts)) is not None:
            if name == "identity":
                pass
            elif not layers or layers[-1].activation != "identity":
                return None
            else:
                last = layers[-1]
                layers[-1] = Dense(last.weight, last.bias, last.inputs, last.outputs, name)
        elif node.op != "output":
            return None
        previous = node
    if not layers:
        return None
    chain = Chain(tuple(layers))
    held = [n for n, _ in module.named_parameters()] + [n for n, _ in module.named_buffers()]
    return chain if sorted(held) == sorted(chain.names) else None


def _activation(node: fx.Node, parts: dict[str, nn.Module]) -> str | None:
    if node.op == "call_module":
        return _MODULES.get(type(parts[str(node.target)]))
    if node.op == "call_function":
        return _FUNCTIONS.get(node.target)
    if node.op == "call_method" and node.target in ("relu", "tanh", "sigmoid"):
        return str(node.target)
    return None


def activate(name: str, z: torch.Tensor) -> torch.Tensor:
    """The activation ``name`` (one of `ACTIVATIONS`) of ``z``."""
    if name == "relu":
        return torch.relu(z)
    if name == "tanh":
        return torch.tanh(z)
    if name == "sigmoid":
        return torch.sigmoid(z)
    return z


def slope(name: str, a: torch.Tensor) -> torch.Tensor | None:
    """Derivative of the activation ``name`` where its value is ``a``; None stands for one everywhere."""
    if name == "relu":
        return (a > 0).to(a.dtype)
    if name == "tanh":
        return 1 - a * a
    if name == "sigmoid":
        return a * (1 - a)
    return None

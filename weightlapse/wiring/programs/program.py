"""A network of another framework as a torch module, so that there is one table of rules, one verifier and one way to run it.

The network is traced by its own framework (a jaxpr, a TensorFlow graph) for the shapes that it is given, and that trace is run
operator by operator with torch, on weights that torch holds under the names they have at home. The translation is not taken on
trust: :meth:`Program.prove` runs both on random weights.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from weightlapse.errors import CannotTrace
from weightlapse.wiring.operators import tensors_among

Arrays = Mapping[str, NDArray[Any]]
_PROVED = 2e-4  # relative; the other framework computes in single precision
_LOW = frozenset({"bfloat16", "float16"})


@dataclass(frozen=True)
class Weight:
    """One array of the network: its name, its value, and whether training changes it by a gradient (else it is a statistic)."""

    name: str
    value: NDArray[Any] | Tensor
    trained: bool = True


class Graph:
    """What a network computes, in the framework it was written in; shared by all copies of a program.

    ``name`` is that of the network, ``names`` are those of its weights, ``dtypes`` (where they are known) those that they have at home. :meth:`run`
    computes it with torch, :meth:`reference` in its own framework.
    """

    __slots__ = ("dtypes", "name", "names")

    def __init__(self, name: str, names: Sequence[str], dtypes: Sequence[Any] = ()) -> None:
        self.name, self.names, self.dtypes = name, list(names), list(dtypes)

    @property
    def low(self) -> bool:
        """Whether a weight is a float of 16 bits at home, so that what the network computes there is rounded to that."""
        return any(str(d) in _LOW for d in self.dtypes)

    def __deepcopy__(self, memo: Any) -> Graph:
        return self

    def arguments(self, example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """One example (a value, a tuple of positional arguments or a mapping of keyword arguments) as a call takes it."""
        if isinstance(example, Mapping):
            return (), dict(example)
        return (tuple(example) if type(example) is tuple else (example,)), {}

    def run(
        self, weights: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any], *, training: bool = False
    ) -> Any:
        raise NotImplementedError

    def reference(self, weights: Arrays, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[NDArray[Any]]:
        raise NotImplementedError


class Program(nn.Module):
    """``graph`` on ``weights``. Trained weights are parameters, statistics buffers; names of pytrees ("layers.0.weight") nest.

    ``graph.run`` gets all of them by name. ``statistics`` are the names of those that no gradient changes. ``input_width`` is how many numbers one
    sample has, where the network says so.
    """

    def __init__(self, graph: Graph, weights: Sequence[Weight], input_width: int | None = None) -> None:
        super().__init__()
        self.graph = graph
        self.input_width = input_width
        self.statistics = frozenset(w.name for w in weights if not w.trained)
        for weight in weights:
            home, leaf = self._home(weight.name)
            value = tensor_of(weight.value)
            if weight.trained:
                home.register_parameter(leaf, nn.Parameter(value, requires_grad=value.is_floating_point()))
            else:
                home.register_buffer(leaf, value)
        self.eval()

    def _home(self, name: str) -> tuple[nn.Module, str]:
        *path, leaf = name.split(".")
        home: nn.Module = self
        for part in path:
            if part not in home._modules:
                home.add_module(part, nn.Module())
            home = home._modules[part]  # type: ignore[assignment]
        return home, leaf

    def under(self, names: Mapping[str, str]) -> Program:
        """The same network with its weights under other names; names that ``names`` lacks stay."""
        graph = copy.copy(self.graph)
        graph.names = [names.get(n, n) for n in graph.names]
        weights = [Weight(names.get(n, n), t.detach(), n not in self.statistics) for n, t in self.named().items()]
        return Program(graph, weights, self.input_width)

    def named(self) -> dict[str, Tensor]:
        """All weights and statistics by name."""
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not (args and kwargs):
            args, kwargs = self.graph.arguments(kwargs or args)
        return self.graph.run(self.named(), args, kwargs, training=self.training)

    def example(self, example: Any) -> Any:
        """One example with its arrays as tensors, in the form in which modules take it: a tuple or a mapping."""
        args, kwargs = self.graph.arguments(example)
        own = next((t.dtype for t in self.named().values() if t.is_floating_point()), torch.float32)

        def given(value: Any) -> Any:
            value = as_tensor(value)
            return value.to(own) if isinstance(value, Tensor) and value.is_floating_point() else value

        return tree_map(given, args) if not kwargs else tree_map(given, dict(kwargs))

    def prove(self, example: Any, seed: int = 0) -> float:
        """The largest relative difference between what torch and the network's own framework compute, on random weights.

        Raises CannotTrace when they do not agree, or when no output is finite.
        """
        args, kwargs = self.graph.arguments(example)
        rng = np.random.default_rng(seed)
        own = self.named()
        drawn = {
            name: torch.from_numpy(np.asarray(drawn_like(name, array_of(t), rng))).to(t.dtype)
            for name, t in own.items()
        }
        expected = self.graph.reference({name: array_of(t) for name, t in drawn.items()}, args, kwargs)
        given = self.example(example)
        args, kwargs = ((), given) if kwargs else (given, {})
        with torch.no_grad():
            result = self.graph.run(drawn, args, kwargs)
        found = list(flat_tensors(result))
        if len(found) != len(expected) or any(tuple(t.shape) != x.shape for t, x in zip(found, expected)):
            raise CannotTrace(
                f"{self.graph.name}: the translated trace returns other shapes than the network; {_REPORT}"
            )
        worst, seen = 0.0, False
        for t, x in zip(found, expected, strict=True):
            x = np.asarray(x)
            if x.dtype.kind not in "fc" and str(x.dtype) not in _LOW:
                continue
            kind = (torch.complex128, np.complex128) if x.dtype.kind == "c" else (torch.float64, np.float64)
            a, b = t.detach().to(kind[0]).numpy(), x.astype(kind[1])
            finite = np.isfinite(b)
            if not np.array_equal(finite, np.isfinite(a)):
                worst = float("inf")
            elif finite.any():
                seen = True
                worst = max(worst, float(np.abs(a - b)[finite].max()) / (float(np.abs(b[finite]).max()) or 1.0))
        if not seen:
            raise CannotTrace(
                f"{self.graph.name} puts out no finite number with random weights, so nothing can be proved"
            )
        if worst > (5e-2 if self.graph.low else _PROVED):
            raise CannotTrace(
                f"{self.graph.name}: its trace, run operator by operator, computes something else than the network (by {worst:.1e} of the "
                f"largest output); {_REPORT}"
            )
        return worst


_REPORT = "one of its operators is translated wrongly. Write its wiring as a spec (Wiring.from_spec), and please report the network"


def drawn_like(name: str, value: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Random numbers in place of a weight: its own plus noise of its spread; variances positive. Whole numbers stay."""
    if value.dtype.kind != "f":
        return value
    noise = rng.standard_normal(value.shape)
    if is_variance(name):
        return (0.5 + np.abs(noise)).astype(value.dtype)
    own = np.nan_to_num(value.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    spread = float(own.std()) if value.size > 1 else 0.0
    return (own + noise * (spread if spread > 0 and value.ndim > 1 else max(spread, 0.3))).astype(value.dtype)


def is_variance(name: str) -> bool:
    """Whether a name is that of a variance, which is never negative: torch's, Keras', Flax' and Equinox' names."""
    leaf = name.replace("/", ".").rpartition(".")[2]
    return "running_var" in name or leaf.endswith("_var") or "variance" in leaf or leaf == "var"


def tensor_of(value: NDArray[Any] | Tensor) -> Tensor:
    """A weight as a tensor of its own, in its dtype, bfloat16 (which NumPy has from ml_dtypes) among them."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if str(value.dtype) == "bfloat16":
        return torch.from_numpy(np.array(value, order="C").view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.array(value))


def array_of(value: Tensor) -> NDArray[Any]:
    """A weight as an array; bfloat16 as float32, which holds it exactly."""
    value = value.detach()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def as_tensor(value: Any) -> Any:
    """Arrays of any framework as tensors of their own; other values as they are."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None))) or not hasattr(value, "__array__"):
        return value
    array = np.asarray(value)
    return tensor_of(array.astype(np.float32) if array.dtype.kind == "V" else array)


def flat_tensors(result: Any) -> list[Tensor]:
    """The tensors of a nested result, in order."""
    if isinstance(result, Mapping):
        return [t for value in result.values() for t in flat_tensors(value)]
    return (
        tensors_among((result,))
        if not isinstance(result, (list, tuple))
        else [t for v in result for t in flat_tensors(v)]
    )

"""The loss on the straight line between two networks: its height above the ends, with and without alignment and repair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.symmetry.runner import Runner
from weightlapse.wiring.data import Wiring


class Height(float):
    """A barrier: the largest rise of the loss above the line between both ends. ``curve`` holds the losses along ``at``."""

    at: NDArray[np.float64]
    curve: NDArray[np.float64]

    def __new__(cls, at: NDArray[np.float64], curve: NDArray[np.float64]) -> Height:
        rise = curve - ((1 - at) * curve[0] + at * curve[-1])
        out = super().__new__(cls, float(rise.max()))
        out.at, out.curve = at, curve
        return out


@dataclass(frozen=True)
class Barrier:
    """Barriers between a and b. Each is a number with its curve: ``barrier.matched``, ``barrier.matched.curve``.

    ``naive``: b as it is. ``matched``: b brought onto a, by ``method``, the better of weight and activation matching.
    ``repaired``: the same with the units' means and variances restored (Jordan et al. 2023, "REPAIR"); None where no
    layer could be repaired. ``measure`` says in words what the loss is; ``methods`` holds the barrier that each method
    reached.
    """

    naive: Height
    matched: Height
    repaired: Height | None
    method: str
    measure: str
    methods: dict[str, Height]


class Line:
    """Losses of the mixtures ``(1 - t) a + t b`` of two states of one module."""

    def __init__(self, runner: Runner, a: Mapping[str, Any]) -> None:
        self.runner = runner
        self.a = runner.weights(a)
        self._torch = runner._torch
        self._end_a = runner.call(self.a)
        self._mixture: dict[str, Any] = {}  # written anew for every point

    @property
    def measure(self) -> str:
        if self.runner.data.labels is not None:
            return "mean cross-entropy on the labels"
        return "squared distance of the output from the mixed outputs of both ends, relative to the outputs' variance"

    def height(self, b: Mapping[str, Any], points: int, fix: Repair | None = None) -> Height:
        """The barrier on ``points`` mixtures, ends included."""
        at = np.linspace(0, 1, points)
        weights_b = self.runner.weights(b)
        end_b = self.runner.call(weights_b)
        return Height(at, np.array([self._loss(float(t), weights_b, end_b, fix) for t in at]))

    def middle(self, b: Mapping[str, Any]) -> float:
        """The rise of the loss half way, which ranks alignments."""
        return float(self.height(b, 3))

    def _loss(self, t: float, b: Mapping[str, Any], end_b: Any, fix: Repair | None) -> float:
        torch = self._torch
        mixed = dict(self.a)
        for n, v in self.a.items():
            if v.is_floating_point() or v.is_complex():
                if n not in self._mixture:
                    self._mixture[n] = torch.empty_like(v)
                mixed[n] = torch.lerp(v, b[n].to(v.dtype), t, out=self._mixture[n])
        if fix is None or t in (0.0, 1.0):
            out = self.runner.call(mixed)
        else:
            with fix.at(t):
                out = self.runner.call(mixed)
        labels = self.runner.data.labels
        if labels is not None:
            return float(torch.nn.functional.cross_entropy(out, labels))
        goal = torch.lerp(self._end_a, end_b, t)
        spread = (self._end_a.var(0, unbiased=False) + end_b.var(0, unbiased=False)).mean() / 2
        return float(((out - goal) ** 2).mean() / spread) if float(spread) > 0 else float(((out - goal) ** 2).mean())


class Repair:
    """Restores, layer by layer, the mean and variance that each unit has in the two ends.

    Averaging aligned but imperfectly correlated units loses variance in every layer; scaling each unit's
    pre-activation so that its mean and standard deviation lie on the line between both ends' takes it back.
    """

    def __init__(self, line: Line, b: Mapping[str, Any], wiring: Wiring) -> None:
        self._torch = line._torch
        self._layers = self._found(line.runner, wiring)
        self._ends = [self._statistics(line.runner, w) for w in (line.a, line.runner.weights(b))]

    @property
    def layers(self) -> int:
        return len(self._layers)

    def _found(self, runner: Runner, wiring: Wiring) -> dict[str, tuple[Any, int]]:
        nn = self._torch.nn
        norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
        named = dict(runner.module.named_modules())
        out: dict[str, tuple[Any, int]] = {}
        for g in wiring.groups:
            followed = [m for m in g.members if m.roles & {"mul", "add"} and _owner(m.tensor) in named]
            by_norm = [m for m in followed if isinstance(named[_owner(m.tensor)], norms)]
            for m in by_norm or g.producers:
                module = named.get(_owner(m.tensor))
                if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *norms)):
                    out[_owner(m.tensor)] = (module, -1 if isinstance(module, nn.Linear) else 1)
        return out

    def _statistics(self, runner: Runner, weights: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        seen: dict[str, tuple[Any, Any]] = {}

        def look(name: str, value: Any, axis: int) -> Any:
            seen[name] = self._moments(value, axis)
            return None

        with self._hooks(look):
            runner.call(weights)
        return seen

    @contextmanager
    def at(self, t: float) -> Iterator[None]:
        """Within: the mixture at t runs with its statistics restored."""

        def restore(name: str, value: Any, axis: int) -> Any:
            if name not in self._ends[0]:
                return None
            (mean_a, std_a), (mean_b, std_b) = (end[name] for end in self._ends)
            mean, std = self._moments(value, axis)
            goal_mean, goal_std = (1 - t) * mean_a + t * mean_b, (1 - t) * std_a + t * std_b
            gain = self._torch.where(std > 1e-12, goal_std / std.clamp_min(1e-12), self._torch.ones_like(std))
            moved = value.movedim(axis, -1)
            return ((moved - mean) * gain + goal_mean).movedim(-1, axis)

        with self._hooks(restore):
            yield

    def _moments(self, value: Any, axis: int) -> tuple[Any, Any]:
        flat = value.movedim(axis, -1).reshape(-1, value.shape[axis])
        return flat.mean(0), flat.std(0, unbiased=False)

    @contextmanager
    def _hooks(self, act: Any) -> Iterator[None]:
        handles = []
        for name, (module, axis) in self._layers.items():

            def hook(_m: Any, _inputs: Any, output: Any, *, name: str = name, axis: int = axis) -> Any:
                return act(name, output, axis)

            handles.append(module.register_forward_hook(hook))
        try:
            yield
        finally:
            for h in handles:
                h.remove()


def _owner(tensor: str) -> str:
    return tensor.rpartition(".")[0]

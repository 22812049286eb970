"""``wl.compare``: are these two networks the same? One verdict, and the numbers behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.arguments import renamed, search_seed
from weightlapse.errors import CannotAlign, CannotTrace, VacuousComparison
from weightlapse.symmetry.align import solved
from weightlapse.symmetry.alignment import Alignment, given_back
from weightlapse.symmetry.barrier import Barrier, Line, Repair
from weightlapse.symmetry.candidate import Candidate
from weightlapse.symmetry.checks import check_values
from weightlapse.symmetry.cka import cka
from weightlapse.symmetry.identify import Identifiability, fresh, identifiability
from weightlapse.symmetry.nets import Nets, traced
from weightlapse.symmetry.problem import Problem
from weightlapse.symmetry.reducible import Health, inspect
from weightlapse.symmetry.runner import Data, Runner
from weightlapse.symmetry.states import as_array, distance, float_arrays, parameter_names
from weightlapse.symmetry.verdict import Comparison, Verdict
from weightlapse.symmetry.widths import differ_in_width
from weightlapse.wiring.arrays import in_full_precision
from weightlapse.wiring.data import Wiring

# Fresh inputs: as many as have about so many outputs, for the outputs of language models are larger than their layers.
_FRESH_NUMBERS = 2**22
_FRESH_AT_LEAST = 8


@renamed("0.3", tolerance="agree")
def compare(
    a: Any,
    b: Any,
    wiring: Wiring | None = None,
    *,
    data: Any = None,
    agree: float = 1e-5,
    points: int = 11,
    seed: int | None = 0,
    device: Any = None,
) -> Comparison:
    """Say whether two networks are the same, and in what sense.

    a, b: torch modules, Keras models, Flax NNX or Equinox modules; or mappings of names to arrays, recordings and paths, as ``wl.align`` takes them (then only
    their weights are compared). wiring: of a; a recording's, or traced when a module and ``data`` are given. data: inputs, samples first, or
    ``(inputs, integer labels)``. agree: the relative distance below which weights, and functions, count as equal. points: mixtures on the line
    between the networks, for the barrier; 0 leaves it out. seed: of random inputs and starts; None is 0. device: where weights are aligned, as in ``wl.align``.

    Raises VacuousComparison when the outputs of both are constant on the data: then any two dead networks are equal; CannotAlign,
    naming the tensor, when a weight is NaN or Inf, or has no values (meta device).

    >>> import numpy as np, weightlapse as wl
    >>> w = wl.Wiring.from_spec('''
    ... tensor a.weight (2, 1)
    ... tensor b.weight (1, 2)
    ... group a: 2 units, permutation
    ...   a.weight[0]: out
    ...   b.weight[1]: in
    ... ''')
    >>> x = {"a.weight": np.array([[1.0], [2.0]]), "b.weight": np.array([[3.0, 4.0]])}
    >>> y = {"a.weight": np.array([[2.0], [1.0]]), "b.weight": np.array([[4.0, 3.0]])}
    >>> wl.compare(x, y, w).verdict
    'same up to symmetry'
    """
    nets = Nets.of(a, b, wiring=wiring, data=data, device=device)
    found = _Comparing(nets, agree, points, search_seed(seed)).result()
    return found if found.alignment is None else replace(found, alignment=given_back(found.alignment, nets))


class _Comparing:
    """One comparison under way: states, runners and notes that its steps share."""

    def __init__(self, nets: Nets, tolerance: float, points: int, seed: int) -> None:
        self.a, self.b = nets.a, nets.b
        self.states = (self.a.state, self.b.state)
        for n in (self.a, self.b):
            check_values(n.state, n.which)
        for n in (self.a, self.b):
            n.check_weights(nets.wiring)
        self.tolerance, self.points, self.seed = tolerance, points, seed
        self.data = nets.data
        self.notes: list[str] = []
        self.runners: tuple[Runner | None, Runner | None] = (None, None)
        if self.data is not None:
            self.runners = tuple(Runner(n.net, self.data) if n.runs else None for n in (self.a, self.b))  # type: ignore[assignment]
        if None in self.runners:
            self.notes.append(
                "the networks were not run (that needs modules and data), so their functions were not compared"
            )
        self.wiring = nets.wiring if nets.wiring is not None else self._traced()
        self.wiring_b = self._traced_b()
        self.nets = replace(nets, wiring=self.wiring, data=None if None in self.runners else self.data)

    def _traced(self) -> Wiring | None:
        if self.data is None or not (self.a.runs or self.b.runs):
            self.notes.append("without a wiring the order of hidden units stays as it is")
            return None
        try:
            return traced((self.a.net, self.b.net), self.data)
        except CannotTrace as error:
            self.notes.append(f"the hidden units were not aligned: {error}")
            return None

    def result(self) -> Comparison:
        function, elsewhere = self._functions()
        raw = self._raw_distance()
        found = self._aligned()
        aligned = found.distance_after if found is not None else raw
        health = self._health()
        return Comparison(
            self._verdict(function, raw, found),
            function,
            elsewhere,
            raw,
            aligned,
            self._live(health),
            [r for h in health if h is not None for r in h.reducible],
            self._identifiable(),
            self._barrier(found) if raw is not None else None,
            self._cka(found),
            found,
            tuple(self.notes),
            self.tolerance,
        )

    # ---- functions -----------------------------------------------------------------------------------------------

    def _functions(self) -> tuple[float | None, float | None]:
        run_a, run_b = self.runners
        if run_a is None or run_b is None or self.data is None:
            return None, None
        outputs = run_a.outputs(), run_b.outputs()
        if all(_constant(y) for y in outputs):
            raise VacuousComparison(
                "both networks give the same output for every input of the data, so the comparison could only come out "
                "by chance: they may be dead (all ReLU units off), or the data holds a single sample; "
                "use other data, or look at the weights with wl.compare of both state dicts"
            )
        if outputs[0].shape != outputs[1].shape:
            self.notes.append(f"the outputs have different shapes, {outputs[0].shape} and {outputs[1].shape}")
            return float("inf"), None
        rows = max(_FRESH_AT_LEAST, min(max(self.data.rows, 64), 512, _FRESH_NUMBERS // max(outputs[0].shape[1], 1)))
        other = fresh(self.data, rows, self.seed)
        return _relative(*outputs), self._elsewhere(run_a, run_b, other)

    def _elsewhere(self, run_a: Runner, run_b: Runner, data: Data) -> float | None:
        try:
            outputs = run_a.outputs(data=data), run_b.outputs(data=data)
        except (RuntimeError, ValueError, IndexError) as error:
            self.notes.append(f"the networks do not run on random inputs ({str(error).splitlines()[0]})")
            return None
        return None if all(_constant(y) for y in outputs) else _relative(*outputs)

    # ---- weights -------------------------------------------------------------------------------------------------

    def _raw_distance(self) -> float | None:
        a, b = self.states
        if differ_in_width(a, b):
            self.notes.append("the networks have layers of different widths")
            return None
        if set(a) != set(b) or any(tuple(a[n].shape) != tuple(b[n].shape) for n in a):
            self.notes.append("the networks have different tensors, so their weights are not compared one by one")
            return None
        x, y = (float_arrays(s, parameter_names(a, self.wiring)) for s in (a, b))
        return distance(x, y)

    def _aligned(self) -> Alignment | None:
        if self.wiring is None or set(self.states[0]) != set(self.states[1]):
            return None
        try:
            with in_full_precision(self.nets.device):
                return solved(Problem.of(self.nets, seed=self.seed, wiring_b=self.wiring_b, merge=self.tolerance))
        except CannotAlign as error:
            self.notes.append(f"the hidden units were not aligned: {error}")
            return None

    def _traced_b(self) -> Wiring | None:
        """The second network's own wiring, where its widths differ; without it the first one's serves both."""
        if self.wiring is None or not differ_in_width(*self.states) or self.runners[1] is None or self.data is None:
            return None
        try:
            return traced((self.b.net,), self.data)
        except CannotTrace as error:
            self.notes.append(f"the second network could not be traced: {error}")
            return None

    def _verdict(self, function: float | None, raw: float | None, found: Alignment | None) -> Verdict:
        same_function = function is None or function <= self.tolerance
        # weights that agree to the tolerance may still differ a little more in their outputs
        near_function = function is None or function <= 100 * self.tolerance
        if raw is not None and near_function:
            if same_function and _equal(*self.states):
                return "identical"
            after = self.states[1] if found is None else found.state
            if (raw if found is None else found.distance_after) <= self.tolerance and self._rest_agrees(after):
                return "same up to symmetry"
        if function is not None and same_function:
            return "same function on the data"
        return "different"

    def _rest_agrees(self, state: Mapping[str, Any]) -> bool:
        """Whether running statistics, which no distance counts, agree too."""
        counted = set(parameter_names(self.states[0], self.wiring))
        x, y = (float_arrays({n: v for n, v in s.items() if n not in counted}) for s in (self.states[0], state))
        return distance(x, y) <= max(self.tolerance, 1e-4)

    # ---- units ---------------------------------------------------------------------------------------------------

    def _health(self) -> tuple[Health | None, Health | None]:
        out: list[Health | None] = [None, None]
        if self.wiring is not None:
            for i, (name, state, w) in enumerate(zip("ab", self.states, (self.wiring, self.wiring_b or self.wiring))):
                if all(tuple(state[t].shape) == tuple(s) for t, s in w.shapes.items() if t in state) and all(
                    m.tensor in state for g in w.groups for m in g.members if m.roles != {"stat"}
                ):
                    out[i] = inspect(name, float_arrays(state), w, self.runners[i], state)
        return out[0], out[1]

    def _live(self, health: tuple[Health | None, Health | None]) -> dict[str, tuple[int, int]]:
        a, b = health
        if a is None or b is None:
            return {}
        return {g: (a.live[g], b.live[g]) for g in a.live if g in b.live}

    def _identifiable(self) -> tuple[Identifiability | None, Identifiability | None]:
        a, b = (None if r is None else identifiability(r) for r in self.runners)
        return a, b

    def _cka(self, found: Alignment | None) -> dict[str, float | None]:
        run_a, run_b = self.runners
        if run_a is None or run_b is None or self.wiring is None or found is None:
            return {}
        names = [g.name for g in self.wiring.groups if g.parent is None]
        of_b = self.wiring_b if differ_in_width(*self.states) else self.wiring
        if of_b is None:  # positions of a's units are other units in b
            return {}
        said_a = run_a.units(self.wiring, names)
        said_b = run_b.units(of_b, [n for n in names if of_b.find(n) is not None])
        return {n: cka(_samples(said_a[n]), _samples(said_b[n])) for n in said_a if n in said_b}

    # ---- barrier -------------------------------------------------------------------------------------------------

    def _barrier(self, found: Alignment | None) -> Barrier | None:
        run_a = self.runners[0]
        if run_a is None or self.runners[1] is None or self.points < 3:
            return None
        a, b = self.states
        swapped = run_a.outputs(b)
        if not np.allclose(
            swapped, self.runners[1].outputs(), rtol=1e-5, atol=1e-8 + 1e-6 * float(np.abs(swapped).max())
        ):
            self.notes.append("a's code with b's weights is not b, so there is no line between the two networks")
            return None
        line = Line(Runner(self.a.net, run_a.data, double=False), a)
        naive = line.height(b, self.points)
        if found is None or self.wiring is None:
            return Barrier(naive, naive, None, "none", line.measure, {})

        def moved_by(c: Candidate) -> dict[str, Any]:
            assert self.wiring is not None
            return found.state if c.elements is found.elements else c.elements.on_state(b, self.wiring)

        heights = [line.height(moved_by(c), self.points) for c in found.candidates]
        best = int(np.argmin(heights))
        moved = moved_by(found.candidates[best])
        method = found.candidates[best].method
        methods = {c.method: h for c, h in zip(found.candidates, heights)}
        repair = Repair(line, moved, self.wiring)
        repaired = line.height(moved, self.points, repair) if repair.layers else None
        return Barrier(naive, heights[best], repaired, method, line.measure, methods)


def _samples(value: NDArray[Any], most: int = 1000) -> NDArray[Any]:
    """(units, samples, values) as one row of features for each sample."""
    step = -(-value.shape[1] // most)
    flat = value[:, ::step].transpose(1, 0, 2)
    if flat.shape[1] * flat.shape[2] > 8192:  # the mean over positions keeps the gram matrix cheap
        flat = flat.mean(axis=2, keepdims=True)
    return flat.reshape(len(flat), -1)


def _constant(y: NDArray[Any]) -> bool:
    return bool(
        (np.ptp(y, axis=0 if len(y) > 1 else 1) <= 1e-12 * max(float(np.abs(y).max(initial=0.0)), 1e-300)).all()
    )


def _relative(x: NDArray[Any], y: NDArray[Any]) -> float:
    spread = float(np.sqrt(np.mean(np.square(x - x.mean(axis=0)))))
    spread = spread or float(np.sqrt(np.mean(np.square(y - y.mean(axis=0)))))
    return float(np.sqrt(np.mean(np.square(x - y)))) / spread if spread else float("inf")


def _equal(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    for n in a:
        x, y = as_array(a[n]), as_array(b[n])
        if x.dtype != y.dtype or not np.array_equal(x, y, equal_nan=x.dtype.kind in "fc"):
            return False
    return True

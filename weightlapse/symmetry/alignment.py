"""The result of aligning one network with another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument
from weightlapse.symmetry.candidate import Candidate
from weightlapse.symmetry.choose import Choice
from weightlapse.symmetry.elements import Elements
from weightlapse.symmetry.judge import Judged
from weightlapse.symmetry.nets import Nets
from weightlapse.symmetry.problem import Problem
from weightlapse.symmetry.states import as_array, distance, float_arrays, parameter_names
from weightlapse.symmetry.widths import Correspondence
from weightlapse.symmetry.with_bases import WithBases
from weightlapse.wiring.data import Wiring


@dataclass(frozen=True)
class Alignment:
    """b brought onto a.

    ``state``: b's weights in a's order of units, arrays or tensors as b's were. ``permutations``, ``signs``, ``scales``:
    per group, what was done: unit u of ``state`` is b's unit ``permutations[g][u]``, times sign and scale; groups nested
    in units are moved after the unit that holds them. ``distance_before``, ``distance_after``: ``||A - B|| / ||A||`` over
    all parameters together, running statistics left out.
    ``rotations`` and ``gauges``: the bases of streams and heads that were changed. ``method``: how the best result was found. ``function_error``:
    the largest change of b's output on the data, relative to its size; None when b was not run. ``tried``: the distance
    (with data: the rise of the loss half way) that each method reached; ``candidates`` their elements. ``notes``: what
    else to know. ``names``: where b's tensors bear other names than a's (layers that Keras numbers on), a's name -> b's; ``state`` has b's.
    ``units``: for networks of different widths, who corresponds to whom in each group; there ``state`` has
    a's shapes when every unit of b found a partner, else those of the larger.
    """

    state: dict[str, Any] = field(repr=False)
    permutations: dict[str, NDArray[np.int64]] = field(repr=False)
    signs: dict[str, NDArray[np.float64]] = field(repr=False)
    scales: dict[str, NDArray[np.float64]] = field(repr=False)
    distance_before: float
    distance_after: float
    method: str
    function_error: float | None
    wiring: Wiring = field(repr=False)
    elements: Elements = field(repr=False)
    tried: dict[str, float] = field(default_factory=dict, repr=False)
    candidates: tuple[Candidate, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()
    units: dict[str, Correspondence] = field(default_factory=dict, repr=False)
    names: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def rotations(self) -> dict[str, NDArray[np.float64]]:
        """For each stream that was turned the orthogonal matrix (units, units): ``state`` holds ``Q @`` b's numbers, gains folded."""
        return self._matrices(heads=False)

    @property
    def gauges(self) -> dict[str, NDArray[np.float64]]:
        """For each other basis that was changed (values, queries of a head) its matrix, in b's numbering of heads; see ``wiring.bases``."""
        return self._matrices(heads=True)

    def _matrices(self, heads: bool) -> dict[str, NDArray[np.float64]]:
        if not isinstance(self.elements, WithBases):
            return {}
        turned = {b.name for b in self.wiring.bases if b.turns}
        return {
            n.removeprefix("basis of "): m
            for n, m in self.elements.matrices.items()
            if (n not in turned) is heads and not np.array_equal(m, np.eye(len(m)))
        }

    def apply(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The same relabelling of another state of b, say an earlier step of its training.

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
        >>> wl.align(x, y, w).apply(y)["b.weight"].tolist()
        [[3.0, 4.0]]
        """
        if self.units:
            raise InvalidArgument(
                "an alignment of networks of different widths is no relabelling, so it serves one state only"
            )
        theirs = {name: mine for mine, name in self.names.items()}
        moved = self.elements.on_state({theirs.get(n, n): v for n, v in state.items()}, self.wiring)
        return {self.names.get(n, n): v for n, v in moved.items()}

    def __str__(self) -> str:
        moved = sum(not np.array_equal(p, np.arange(len(p))) for p in self.permutations.values())
        turned, heads = len(self.rotations), len(self.gauges)
        more = f", {turned} stream{'s' * (turned != 1)} turned" if turned else ""
        more += f", {heads} head{'s' * (heads != 1)} in other bases" if heads else ""
        return (
            f"aligned by {self.method}: distance {self.distance_before:.3g} -> {self.distance_after:.3g}, "
            f"{moved} of {len(self.permutations)} groups reordered{more}"
        )


def alignment_of(problem: Problem, choice: Choice, judged: Judged) -> Alignment:
    """The result of a problem: the choice, and b's state as it is given back."""
    elements, sizes = choice.best.elements, problem.sizes
    names = parameter_names(problem.state_a, problem.wiring)
    a = float_arrays(problem.state_a, names, problem.device)
    b, moved = (float_arrays(s, a, problem.device) for s in (problem.state_b, judged.moved))
    units = {} if sizes is None else sizes.units(elements)
    notes = problem.notes + choice.notes + judged.notes + (() if sizes is None else sizes.notes(units))
    return Alignment(
        state=judged.state,
        permutations=elements.order,
        signs={n: np.sign(f) for n, f in elements.factor.items()},
        scales={n: np.abs(f) for n, f in elements.factor.items()},
        distance_before=distance(a, b) if sizes is None else sizes.apart(names),
        distance_after=distance(a, moved),
        method=choice.best.method,
        function_error=judged.error,
        wiring=problem.wiring,
        elements=elements,
        tried=choice.tried,
        candidates=tuple(replace(c, moved=None) for c in choice.candidates),
        notes=notes,
        units=units,
    )


def given_back(found: Alignment, nets: Nets) -> Alignment:
    """An alignment with b's state as b came: under its own names, in the arrays of its own framework."""
    if not nets.own and not nets.b.foreign:
        return found
    state = {nets.own.get(n, n): _array(v) if nets.b.foreign else v for n, v in found.state.items()}
    return replace(found, state=state, names=dict(nets.own))


def _array(value: Any) -> Any:
    return np.array(as_array(value)) if hasattr(value, "detach") else value

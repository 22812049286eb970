"""Does the function stay? The moves undone, what no basis may change, and b itself, run before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from weightlapse.errors import CannotAlign
from weightlapse.symmetry.candidate import Candidate
from weightlapse.symmetry.invariants import check_invariants
from weightlapse.symmetry.problem import Problem
from weightlapse.symmetry.runner import Runner
from weightlapse.symmetry.states import as_array, short_floats
from weightlapse.symmetry.widths import OneSize, differ_in_width
from weightlapse.symmetry.with_bases import WithBases
from weightlapse.wiring.arrays import at_home

_SAMPLE = 4_000_000  # numbers that are moved back to see whether that is possible


@dataclass(frozen=True)
class Judged:
    """``moved``: b's state where the element brings it, in the problem's size; ``state``: the same as it is given back. ``error``: the largest
    change of the outputs, relative to their size; None where nothing was run."""

    moved: Mapping[str, Any] = field(repr=False)
    state: dict[str, Any] = field(repr=False)
    error: float | None
    notes: tuple[str, ...] = ()


def judge(problem: Problem, found: Candidate) -> Judged:
    """What a candidate makes of b. Raises CannotAlign where it would not compute the same."""
    b, sizes = problem.nets.b, problem.sizes
    moved = problem.moved(found.elements) if found.moved is None else found.moved
    if sizes is not None:
        state = sizes.given_back(moved)
        return Judged(moved, state, _folded_function(problem, sizes, state))
    notes: tuple[str, ...] = ()
    if problem.short and any(moved[n].dtype != v.dtype for n, v in problem.state_b.items()):
        notes = (
            f"what is written in another basis is given in float32: rounded to {problem.short} it would compute a little else; "
            "symmetries=('permutation', 'sign') moves without rounding",
        )
    _check_undone(problem, found, moved)
    error = _function(problem, found, moved)
    if b.runs:  # what did not move is the module's own, which later training would change
        moved = {n: v.detach().clone() if v is problem.state_b[n] else v for n, v in moved.items()}
    return Judged(moved, dict(moved), error, notes)


def _function(problem: Problem, found: Candidate, moved: Mapping[str, Any]) -> float | None:
    """How far b with moved weights is from b; where it cannot be run, what no change of basis may change is looked at."""
    b, data = problem.nets.b, problem.nets.data
    if data is None or not b.runs:
        if isinstance(found.elements, WithBases):
            check_invariants(problem.state_b, moved, problem.wiring, problem.device)
        return None
    error, tolerance = function_change(Runner(b.net, data.head(64)), problem.state_b, moved)
    if error > tolerance:
        raise CannotAlign(
            f"moving the units changed what the network computes (by {error:.1e} of its spread): the wiring is not this "
            "network's; trace it on examples that reach every branch"
        )
    return error


def _folded_function(problem: Problem, sizes: OneSize, state: Mapping[str, Any]) -> float | None:
    """How far a's code with b's folded weights is from b."""
    a, b, data = problem.nets.a, problem.nets.b, problem.nets.data
    if data is None or not (a.runs and b.runs) or differ_in_width(a.state, state):
        return None
    few = data.head(64)
    x, y = Runner(b.net, few).outputs(), Runner(a.net, few).outputs(state)
    error = float(np.abs(x - y).max(initial=0.0)) / (float(np.abs(x).max(initial=0.0)) or 1.0)
    if error > max(1e-4, 100 * sizes.merge):
        raise CannotAlign(
            f"folding changed what the second network computes (by {error:.1e} of its outputs): its units are not as "
            "independent as the wiring says, or merge is too large"
        )
    return error


def _check_undone(problem: Problem, found: Candidate, moved: Mapping[str, Any]) -> None:
    """Every move must lead back."""
    elements, state, w = found.elements, problem.state_b, problem.wiring
    if isinstance(elements, WithBases):
        _check_turned_back(problem, elements, moved)
    there, back = elements.placements(state, w), elements.placements(state, w, inverse=True)
    for n, placement in {} if isinstance(elements, WithBases) else there.items():
        undone = back[n].undoes(placement)
        if undone is None:  # slabs of a tensor moved apart: only its numbers tell
            x, y = as_array(state[n]), as_array(back[n](moved[n]))
            undone = np.allclose(x, y, rtol=1e-5 if placement.rescales else 0, atol=0, equal_nan=x.dtype.kind == "f")
        if not undone:
            raise CannotAlign(
                f"the moves that bring the networks together cannot be undone on {n!r}: the wiring gives it to units twice; "
                "trace the network anew, or mend the spec"
            )


def _check_turned_back(problem: Problem, elements: WithBases, moved: Mapping[str, Any]) -> None:
    """Other bases round: what is undone must be what it was, to the precision of the weights."""
    state, w = problem.state_b, problem.wiring
    back = elements.changed(moved, w, inverse=True, device=problem.device)
    names, left = list(back.busy), _SAMPLE
    np.random.default_rng(0).shuffle(names)
    for n in names:
        if left < 0:
            return  # of a large network a sample: what goes wrong, a singular matrix or gain, goes wrong throughout
        name = next(m for m in w.names_of(n) if m in state)
        x, y = as_array(state[name]), at_home(back[n])
        left -= x.size
        low = 1e-4 if x.dtype == np.float32 else 1e-9
        if x.size and not float(np.abs(x - y).max()) <= low * max(float(np.abs(x).max()), 1e-300) * 10:
            raise CannotAlign(
                f"the change of basis that brings the networks together cannot be undone on {n!r} to its precision: a matrix or a "
                "gain of it is nearly singular; align with symmetries=('permutation', 'sign', 'scale')"
            )


def function_change(runner: Runner, before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[float, float]:
    """The largest difference of outputs relative to their size, and how much rounding alone may cause."""
    x, y = runner.outputs_of_new(before), runner.outputs_of_new(after)
    scale = float(np.abs(x).max(initial=0.0)) or 1.0
    low = runner.dtype is None or any(str(as_array(v).dtype) == "float32" for v in before.values())
    rounded = runner.dtype is None and short_floats(before)  # what runs it rounds whatever it is given
    return float(np.abs(x - y).max(initial=0.0)) / scale, 5e-2 if rounded else 1e-3 if low else 1e-8

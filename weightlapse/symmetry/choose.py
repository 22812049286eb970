"""Which of the candidates it is: the nearest one, or with data the one that loses least half way between both networks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from weightlapse.symmetry.barrier import Line
from weightlapse.symmetry.candidate import Candidate
from weightlapse.symmetry.problem import Problem
from weightlapse.symmetry.search import NEAR
from weightlapse.symmetry.solvers import by_activations, by_bases, by_weights

_BACK = 1e-5  # what is found in other bases and is no nearer may be an order that matrices come close to: weight matching looks, too
_EVEN = 1e-12  # an order that is as near as a change of basis is the simpler truth


@dataclass(frozen=True)
class Choice:
    """``best`` of ``candidates``; ``tried``: method -> its distance (judged half way: the rise of the loss there). ``notes``: of all searches."""

    best: Candidate
    candidates: tuple[Candidate, ...]
    tried: dict[str, float]
    notes: tuple[str, ...] = ()


def choose(problem: Problem) -> Choice:
    """The best that the solvers find; a solver is asked only while what there is may be bettered."""
    found = by_bases(problem)
    notes = tuple(note for c in found for note in c.notes)
    best = found[0] if found else None
    if best is None or best.distance > _BACK or best.plain:
        (ordered,) = by_weights(problem)
        best = ordered if best is None or ordered.distance <= best.distance + _EVEN else best
    if best.distance > NEAR and problem.runner is not None:
        return replace(half_way(problem, (best, *by_activations(problem))), notes=notes)
    return Choice(best, (best,), {best.method: best.distance}, notes)


def half_way(problem: Problem, candidates: tuple[Candidate, ...]) -> Choice:
    """The candidate whose mean with a loses least on the data."""
    assert problem.runner is not None
    line = Line(problem.runner, problem.state_a)
    rises = [line.middle(problem.moved(c.elements)) for c in candidates]
    best = replace(candidates[int(np.argmin(rises))], moved=None)
    return Choice(best, candidates, {c.method: rise for c, rise in zip(candidates, rises)})

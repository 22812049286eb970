"""The three ways to solve a problem; each gives what it found, and nothing where it has nothing to work on."""

from __future__ import annotations

from collections.abc import Callable

from weightlapse.symmetry.activations import match_activations
from weightlapse.symmetry.candidate import Candidate
from weightlapse.symmetry.problem import Problem
from weightlapse.symmetry.rebase import Rebase

Solver = Callable[[Problem], tuple[Candidate, ...]]


def by_bases(problem: Problem) -> tuple[Candidate, ...]:
    """Streams and heads in other bases, and the units between them."""
    if not problem.turns:
        return ()
    p = problem
    found = Rebase(p.state_a, p.state_b, p.wiring, p.allowed, p.device).run()
    return () if found is None else (found,)


def by_weights(problem: Problem) -> tuple[Candidate, ...]:
    """Orders, signs and scales, by the weights alone."""
    return (problem.search.by_weights(problem.budget),)


def by_activations(problem: Problem) -> tuple[Candidate, ...]:
    """Units that say the same on the data, and where weight matching goes from there."""
    runner, search = problem.runner, problem.search
    if runner is None:
        return ()
    names = [g.name for g in problem.wiring.groups]
    said_a, said_b = (runner.units(problem.wiring, names, s) for s in (problem.state_a, problem.state_b))
    start = match_activations(search, said_a, said_b)
    return search.fitted(start, "activations"), search.polish(start, "activations, then weights")

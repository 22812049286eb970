"""The search for the best alignment: several starts, descent from each, scales fitted, the nearest result kept.

Starts, cheapest first: forward (each group from weights whose other end is known, input side first), signatures, b as it
is, then restarts: signatures in another order of groups, a partly shuffled best result, a random order. The search ends
early when a result is so near that it must be the one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from weightlapse.symmetry.candidate import Candidate
from weightlapse.symmetry.elements import Elements, identity
from weightlapse.symmetry.match import Matcher
from weightlapse.symmetry.scale import balance, fit_scales, rescaled, scalable
from weightlapse.symmetry.states import Weights, distance
from weightlapse.symmetry.units import units_of
from weightlapse.wiring.arrays import is_single, shape_of
from weightlapse.wiring.data import Wiring

# Unrelated networks of the usual initialisations end near 1; nothing else can be nearer than this.
NEAR = 0.02


@dataclass(frozen=True)
class Budget:
    """How long to look: further random starts ("auto" gives small networks a few), and the seed that they are drawn with."""

    restarts: int | Literal["auto"] = "auto"
    seed: int = 0


ONCE = Budget(restarts=0)


class Search:
    """Looks for the element that brings b's wired tensors onto a's; see `search`."""

    def __init__(self, a: Weights, b: Weights, wiring: Wiring, allowed: frozenset[str]) -> None:
        self.a, self.b, self.wiring, self.allowed = a, b, wiring, allowed
        self.units = {g.name: units_of(g, allowed) for g in wiring.groups}
        groups = list(self.units.values())
        self._scaled = bool(scalable(groups))
        single = any(is_single(v) for v in (a[n] for n in list(a)[:1]))
        self._rounding = 1e-6 if single else 1e-7  # nothing nearer can be told from the same
        self._factor_a = balance(a, groups) if self._scaled else {}
        self._factor_b = balance(b, groups) if self._scaled else {}
        self._flat_a = rescaled(a, groups, self._factor_a)
        self._flat_b = rescaled(b, groups, self._factor_b)
        # what balancing did to b travels with its units, into whichever group a move of their parents brings them
        self._balanced = identity(wiring).times(self._factor_b)
        self._matcher = Matcher(self._flat_a, self._flat_b, wiring, allowed)
        self.best = self.judged(identity(wiring), "as it is")
        self._flat_best = float("inf")

    @cached_property
    def _raw(self) -> Matcher:
        """On the weights as they are; made only when it is needed."""
        return self.matcher() if self._scaled else self._matcher

    def matcher(self) -> Matcher:
        """A matcher that begins with both networks as they are."""
        return Matcher(self.a, self.b, self.wiring, self.allowed)

    def run(self, restarts: int, rng: np.random.Generator) -> Candidate:
        starts: list[tuple[str, Callable[[], None]]] = [
            ("forward", lambda: self._matcher.start(signatures=False)),
            ("signatures", lambda: self._matcher.start(signatures=True)),
            ("as it is", lambda: None),
        ]
        for name, begin in starts:
            if self.near:
                return self.best
            self._matcher.begin(self._flat_b, self._balanced)
            begin()
            self._descend(name)
            if not self.near and self._matcher.unmistakable():
                return self.best
        for i in range(restarts):
            if self.near:
                break
            self._matcher.begin(self._flat_b, self._balanced)
            if i % 3 == 0:  # an unlucky first group misleads all others: another one comes first
                self._matcher.start(signatures=True, rng=rng)
            elif i % 3 == 1:
                self._restart_near(rng)
            else:
                self._matcher.shuffle(rng)
            self._descend("restart", rng)
        return self.best

    def by_weights(self, budget: Budget) -> Candidate:
        """The best result of weight matching; its method names the start that led there."""
        count = automatic_restarts(self.a) if budget.restarts == "auto" else int(budget.restarts)
        found = self.run(count, np.random.default_rng(budget.seed))
        return Candidate(found.elements, found.distance, f"weights, {found.method}")

    @property
    def near(self) -> bool:
        return self.best.distance < NEAR

    def polish(self, elements: Elements, method: str) -> Candidate:
        """Descend from an element on the weights as they are, refitting scales in between; keeps the best ever seen."""
        found = self._snapped(elements, method)
        for _ in range(10):
            if found.distance <= self._rounding:
                break
            step = self.fitted(found.elements, method).elements
            self._raw.begin(step.on_arrays(self.b, self.units), step)
            if not self._raw.unmistakable():
                self._raw.descend()
            after = self.judged(self._raw.at, method)
            if after.distance > found.distance * (1 - 1e-4):
                found = after if after.distance < found.distance else found
                break
            found = after
        if found.distance < self.best.distance:
            self.best = found
        return found

    def _snapped(self, elements: Elements, method: str) -> Candidate:
        """Without the rounding of scales that are really 1, if that is nearer: then equal networks come out equal."""
        plain = {n: np.where(np.abs(np.abs(f) - 1) < 1e-3, np.sign(f), f) for n, f in elements.factor.items()}
        if all(np.array_equal(plain[n], f) for n, f in elements.factor.items()):
            return self.judged(elements, method)
        other = self.judged(Elements(elements.order, plain), method)
        if other.distance == 0:  # no need to look at the other one
            return other
        found = self.judged(elements, method)
        return other if other.distance <= found.distance else found

    def fitted(self, elements: Elements, method: str) -> Candidate:
        """The same order and signs with the scales that fit best."""
        if not self._scaled:
            return self.judged(elements, method)
        moved = elements.on_arrays(self.b, self.units)
        return self.judged(elements.times(fit_scales(self.a, moved, self.units.values())), method)

    def _descend(self, method: str, rng: np.random.Generator | None = None) -> None:
        flat = distance(self._flat_a, self._matcher.b)
        if flat > 1e-6:
            self._matcher.descend(rng=rng)
            flat = distance(self._flat_a, self._matcher.b)
        if flat >= self._flat_best:
            return
        self._flat_best = flat
        at = self.unbalanced(self._matcher.at)
        if self._scaled:
            self.polish(at, method)
        elif flat < self.best.distance:
            self.best = Candidate(at.copy(), flat, method)

    def _restart_near(self, rng: np.random.Generator) -> None:
        signs = Elements(self.best.elements.order, {n: np.sign(f) for n, f in self.best.elements.factor.items()})
        flat = signs.on_arrays(self._flat_b, self.units)
        self._matcher.begin(flat, self.best.elements.times(self._factor_a))
        self._matcher.shuffle(rng, share=0.3)

    def unbalanced(self, at: Elements) -> Elements:
        """What an element found between the balanced networks means between the networks themselves."""
        return at.times({n: 1 / f for n, f in self._factor_a.items()})

    def judged(self, elements: Elements, method: str) -> Candidate:
        """An element with the distance that it leaves."""
        return Candidate(elements, distance(self.a, elements.on_arrays(self.b, self.units)), method)


def automatic_restarts(a: Weights) -> int:
    """As many as take a moment: small networks have more local optima for their size, and are cheap."""
    size = sum(math.prod(shape_of(a, n)) for n in a)
    return 9 if size < 300_000 else 0

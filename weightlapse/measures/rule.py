"""A rule of the doctor: what it looks for, on what evidence, and what it cannot see. The page of the docs is made from these words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from weightlapse.measures.evidence import Evidence
from weightlapse.measures.finding import Finding

Find = Callable[[Evidence], Iterator[Finding]]


@dataclass(frozen=True)
class Rule:
    """``kinds`` of findings it gives, ``found``: when, ``direct``: the evidence that decides, ``blind``: what it cannot see."""

    kinds: tuple[str, ...]
    found: str
    direct: str
    blind: str
    find: Find

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        return self.find(evidence)


def rule(*kinds: str, found: str, direct: str, blind: str) -> Callable[[Find], Rule]:
    """Makes a rule of the generator below it."""
    return lambda find: Rule(kinds, found, direct, blind, find)


def table(rules: tuple[Rule, ...]) -> str:
    """The rules as a Markdown table, a row each."""
    rows = ["| kind | found when | evidence | cannot see |", "|---|---|---|---|"]
    rows += [
        f"| {', '.join(f'`{kind}`' for kind in r.kinds)} | {r.found} | {r.direct} | {r.blind} |".replace("\n", " ")
        for r in rules
    ]
    return "\n".join(rows)

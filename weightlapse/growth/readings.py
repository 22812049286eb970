"""Sizes that code remembers can be read in several ways; the first one with which the network computes the same is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, combinations
from typing import Any

from torch import nn

from weightlapse.errors import CannotGrow
from weightlapse.growth.attributes import Lengths, Setting, guess, set_given
from weightlapse.growth.certificate import Check, Trial
from weightlapse.growth.reasons import culprit

Build = Callable[[nn.Module], tuple[nn.Module, list[Setting]]]
Follow = Callable[[nn.Module], list[Setting]]
Reading = tuple[nn.Module, list[Check], list[Setting]]
_TRIES = 40  # readings with some of the attributes only; each costs a run


def first_reading(
    build: Build,
    model: nn.Module,
    lengths: Lengths,
    trial: Trial,
    limit: float,
    *,
    given: Mapping[str, Any] | None = None,
    own_only: bool = False,
) -> Reading | str:
    """The changed network under the most cautious reading that holds, its checks and settings; or why none holds.

    Careful readings follow only what is plain. The bold ones follow too much, so what they set is taken back wherever the
    network does without; where even that does not run (two attributes that happen to hold the same number), only some are followed.
    ``given`` are attributes that the user set, by path: they stay.
    """
    careful: list[Follow] = [partial(guess, lengths=lengths), lambda _m: []]
    bold: list[Follow] = [
        partial(guess, lengths=lengths, bold=True),
        partial(guess, lengths=lengths, any_name=True),
        partial(guess, lengths=lengths, bold=True, any_name=True),
    ]
    failure = ""
    tried: list[list[str]] = []
    names: dict[str, Any] = {}
    for follow in chain(careful, bold, _some_only(bold, names)):  # the last ones from what the others followed
        changed, known = build(model)
        guessed = follow(changed)
        own = set_given(changed, given or {})
        guessed = [s for s in guessed if not any(s.holder is g.holder and s.name == g.name for g in own)]
        for setting in guessed:
            names.setdefault(setting.name, setting.old)
        if (said := list(map(str, guessed))) in tried:
            continue
        tried.append(said)
        keep = set(said)
        try:
            if follow not in careful and _largest(trial, changed) <= limit:
                keep = _needed(trial, changed, guessed, set(tried[0]), limit)
            checks = trial.checks(partial(_again, build, follow, keep, given or {}), changed, own_only=own_only)
        except CannotGrow as error:
            cause = error.__cause__
            # the most careful failure says most: what was not followed is still there to be named
            failure = failure or str(error) + (culprit(cause, trial.last, lengths) if cause is not None else "")
            continue
        worst = max(checks, key=lambda c: c.error)
        if trial.allows(worst, limit):
            return changed, checks, known + own + [s for s in guessed if str(s) in keep]
        failure = (
            f"the outputs would differ by {worst.error:.1e} "
            f"({worst.mode} mode, {worst.inputs}, {worst.weights} weights); {limit:.1e} is allowed"
        )
    return failure


def _some_only(bold: Sequence[Follow], names: Mapping[str, Any]) -> Iterator[Follow]:
    """The boldest reading with some only of the attributes that hold the same number as another one.

    ``names`` maps every attribute that was ever followed to its old value. One of them is kept, one left out; then two.
    """
    known, values = set(names), [str(v) for v in names.values()]
    doubtful = [n for n, v in names.items() if values.count(str(v)) > 1]
    tries = 0
    for count in (1, 2, 3):
        for some in combinations(doubtful, count):
            for kept in (known - set(doubtful) | set(some), known - set(some)):
                tries += 1
                if tries > _TRIES:
                    return
                yield partial(_only, bold[-1], kept)


def _only(follow: Follow, kept: set[str], changed: nn.Module) -> list[Setting]:
    found = follow(changed)
    for setting in found:
        if setting.name not in kept:
            setting.apply(setting.old)
    return [s for s in found if s.name in kept]


def _again(build: Build, follow: Follow, keep: set[str], given: Mapping[str, Any], source: nn.Module) -> nn.Module:
    changed, _ = build(source)
    for setting in follow(changed):
        if str(setting) not in keep:
            setting.apply(setting.old)
    set_given(changed, given)
    return changed


def _needed(trial: Trial, model: nn.Module, guessed: list[Setting], plain: set[str], limit: float) -> set[str]:
    """Takes back, in place, every setting without which the network still computes the same; returns the others."""
    keep = set()
    for setting in guessed:
        if str(setting) not in plain:
            setting.apply(setting.old)
            try:
                dispensable = _largest(trial, model) <= limit
            except CannotGrow:
                dispensable = False
            if dispensable:
                continue
            setting.apply(setting.new)
        keep.add(str(setting))
    return keep


def _largest(trial: Trial, model: nn.Module) -> float:
    return max(c.error for c in trial.checks(lambda m: m, model, own_only=True))

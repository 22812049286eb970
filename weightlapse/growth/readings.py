"""Sizes that code remembers can be read in several ways; the first one with which the network computes the same is taken."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from weightlapse.errors import CannotGrow
from weightlapse.growth.attributes import Lengths, Setting, guess
from weightlapse.growth.certificate import Check, Trial

Build = Callable[[nn.Module], tuple[nn.Module, list[Setting]]]
Follow = Callable[[nn.Module], list[Setting]]
Reading = tuple[nn.Module, list[Check], list[Setting]]


def first_reading(
    build: Build, model: nn.Module, lengths: Lengths, trial: Trial, limit: float, *, own_only: bool = False
) -> Reading | str:
    """The changed network under the most cautious reading that holds, its checks and settings; or why none holds.

    Careful readings follow only what is plain. The bold ones follow too much, so what they set is taken back wherever the
    network does without.
    """
    careful: list[Follow] = [partial(guess, lengths=lengths), lambda _m: []]
    bold: list[Follow] = [
        partial(guess, lengths=lengths, bold=True),
        partial(guess, lengths=lengths, any_name=True),
        partial(guess, lengths=lengths, bold=True, any_name=True),
    ]
    failure = ""
    tried: list[list[str]] = []
    for follow in careful + bold:
        changed, known = build(model)
        guessed = follow(changed)
        if (said := list(map(str, guessed))) in tried:
            continue
        tried.append(said)
        keep = set(said)
        try:
            if follow in bold and _largest(trial, changed) <= limit:
                keep = _needed(trial, changed, guessed, set(tried[0]), limit)
            checks = trial.checks(partial(_again, build, follow, keep), changed, own_only=own_only)
        except CannotGrow as error:
            failure = str(error)
            continue
        worst = max(checks, key=lambda c: c.error)
        if worst.error <= limit:
            return changed, checks, known + [s for s in guessed if str(s) in keep]
        failure = (
            f"the outputs would differ by {worst.error:.1e} "
            f"({worst.mode} mode, {worst.inputs}, {worst.weights} weights)"
        )
    return failure


def _again(build: Build, follow: Follow, keep: set[str], source: nn.Module) -> nn.Module:
    changed, _ = build(source)
    for setting in follow(changed):
        if str(setting) not in keep:
            setting.apply(setting.old)
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

"""A narrower network that computes the same: units that are dead, constant, unread or doubled are taken out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from weightlapse.arguments import examples_of
from weightlapse.errors import CannotGrow, InvalidArgument
from weightlapse.growth.attributes import Setting, set_true
from weightlapse.growth.cells import Cells
from weightlapse.growth.certificate import Certificate, Check, Trial, live_units
from weightlapse.growth.constants import constant_units, fold_constants
from weightlapse.growth.families import Family, all_families, consumers_of, families_named
from weightlapse.growth.module import changed_tensor, parameter_count, tensors_of, unwrapped, with_tensors
from weightlapse.growth.optimizer import powers_of, rebuilt
from weightlapse.growth.readings import first_reading
from weightlapse.growth.refusals import averages
from weightlapse.growth.result import Growth, Model
from weightlapse.growth.running import base_of, check_finite
from weightlapse.growth.surplus import Surplus, cells_without, merged_moment, merged_value, surplus_of
from weightlapse.growth.tensors import lengths_below, rows_of
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.programs.find import is_foreign


def narrow(
    model: Model,
    *examples: Any,
    example: Any = None,
    groups: Sequence[str] | None = None,
    proven: bool = False,
    optimizer: Any = None,
    wiring: Wiring | None = None,
) -> Growth[Model]:
    """Takes out every unit that the function does not need; the argument is not touched. The inverse of ``widen``, examples as there.

    A unit goes when another one has the same incoming weights (their outgoing weights are added up), when nothing reads it
    (its outgoing weights are zero), or when it is the same for every input tried (examples and random ones, eval and train
    mode): its value then moves into the biases of the layers that read it, nothing at all for a dead ReLU. ``groups`` names
    the groups to look at, all by default. One unit is always left. ``Growth.lineage[group]`` are the old indices of the
    units that stay. Units under a norm that averages over them are left alone.

    A unit that was the same for every input tried may differ on inputs of another kind; the certificate says how many went
    for that reason, and ``proven=True`` keeps them: then only doubled and unread units go, which no input can tell.

    Raises CannotGrow, InvalidArgument and VacuousComparison as ``widen`` does.

    >>> import torch, weightlapse as wl
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    >>> x = torch.randn(16, 4)
    >>> wl.narrow(wl.widen(net, {"0": 12}, x).model, x).model[0].out_features
    8
    """
    examples = examples_of(examples, example)
    if not examples:
        raise InvalidArgument("give at least one example input: the result is certified on it")
    if is_foreign(model):
        from weightlapse.growth.foreign import narrowed

        return narrowed(model, examples, groups=groups, proven=proven, optimizer=optimizer, wiring=wiring)
    model, notes = unwrapped(model)
    check_finite(model)
    if wiring is None:
        from weightlapse.wiring.trace import trace

        wiring = trace(model, *examples)
    families = _families(wiring, groups)
    trial = Trial.of(model, examples)
    found = [surplus_of(model, f, {} if proven else constant_units(trial, f)) for f in families]
    surplus = [s for s in found if len(s.kept) < s.family.size]
    grown, cells, checks, said = _without(model, wiring, surplus, trial)
    if len(surplus) > 1 and checks is None:
        # One family that must not shrink spoils all: keep those that hold alone.
        surplus = [s for s in surplus if _without(model, wiring, [s], trial)[2] is not None]
        grown, cells, checks, said = _without(model, wiring, surplus, trial)
    if checks is None:
        surplus = []
        grown, cells, checks, said = _without(model, wiring, [], trial)
    assert checks is not None
    carried = None
    if optimizer is not None:
        names = {name: name for name in tensors_of(grown)}
        powers = powers_of(optimizer)
        carried = rebuilt(
            optimizer,
            names,
            model,
            grown,
            lambda name, key, value: changed_tensor(name, value, partial(merged_moment, surplus, cells, powers[key])),
        )
    consumers = consumers_of([(s.family, s.family.size) for s in surplus])
    told = [f"{s.family.name}: {count} {why}" for s in surplus for why, count in s.why.items()]
    certificate = Certificate(
        checks=tuple(checks),
        tolerance=_limit(model, trial),
        live=live_units(trial, consumers),
        parameters=(parameter_count(model), parameter_count(grown)),
        notes=(*notes, *trial.notes, *told, *(f"set {s}" for s in said)),
    )
    changes = (
        ", ".join(f"{s.family.name} {s.family.size} -> {len(s.kept)}" for s in surplus)
        or "nothing: every unit is needed"
    )
    return Growth(
        grown, carried, cells.lineage, certificate, {}, {n: n for n in tensors_of(grown)}, note=f"narrowed {changes}"
    )


def _families(wiring: Wiring, groups: Sequence[str] | None) -> list[Family]:
    if groups is None:
        return [
            f
            for f in all_families(wiring)
            if not averages(f) and not any("in" in m.roles and len(m.roles) > 1 for m in f.members)
        ]
    chosen = [f for name in groups for f, _ in families_named(wiring, name)]
    for family in chosen:
        if averages(family):
            raise CannotGrow(f"{family} cannot be narrowed: {', '.join(averages(family))} averages over its units")
    return chosen


def _without(
    model: nn.Module, wiring: Wiring, surplus: Sequence[Surplus], trial: Trial
) -> tuple[nn.Module, Cells, list[Check] | None, list[Setting]]:
    """The network without the surplus units; no checks (None) when it would compute something else."""
    cells = cells_without(wiring, surplus)

    def build(source: nn.Module) -> tuple[nn.Module, list[Setting]]:
        folded = fold_constants(base_of(source), [(s.family, s.constant) for s in surplus])
        value = partial(merged_value, surplus, cells)
        smaller = with_tensors(folded, cells.tensors, value, partial(merged_moment, surplus, cells, 1.0))
        return smaller, set_true(smaller, rows_of(cells))

    lengths = lengths_below(wiring, cells)
    reading = first_reading(build, model, lengths, trial, _limit(model, trial), own_only=True)
    if isinstance(reading, str):
        return model, cells, None, []
    smaller, checks, said = reading
    return smaller, cells, checks, said


def _limit(model: nn.Module, trial: Trial) -> float:
    # Sums of columns and folded biases are rounded to the dtype of the weights.
    return trial.tolerance if all(p.dtype == torch.float64 for p in model.parameters()) else max(trial.tolerance, 1e-5)

"""A narrower network that computes the same: units that are dead, constant, unread or doubled are taken out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from weightlapse.arguments import examples_of
from weightlapse.errors import CannotGrow, InvalidArgument
from weightlapse.growth.arrays import Array
from weightlapse.growth.attributes import Setting, set_true
from weightlapse.growth.cells import AxisMap, Cells
from weightlapse.growth.certificate import Certificate, Check, Trial, live_units
from weightlapse.growth.constants import constant_units, fold_constants
from weightlapse.growth.families import Family, all_families, families_named
from weightlapse.growth.module import changed_tensor, tensors_of, unwrapped, with_tensors
from weightlapse.growth.optimizer import powers_of, rebuilt
from weightlapse.growth.readings import first_reading
from weightlapse.growth.refusals import averages
from weightlapse.growth.result import Growth
from weightlapse.growth.running import base_of, check_finite
from weightlapse.growth.widen import lengths_below, rows_of
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.programs.find import is_foreign


@dataclass
class Surplus:
    """Which units of one family can go: ``into[u]`` is the unit that unit u is merged into (itself: it stays; -1: it goes).

    ``why`` counts the reasons; ``constant[u]`` are the values of units that go because they never change.
    """

    family: Family
    into: NDArray[np.int64]
    why: dict[str, int] = field(default_factory=dict)
    constant: dict[int, Any] = field(default_factory=dict)

    @property
    def kept(self) -> NDArray[np.int64]:
        return np.flatnonzero(self.into == np.arange(len(self.into)))


def narrow(
    model: nn.Module,
    *examples: Any,
    example: Any = None,
    groups: Sequence[str] | None = None,
    proven: bool = False,
    optimizer: torch.optim.Optimizer | None = None,
    wiring: Wiring | None = None,
) -> Growth:
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
    found = [_surplus(model, f, {} if proven else constant_units(trial, f)) for f in families]
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
            lambda name, key, value: changed_tensor(name, value, partial(_merged_moment, surplus, cells, powers[key])),
        )
    consumers = {
        s.family.name: [(m.tensor, m.axis, m.index) for m in s.family.members if "in" in m.roles] for s in surplus
    }
    told = [f"{s.family.name}: {count} {why}" for s in surplus for why, count in s.why.items()]
    certificate = Certificate(
        checks=tuple(checks),
        tolerance=_limit(model, trial),
        live=live_units(trial, consumers),
        parameters=(sum(p.numel() for p in model.parameters()), sum(p.numel() for p in grown.parameters())),
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


def _surplus(model: nn.Module, family: Family, constants: Mapping[int, Any]) -> Surplus:
    """Units that are doubled, unread or constant, in this order."""
    found = Surplus(family, np.arange(family.size))
    values = {
        name: t.detach().double().cpu().numpy() for name, (t, _) in tensors_of(model).items() if t.is_floating_point()
    }
    made = [m for m in family.members if "in" not in m.roles and m.tensor in values]
    read = [m for m in family.members if "in" in m.roles and m.tensor in values]
    first: dict[bytes, int] = {}
    for unit in range(family.size):
        if read and all(not np.take(values[m.tensor], m.index[unit], axis=m.axis).any() for m in read):
            found.into[unit] = -1
            found.why["unread (outgoing weights zero)"] = found.why.get("unread (outgoing weights zero)", 0) + 1
            continue
        if unit in constants:
            found.into[unit] = -1
            found.constant[unit] = constants[unit]
            dead = all(not np.any(v) for v in constants[unit].values())
            why = "zero for every input tried" if dead else "constant for every input tried"
            found.why[why] = found.why.get(why, 0) + 1
            continue
        if any("out" in m.roles for m in made):
            same = b"".join(
                np.ascontiguousarray(np.take(values[m.tensor], m.index[unit], axis=m.axis)).tobytes() for m in made
            )
            found.into[unit] = first.setdefault(same, unit)
            if found.into[unit] != unit:
                found.why["doubles of another unit"] = found.why.get("doubles of another unit", 0) + 1
    if not len(found.kept):
        found.into[0] = 0
        found.constant.pop(0, None)
    return found


def _without(
    model: nn.Module, wiring: Wiring, surplus: Sequence[Surplus], trial: Trial
) -> tuple[nn.Module, Cells, list[Check] | None, list[Setting]]:
    """The network without the surplus units; no checks (None) when it would compute something else."""
    cells = _cells(wiring, surplus)

    def build(source: nn.Module) -> tuple[nn.Module, list[Setting]]:
        folded = fold_constants(base_of(source), [(s.family, s.constant) for s in surplus])
        value = partial(_merged_value, surplus, cells)
        smaller = with_tensors(folded, cells.tensors, value, partial(_merged_moment, surplus, cells, 1.0))
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


def _cells(wiring: Wiring, surplus: Sequence[Surplus]) -> Cells:
    keep: dict[tuple[str, int], NDArray[np.bool_]] = {}
    for s in surplus:
        gone = s.into != np.arange(len(s.into))
        for m in s.family.members:
            mask = keep.setdefault((m.tensor, m.axis), np.ones(wiring.shapes[m.tensor][m.axis], dtype=bool))
            mask[m.index[gone]] = False
    axes = {}
    for place, mask in keep.items():
        source = np.flatnonzero(mask)
        ones = np.ones(len(source))
        axes[place] = AxisMap(source, ones, ones, np.zeros(len(source), dtype=bool))
    return Cells(axes, {g.name: s.kept for s in surplus for g in s.family.groups}, {})


def _merged_value(surplus: Sequence[Surplus], cells: Cells, name: str, values: Array, _dtype: str) -> Array:
    """Columns of doubles added up, everything else of units that go dropped."""
    return _merged(surplus, cells, name, values, lambda consumer: 1.0 if consumer else 0.0)


def _merged_moment(
    surplus: Sequence[Surplus], cells: Cells, power: float, name: str, values: Array, _dtype: str
) -> Array:
    """Gradients of doubles add up where they are made, and are the same where they are read; squares add up as their roots."""
    return _merged(surplus, cells, name, values, lambda consumer: 0.0 if consumer else power)


def _merged(surplus: Sequence[Surplus], cells: Cells, name: str, values: Array, power_of: Any) -> Array:
    out = values
    for s in surplus:
        for m in s.family.members:
            power = power_of("in" in m.roles) if m.tensor == name else 0.0
            if power:
                moved = np.moveaxis(out.astype(np.float64), m.axis, 0)
                for unit, into in enumerate(s.into):
                    if into not in (unit, -1):
                        a, b = moved[m.index[into]], moved[m.index[unit]]
                        moved[m.index[into]] = a + b if power == 1 else (np.sqrt(a) + np.sqrt(b)) ** 2
                out = np.moveaxis(moved, 0, m.axis).astype(values.dtype)
    for axis, axis_map in cells.maps_of(name):
        out = np.take(out, axis_map.source, axis=axis)
    return out

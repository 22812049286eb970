"""Wider and narrower networks of Keras and JAX: planned on the wiring, made again by their framework, proved on their programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
from torch import nn

from weightlapse.errors import CannotGrow
from weightlapse.growth.arrays import Array, grown_gradient
from weightlapse.growth.cells import Cells, grown_cells
from weightlapse.growth.certificate import Certificate, Check, Trial, live_units
from weightlapse.growth.families import chosen_families, consumers_of, family_of_groups
from weightlapse.growth.module import with_tensors
from weightlapse.growth.program_constants import constant_units, fold_constants
from weightlapse.growth.refusals import averages, refuse_blocked, refuse_dead, unseen_notes
from weightlapse.growth.result import Growth
from weightlapse.growth.running import base_of, check_finite
from weightlapse.growth.surplus import Surplus, cells_without, merged_moment, merged_value, surplus_of
from weightlapse.growth.tensors import add_noise, grown_tensors
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.double import shared_buffers
from weightlapse.wiring.programs.find import is_keras
from weightlapse.wiring.programs.program import Program

Moment = Callable[[str, float, Array], Array]  # name of the weight, power of the gradient, old value -> new value


class Home(Protocol):
    """What a framework must know about its networks so that they can be grown."""

    def program(self, model: Any, names: Sequence[str] | None = None) -> Program: ...

    def check_optimizer(self, model: Any, optimizer: Any) -> None:
        """CannotGrow for an optimizer whose state cannot be carried."""

    def group(self, wiring: Wiring, asked: str) -> str:
        """The name of the group that ``asked`` means."""

    def candidates(
        self, model: Any, program: Program, wiring: Wiring, cells: Cells, example: Any
    ) -> Iterator[tuple[Any, Sequence[Any]]]:
        """Networks of the planned shapes, the likeliest first, and what was set in each."""

    def put(self, program: nn.Module, new: Any, model: Any) -> Any:
        """``new`` with the values of ``program``, and all that is no weight as in ``model``."""

    def finished(self, model: Any, new: Any, optimizer: Any, moment: Moment, origin: dict[str, str | None]) -> Any:
        """The optimizer of ``new``, with all moments; None where there is none."""

    def origin(self, model: Any, new: Any) -> dict[str, str | None]: ...

    def count(self, model: Any) -> int: ...

    def name(self, model: Any) -> str: ...


def home_of(model: Any) -> Home:
    """The framework of ``model``, a network of Keras or JAX."""
    if is_keras(model):
        from weightlapse.growth.keras_models import KerasHome

        return KerasHome()
    from weightlapse.growth.jax_models import JaxHome

    return JaxHome()


def widened(
    model: Any,
    sizes: Mapping[str, int],
    examples: Sequence[Any],
    *,
    split: str,
    noise: float,
    optimizer: Any,
    seed: int | None,
    wiring: Wiring | None,
) -> Growth:
    """`wl.widen` for a network of Keras or JAX; see there."""
    home = home_of(model)
    program, wiring, given = _prepared(home, model, examples, wiring)
    home.check_optimizer(model, optimizer)
    sizes = {home.group(wiring, name): size for name, size in sizes.items()}
    with shared_buffers():
        families = chosen_families(wiring, sizes)
        refuse_blocked(wiring, families)
        cells = grown_cells(wiring, families, split=split, rng=np.random.default_rng(seed))
        trial = Trial.of(program, given)
        try:
            made = _made(
                home,
                model,
                program,
                wiring,
                cells,
                trial,
                examples,
                lambda source: grown_tensors(base_of(source), cells),
                trial.limit,
            )
        except CannotGrow as error:
            which = " and ".join(f"{f} from {f.size} to {size}" for f, size in families)
            raise CannotGrow(f"widening {which} is not possible: {error}") from error
        new, said, grown, checks = made
        live = live_units(trial, consumers_of(families))
        refuse_dead(trial, families, live)
    if noise:
        add_noise(grown, cells, families, noise, seed)
        checks = trial.checks(lambda m: m, grown, own_only=True)
    new = home.put(grown, new, model)
    origin = home.origin(model, new)
    opt = home.finished(
        model, new, optimizer, lambda name, power, v: grown_gradient(v, cells.maps_of(name), power=power), origin
    )
    certificate = Certificate(
        checks=tuple(checks),
        tolerance=float("inf") if noise else trial.tolerance,
        live=live,
        parameters=(home.count(model), home.count(new)),
        notes=(*trial.notes, *unseen_notes(wiring, families), *(f"set {s}" for s in said)),
    )
    changes = ", ".join(f"{f.name} {f.size} -> {size}" for f, size in families)
    return Growth(new, opt, cells.lineage, certificate, cells.parts, origin, note=f"widened {changes}")


def narrowed(
    model: Any,
    examples: Sequence[Any],
    *,
    groups: Sequence[str] | None,
    proven: bool,
    optimizer: Any,
    wiring: Wiring | None,
) -> Growth:
    """`wl.narrow` for a network of Keras or JAX; see there."""
    home = home_of(model)
    program, wiring, given = _prepared(home, model, examples, wiring)
    home.check_optimizer(model, optimizer)
    if groups is None:
        families = [family_of_groups(wiring, (g,)) for g in wiring.groups if g.parent is None]
        families = [
            f for f in families if not averages(f) and not any("in" in m.roles and len(m.roles) > 1 for m in f.members)
        ]
    else:
        named = [home.group(wiring, g) for g in groups]
        families = [f for f, _ in chosen_families(wiring, {g: wiring.group(g).size for g in named})]
        for family in families:
            if averages(family):
                raise CannotGrow(f"{family} cannot be narrowed: {', '.join(averages(family))} averages over its units")
    trial = Trial.of(program, given)
    limit = max(trial.tolerance, 1e-5)
    found = [surplus_of(program, f, {} if proven else constant_units(trial, f)) for f in families]
    surplus = [s for s in found if len(s.kept) < s.family.size]

    def attempt(some: list[Surplus]) -> tuple[Cells, tuple[Any, Sequence[Any], nn.Module, list[Check]]]:
        cells = cells_without(wiring, some)
        change = partial(_smaller, some, cells)
        return cells, _made(home, model, program, wiring, cells, trial, examples, change, limit, own_only=True)

    try:
        cells, made = attempt(surplus)
    except CannotGrow:
        surplus = [s for s in surplus if _holds(attempt, s)]  # one family that must not shrink spoils all
        cells, made = attempt(surplus)
    new, said, grown, checks = made
    new = home.put(grown, new, model)
    origin = home.origin(model, new)
    opt = home.finished(
        model, new, optimizer, lambda name, power, v: merged_moment(surplus, cells, power, name, v, ""), origin
    )
    told = [f"{s.family.name}: {count} {why}" for s in surplus for why, count in s.why.items()]
    certificate = Certificate(
        checks=tuple(checks),
        tolerance=limit,
        live=live_units(trial, consumers_of([(s.family, s.family.size) for s in surplus])),
        parameters=(home.count(model), home.count(new)),
        notes=(*trial.notes, *told, *(f"set {s}" for s in said)),
    )
    changes = (
        ", ".join(f"{s.family.name} {s.family.size} -> {len(s.kept)}" for s in surplus)
        or "nothing: every unit is needed"
    )
    return Growth(new, opt, cells.lineage, certificate, {}, origin, note=f"narrowed {changes}")


def _holds(attempt: Callable[[list[Surplus]], Any], surplus: Surplus) -> bool:
    try:
        attempt([surplus])
    except CannotGrow:
        return False
    return True


def _prepared(
    home: Home, model: Any, examples: Sequence[Any], wiring: Wiring | None
) -> tuple[Program, Wiring, list[Any]]:
    program = home.program(model)
    if program.graph.low and not any(t.dtype.itemsize == 2 for t in program.named().values()):
        raise CannotGrow(
            f"{home.name(model)} holds its weights in 16 bits, in which a divided weight would be rounded and the function with it; build it with weights of "
            "32 bits (Keras: dtype policy 'float32' or 'mixed_bfloat16')"
        )
    check_finite(program)
    given = [program.example(e) for e in examples]
    if wiring is None:
        from weightlapse.wiring.trace import trace

        wiring = trace(program, *given, verify=False)  # the certificate proves what is changed
    return program, wiring, given


def _made(
    home: Home,
    model: Any,
    program: Program,
    wiring: Wiring,
    cells: Cells,
    trial: Trial,
    examples: Sequence[Any],
    change: Callable[[nn.Module], nn.Module],
    limit: float,
    *,
    own_only: bool = False,
) -> tuple[Any, Sequence[Any], nn.Module, list[Check]]:
    """The new network, what was set in it, its program, and the checks that both compute the same."""
    names = program.graph.names
    failure: CannotGrow | None = None
    for new, said in home.candidates(model, program, wiring, cells, examples[0]):
        graph = home.program(new, names).graph

        def regrown(source: nn.Module, graph: Any = graph) -> nn.Module:
            changed = change(source)
            vars(changed)["graph"] = graph
            return changed

        try:
            grown = regrown(program)
            new = home.put(grown, new, model)
            checks = trial.checks(regrown, grown, own_only=own_only)
            worst = max((c for c in checks if c.binding), key=lambda c: c.error)
            if not trial.allows(worst, limit):
                raise CannotGrow(f"the changed {home.name(model)} would compute something else: {worst}")
            return new, said, grown, checks
        except CannotGrow as error:
            failure = failure or error
    raise failure or CannotGrow(f"{home.name(model)} cannot be made again with other sizes")


def _smaller(surplus: Sequence[Surplus], cells: Cells, source: nn.Module) -> nn.Module:
    folded = fold_constants(base_of(source), [(s.family, s.constant) for s in surplus])
    value = partial(merged_value, surplus, cells)
    return with_tensors(folded, cells.tensors, value, partial(merged_moment, surplus, cells, 1.0))

"""Wider and narrower Keras models: planned on the wiring, made again from the configuration, proved on their programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from torch import nn

from weightlapse.errors import CannotGrow, InvalidArgument, closest
from weightlapse.growth.arrays import Array, grown_gradient, grown_value
from weightlapse.growth.certificate import Certificate, Check, Trial, live_units
from weightlapse.growth.families import chosen_families, family_of_groups
from weightlapse.growth.keras_optimizer import Moment, carried, powers_of
from weightlapse.growth.keras_rebuild import Entry, carry_compilation, rebuilt
from weightlapse.growth.module import tensors_of, with_tensors
from weightlapse.growth.narrow import Surplus, _merged_moment, _merged_value, _plan, _surplus
from weightlapse.growth.plan import Plan, make_plan
from weightlapse.growth.refusals import averages, refuse_blocked, unseen_notes
from weightlapse.growth.result import Growth
from weightlapse.growth.running import base_of, check_finite
from weightlapse.growth.widen import _add_noise, _consumers, _refuse_dead
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.double import shared_buffers
from weightlapse.wiring.programs.keras_models import float_variables, keras_program, named_variables
from weightlapse.wiring.programs.program import Program


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
    """`wl.widen` for a Keras model; see there."""
    program, wiring, given = _prepared(model, examples, wiring)
    if optimizer is not None or model.compiled:
        powers_of(optimizer if optimizer is not None else model.optimizer)
    sizes = {_group_named(wiring, name): size for name, size in sizes.items()}
    with shared_buffers():
        families = chosen_families(wiring, sizes)
        refuse_blocked(wiring, families)
        plan = make_plan(wiring, families, split=split, rng=np.random.default_rng(seed))
        trial = Trial.of(program, given)
        try:
            new, said, grown, checks = _made(
                model, program, wiring, plan, trial, examples, partial(_grown, plan), trial.limit
            )
        except CannotGrow as error:
            which = " and ".join(f"{f} from {f.size} to {size}" for f, size in families)
            raise CannotGrow(f"widening {which} is not possible: {error}") from error
        live = live_units(trial, _consumers(families))
        _refuse_dead(trial, families, live)
    if noise:
        _add_noise(grown, plan, families, noise, seed)
        checks = trial.checks(lambda m: m, grown, own_only=True)
    _put(grown, new)
    origin = _origin(model, new)
    opt = with_optimizer(
        model, new, optimizer, lambda name, power, v: grown_gradient(v, plan.maps_of(name), power=power), origin
    )
    certificate = Certificate(
        checks=tuple(checks),
        tolerance=float("inf") if noise else trial.tolerance,
        live=live,
        parameters=(model.count_params(), new.count_params()),
        notes=(*trial.notes, *unseen_notes(wiring, families), *(f"set {s}" for s in said)),
    )
    changes = ", ".join(f"{f.name} {f.size} -> {size}" for f, size in families)
    return Growth(new, opt, plan.lineage, certificate, plan.parts, origin, note=f"widened {changes}")


def narrowed(
    model: Any, examples: Sequence[Any], *, groups: Sequence[str] | None, optimizer: Any, wiring: Wiring | None
) -> Growth:
    """`wl.narrow` for a Keras model: units that are doubled or unread go; those that are constant (dead ones too) stay, and the certificate says so."""
    program, wiring, given = _prepared(model, examples, wiring)
    if groups is None:
        families = [family_of_groups(wiring, (g,)) for g in wiring.groups if g.parent is None]
        families = [
            f for f in families if not averages(f) and not any("in" in m.roles and len(m.roles) > 1 for m in f.members)
        ]
    else:
        families = [
            f
            for f, _ in chosen_families(
                wiring, {_group_named(wiring, g): wiring.group(_group_named(wiring, g)).size for g in groups}
            )
        ]
    trial = Trial.of(program, given)
    limit = max(trial.tolerance, 1e-5)
    surplus = [s for s in (_surplus(program, f, trial, True) for f in families) if len(s.kept) < s.family.size]

    def attempt(some: list[Surplus]) -> tuple[Plan, tuple[Any, tuple[Entry, ...], nn.Module, list[Check]]]:
        plan = _plan(wiring, some)
        return plan, _made(
            model, program, wiring, plan, trial, examples, partial(_smaller, some, plan), limit, own_only=True
        )

    try:
        plan, (new, said, grown, checks) = attempt(surplus)
    except CannotGrow:
        kept = []
        for s in surplus:  # one family that must not shrink spoils all: keep those that hold alone
            try:
                attempt([s])
                kept.append(s)
            except CannotGrow:
                continue
        surplus = kept
        plan, (new, said, grown, checks) = attempt(surplus)
    _put(grown, new)
    origin = _origin(model, new)
    opt = with_optimizer(
        model, new, optimizer, lambda name, power, v: _merged_moment(surplus, plan, power, name, v, ""), origin
    )
    told = [f"{s.family.name}: {count} {why}" for s in surplus for why, count in s.why.items()]
    certificate = Certificate(
        checks=tuple(checks),
        tolerance=limit,
        live=live_units(trial, _consumers([(s.family, s.family.size) for s in surplus])),
        parameters=(model.count_params(), new.count_params()),
        notes=(
            *trial.notes,
            *told,
            *(f"set {s}" for s in said),
            "units of Keras models that are merely constant on the examples stay",
        ),
    )
    changes = (
        ", ".join(f"{s.family.name} {s.family.size} -> {len(s.kept)}" for s in surplus)
        or "nothing: every unit is needed"
    )
    return Growth(new, opt, plan.lineage, certificate, {}, origin, note=f"narrowed {changes}")


def _prepared(model: Any, examples: Sequence[Any], wiring: Wiring | None) -> tuple[Program, Wiring, list[Any]]:
    if not examples:
        raise InvalidArgument("give at least one example input: the wiring is traced and the result certified on it")
    program = keras_program(model)
    check_finite(program)
    given = [program.example(e) for e in examples]
    if wiring is None:
        from weightlapse.wiring.trace import trace

        wiring = trace(program, *given, verify=False)  # the certificate proves what is changed
    return program, wiring, given


def _group_named(wiring: Wiring, asked: str) -> str:
    """A group by its name, by the name of its layer ("dense_1") or by the end of its path ("block/dense_1")."""
    if any(g.name == asked for g in wiring.groups):
        return asked
    top = [g for g in wiring.groups if g.parent is None]
    found = [g.name for g in top if any(f"/{asked}/" in f"/{m.tensor}" for m in g.producers)]
    if len(found) == 1:
        return found[0]
    if found:
        raise InvalidArgument(
            f"the layer {asked!r} makes the units of several groups; name one of: {', '.join(map(repr, found))}"
        )
    raise InvalidArgument(
        f"there is no group and no layer {asked!r} whose units could change; {closest(asked, [g.name for g in top])}{_why(wiring, asked)}"
    )


def _why(wiring: Wiring, layer: str) -> str:
    reasons = [
        why for (tensor, _), why in wiring.fixed.items() if f"/{layer}/" in f"/{tensor}" and tensor.endswith("bias")
    ]
    return f"; what {layer!r} puts out is fixed: {reasons[0]}" if reasons else ""


def _made(
    model: Any,
    program: Program,
    wiring: Wiring,
    plan: Plan,
    trial: Trial,
    examples: Sequence[Any],
    change: Callable[[nn.Module], nn.Module],
    limit: float,
    *,
    own_only: bool = False,
) -> tuple[Any, tuple[Entry, ...], nn.Module, list[Check]]:
    """The new model, what changed in its configuration, its program, and the checks that both compute the same."""
    names = program.graph.names
    shapes = [
        _shape(wiring.shapes[n] if n in wiring.shapes else tuple(t.shape), plan, n) for n, t in _in_order(program)
    ]
    new, said = rebuilt(model, shapes, _became(model, wiring, plan), lambda m: _call(m, program, examples[0]))
    graph = keras_program(new, names).graph

    def regrown(source: nn.Module) -> nn.Module:
        changed = change(source)
        vars(changed)["graph"] = graph
        return changed

    grown = regrown(program)
    _put(grown, new)
    settle(model, new)
    checks = trial.checks(regrown, grown, own_only=own_only)
    worst = max((c for c in checks if c.binding), key=lambda c: c.error)
    if not trial.allows(worst, limit):
        raise CannotGrow(f"the changed {model.name} would compute something else: {worst}")
    return new, said, grown, checks


def _in_order(program: Program) -> list[tuple[str, Any]]:
    held = program.named()
    return [(n, held[n]) for n in program.graph.names]


def _call(model: Any, program: Program, example: Any) -> Any:
    args, kwargs = program.graph.arguments(example)
    args, kwargs = keras.tree.map_structure(
        lambda v: keras.ops.convert_to_tensor(np.asarray(v)) if hasattr(v, "__array__") else v, (args, kwargs)
    )
    return model(*args, **kwargs)


def _shape(shape: Sequence[int], plan: Plan, name: str) -> tuple[int, ...]:
    new = list(shape)
    for axis, m in plan.maps_of(name):
        new[axis] = len(m.source)
    return tuple(new)


def _became(model: Any, wiring: Wiring, plan: Plan) -> dict[str, dict[int, int]]:
    """By name of layer, and under "" for all: what lengths of axes and numbers of units became where they are made."""
    found: dict[str, dict[int, int]] = {"": {}}
    changed = [g for g in wiring.groups if g.name in plan.lineage and len(plan.lineage[g.name]) != g.size]
    for group in changed:
        for m in group.members if not group.producers else group.producers:
            mapped = dict(plan.maps_of(m.tensor)).get(m.axis)
            pairs = {group.size: len(plan.lineage[group.name])}
            if mapped is not None:
                pairs[wiring.shapes[m.tensor][m.axis]] = len(mapped.source)
            for part in ("", *m.tensor.split("/")[:-1]):
                found.setdefault(part, {}).update({old: new for old, new in pairs.items() if old != new})
    for layer in model._flatten_layers():
        if not layer.weights and layer.name not in found:  # a Reshape, say
            found[layer.name] = dict(found[""])
    return found


def _grown(plan: Plan, source: nn.Module) -> nn.Module:
    def value(name: str, values: Array, dtype: str) -> Array:
        return grown_value(name, values, plan.maps_of(name), dtype=dtype)

    return with_tensors(base_of(source), plan.tensors, value, lambda name, v, _: grown_gradient(v, plan.maps_of(name)))


def _smaller(surplus: Sequence[Surplus], plan: Plan, source: nn.Module) -> nn.Module:
    return with_tensors(
        base_of(source),
        plan.tensors,
        partial(_merged_value, surplus, plan),
        partial(_merged_moment, surplus, plan, 1.0),
    )


def _put(program: nn.Module, model: Any) -> None:
    """The values of a program into the variables of its model."""
    held = {n: t for n, (t, _) in tensors_of(program).items()}
    for name, v in zip(program.graph.names, float_variables(model), strict=True):  # type: ignore[union-attr]
        values: NDArray[Any] = np.array(held[name].detach().numpy())
        v.assign(values)


def settle(model: Any, new: Any) -> None:
    """Counters and seeds as in the old model; layers that work on what they have learned before (Normalization) take it over."""
    floats = {id(v) for m in (model, new) for v in float_variables(m)}
    olds, news = ([v for _, v in named_variables(m) if id(v) not in floats] for m in (model, new))
    for a, b in zip(olds, news, strict=False):
        if tuple(a.shape) == tuple(b.shape):
            b.assign(np.array(keras.ops.convert_to_numpy(a.value)))
    for layer in new._flatten_layers():
        if isinstance(layer, keras.layers.Normalization) and layer.input_mean is None:
            layer.finalize_state()


def with_optimizer(model: Any, new: Any, optimizer: Any, moment: Moment, origin: dict[str, str | None]) -> Any:
    """The new model compiled as the old one was; its optimizer, or one like the one given, with all moments."""
    carry_compilation(model, new)
    _carry_trainable(model, new)
    if optimizer is not None and optimizer is not getattr(model, "optimizer", None):
        return carried(optimizer, model, new, moment, origin)
    if not model.compiled or model.optimizer is None:
        return None
    return carried(model.optimizer, model, new, moment, origin, into=new.optimizer)


def _carry_trainable(model: Any, new: Any) -> None:
    still = {layer.name for layer in model._flatten_layers() if not layer.trainable}
    for layer in new._flatten_layers():
        if layer.name in still:
            layer.trainable = False


def _origin(model: Any, new: Any) -> dict[str, str | None]:
    olds = [n for n, _ in named_variables(model)]
    news = [n for n, _ in named_variables(new)]
    return dict(zip(news, olds, strict=True)) if len(olds) == len(news) else {n: n if n in olds else None for n in news}

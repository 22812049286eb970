"""Why a group cannot be resized, by name: told before anything is computed, but for units that turn out to be dead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from weightlapse.errors import CannotGrow, InvalidArgument, VacuousComparison
from weightlapse.growth.certificate import Trial, live_units
from weightlapse.growth.families import Family, consumers_of
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.programs.find import is_keras

# Operators that average over the units: the same average when every unit is there equally often.
AVERAGING = frozenset({"layer_norm", "rms_norm", "group_norm", "instance_norm", "mean", "var", "std"})


def refuse_other(model: Any, **arguments: Any) -> None:
    """InvalidArgument for arguments that only torch modules take."""
    given = [name for name, value in arguments.items() if value]
    if given:
        how = (
            "Keras models are made again from their configuration"
            if is_keras(model)
            else "of a JAX module all sizes are followed"
        )
        raise InvalidArgument(f"{given[0]}= is for torch modules: {how}")


def averages(family: Family) -> tuple[str, ...]:
    """The operators that average over the family's units."""
    return tuple(sorted({word for word in AVERAGING for text in (*family.ops, *family.blockers) if _says(text, word)}))


def refuse_blocked(wiring: Wiring, families: Sequence[tuple[Family, int]]) -> None:
    """CannotGrow for a family with a blocker, or with uneven counts under an operator that averages."""
    for family, size in families:
        if size == family.size:
            continue
        hard = [b for b in family.blockers if not any(_says(b, word) for word in AVERAGING)]
        if hard:
            tied = any(b.startswith("tied") for b in hard)
            way_on = "; pass untie=True to give each layer a tensor of its own" if tied else ""
            raise CannotGrow(f"{family} cannot be widened from {family.size} to {size}: {'; '.join(hard)}{way_on}")
        mixed = averages(family)
        if mixed and size % family.size:
            raise CannotGrow(
                f"{family} cannot be widened from {family.size} to {size}: {', '.join(mixed)} averages over its units, which is "
                f"exact only when each is replicated equally often; ask for a multiple of {family.size}"
            )
    _refuse_unseen(wiring, families)


def _refuse_unseen(wiring: Wiring, families: Iterable[tuple[Family, int]]) -> None:
    # A branch that did not run may read these units; its weights would keep the old length.
    for family, size in families:
        lengths = {wiring.shapes[m.tensor][m.axis] for m in family.members} if size != family.size else set()
        for name in wiring.unseen:
            for length in () if _is_vector(wiring, name) else wiring.shapes.get(name, ()):
                if length in lengths and length > 1:
                    raise CannotGrow(
                        f"{family} cannot be widened: {name} was never used on the examples given and may read or make these units "
                        f"(it has an axis of length {length}); give examples that reach it"
                    )


def _is_vector(wiring: Wiring, name: str) -> bool:
    """A token or vector of its own, which nothing maps to or from (a mask token): left as it is, a branch that takes it stops loudly."""
    shape = wiring.shapes.get(name, ())
    return sum(length > 1 for length in shape) == 1 and name.rpartition(".")[2] not in ("weight", "bias")


def unseen_notes(wiring: Wiring, families: Sequence[tuple[Family, int]]) -> list[str]:
    """What was left as it is because no example reached it."""
    lengths = {wiring.shapes[m.tensor][m.axis] for f, size in families if size != f.size for m in f.members}
    return [
        f"{name} was never used on the examples and keeps its shape {wiring.shapes[name]}; if it stands for such units, give an example "
        "that reaches it"
        for name in wiring.unseen
        if _is_vector(wiring, name) and lengths & set(wiring.shapes[name])
    ]


def _says(text: str, word: str) -> bool:
    spelled = text.lower().replace(" ", "_").replace("-", "_")
    return word in spelled or word.replace("_", "") in spelled.replace("_", "").split(":")[0]


def refuse_dead(trial: Trial, families: Sequence[tuple[Family, int]], live: Mapping[str, tuple[int, int]]) -> None:
    """VacuousComparison where not one unit of a family has any influence, so that equal outputs prove nothing. ``live``: of `live_units`."""
    dead = [f for f, _ in families if f.name in live and live[f.name][0] == 0]
    # A branch that ends in a zero gain is silent now, but alive with other gains, and was compared with those too.
    silent = live_units(trial, consumers_of([(f, f.size) for f in dead]), "randomised") if dead else {}
    names = [f.name for f in dead if silent[f.name][0] == 0]
    if names:
        raise VacuousComparison(
            f"not one unit of {', '.join(map(repr, names))} has any influence on the outputs for the inputs tried (dead), "
            "so equal outputs would prove nothing about them"
        )

"""Why a group cannot be resized: told before anything is computed, by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from weightlapse.errors import CannotGrow
from weightlapse.growth.families import Family
from weightlapse.wiring.data import Wiring

# Operators that average over the units: the same average when every unit is there equally often.
AVERAGING = frozenset({"layer_norm", "rms_norm", "group_norm", "instance_norm", "mean", "var", "std"})


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
            raise CannotGrow(f"{family} cannot be widened from {family.size} to {size}: {'; '.join(hard)}")
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
            for length in wiring.shapes.get(name, ()):
                if length in lengths and length > 1:
                    raise CannotGrow(
                        f"{family} cannot be widened: {name} was never used on the examples given and may read or make these units "
                        f"(it has an axis of length {length}); give examples that reach it"
                    )


def _says(text: str, word: str) -> bool:
    spelled = text.lower().replace(" ", "_").replace("-", "_")
    return word in spelled or word.replace("_", "") in spelled.replace("_", "").split(":")[0]

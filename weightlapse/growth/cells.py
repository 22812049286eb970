"""How every axis of every tensor is laid out after widening, and who came from whom. NumPy only.

A unit that is replicated keeps its rows (producers, biases, gains, statistics); its columns (consumers) are divided among the
replicas in convex parts, one number per replica, so that what the next layer sums stays the same. One number per replica, not
one per weight, because then the gradients of a replica are exactly that number times those of its parent, which is what
carries the optimizer along. (Net2Net, Chen et al. 2016, divides equally; unequal parts are LEMON's, Wang et al. 2024. Equal
parts give replicas identical gradients for ever.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import CannotGrow, InvalidArgument
from weightlapse.growth.families import Family
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Member

Split = Literal["random", "equal"]
SPLITS: tuple[str, ...] = get_args(Split)


@dataclass(frozen=True, eq=False)
class AxisMap:
    """One axis after growth: position p holds what stood at ``source[p]``.

    ``part[p]`` is the share of the value that p takes (consumers; 1 elsewhere), ``gradient[p]`` the share of the gradient
    that arrives there (producers; 1 elsewhere), ``fresh[p]`` whether a new unit lives there.
    """

    source: NDArray[np.int64]
    part: NDArray[np.float64]
    gradient: NDArray[np.float64]
    fresh: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Cells:
    """Where every cell of a grown network comes from: maps per (tensor, axis), parents per group, the consumers' parts per group."""

    axes: Mapping[tuple[str, int], AxisMap]
    lineage: Mapping[str, NDArray[np.int64]]
    parts: Mapping[str, NDArray[np.float64]]

    def maps_of(self, tensor: str) -> list[tuple[int, AxisMap]]:
        """The axes of ``tensor`` that change."""
        return sorted(((axis, m) for (name, axis), m in self.axes.items() if name == tensor), key=lambda pair: pair[0])

    @property
    def tensors(self) -> list[str]:
        return list(dict.fromkeys(name for name, _ in self.axes))


def grown_cells(
    wiring: Wiring, families: Sequence[tuple[Family, int]], *, split: str, rng: np.random.Generator
) -> Cells:
    """The cells that give every family its new size, all from one wiring.

    Raises InvalidArgument for a size below the present one or an unknown ``split``, CannotGrow where the units are not laid
    out so that more of them could stand beside the old ones.
    """
    if split not in SPLITS:
        raise InvalidArgument(f"split must be 'random' or 'equal', got {split!r}")
    lineage: dict[str, NDArray[np.int64]] = {}
    parts: dict[str, NDArray[np.float64]] = {}
    cells: dict[tuple[str, int], AxisMap] = {}
    # Inner groups first: a new head then copies the dims that its parent has by then.
    for family, size in sorted(families, key=lambda pair: -pair[0].depth):
        if size < family.size:
            raise InvalidArgument(
                f"{family} has {family.size} units, {size} would be fewer; sizes are the new totals (wl.narrow removes units)"
            )
        parents = choose_parents(family.size, size, rng)
        shares = convex_parts(parents, split, rng)
        for group in family.groups:
            lineage[group.name], parts[group.name] = parents, shares
        for member in family.members:
            place = (member.tensor, member.axis)
            if place not in cells:
                cells[place] = _identity(wiring.shapes[member.tensor][member.axis])
            cells[place] = _replicated(cells[place], member, parents, shares, family)
    return Cells(cells, lineage, parts)


def choose_parents(old: int, new: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The parent of each of ``new`` units: the old units first, then draws that use no unit twice before all are used.

    >>> choose_parents(3, 6, np.random.default_rng(0)).tolist()[:3]
    [0, 1, 2]
    """
    rounds = [np.arange(old)] + [rng.permutation(old) for _ in range(-(-new // old) - 1)]
    return np.concatenate(rounds)[:new].astype(np.int64)


def convex_parts(parents: NDArray[np.int64], split: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """One positive part per unit; the parts of all replicas of one parent sum to 1, and no two of them are close."""
    counts = np.bincount(parents)
    if split == "equal":
        return 1.0 / counts[parents]
    raw = np.ones(len(parents))
    for parent in np.flatnonzero(counts > 1):
        mine = np.flatnonzero(parents == parent)
        # strata half a step apart: replicas with near-equal parts would take long to separate
        raw[mine] = 0.5 + (rng.permutation(len(mine)) + rng.uniform(0.25, 0.75, len(mine))) / len(mine)
    return raw / np.bincount(parents, weights=raw)[parents]


def _identity(length: int) -> AxisMap:
    return AxisMap(np.arange(length), np.ones(length), np.ones(length), np.zeros(length, dtype=bool))


def _replicated(
    cells: AxisMap, member: Member, parents: NDArray[np.int64], shares: NDArray[np.float64], family: Family
) -> AxisMap:
    """``cells`` with the blocks of new units put behind each complete run of the old ones."""
    consumer = "in" in member.roles
    if consumer and len(member.roles) > 1:
        raise CannotGrow(
            f"{family}: {member.tensor} both makes and reads its units (tied), and a tied weight cannot be divided; pass untie=True"
        )
    size = family.size
    unit_at = np.full(int(max(cells.source.max(), member.index.max())) + 1, -1, dtype=np.int64)
    unit_at[member.index] = np.arange(size)[:, None]
    label = unit_at[cells.source]
    edges = np.flatnonzero(np.diff(label)) + 1
    blocks = list(zip([0, *edges], [*edges, len(label)], strict=True))
    order: list[NDArray[np.int64]] = []  # indices into cells
    units: list[NDArray[np.int64]] = []  # new unit of each, -1 for none
    run: dict[int, NDArray[np.int64]] = {}
    for start, stop in blocks:
        unit, here = int(label[start]), np.arange(start, stop)
        order.append(here)
        units.append(np.full(len(here), unit))
        if unit < 0 or unit in run:
            if run:
                raise _irregular(family, member)
            continue
        run[unit] = here
        if len(run) == size:
            for new in range(size, len(parents)):
                block = run[int(parents[new])]
                order.append(block)
                units.append(np.full(len(block), new))
            run = {}
    if run:
        raise _irregular(family, member)
    take, unit_of = np.concatenate(order), np.concatenate(units)
    factor = np.where(unit_of >= 0, shares[unit_of], 1.0)
    return AxisMap(
        cells.source[take],
        cells.part[take] * (factor if consumer else 1.0),
        cells.gradient[take] * (1.0 if consumer else factor),
        cells.fresh[take] | (unit_of >= size),
    )


def _irregular(family: Family, member: Member) -> CannotGrow:
    return CannotGrow(
        f"{family}: its units do not lie one after the other on {member.tensor}[{member.axis}], "
        "so there is no place where the network would look for more of them"
    )

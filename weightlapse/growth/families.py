"""Which groups can be resized, and which only together: a tensor is a rectangle, so all heads get the same number of dims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import CannotGrow, InvalidArgument, UnknownTensor, closest
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Group, Member


@dataclass(frozen=True, eq=False)
class Family:
    """Groups of one size that are resized as one: a single group, or all of its kind in the units of a parent.

    ``members`` are those of all groups, merged, so that none is confined to a slab of its tensor any more.
    """

    groups: tuple[Group, ...]
    members: tuple[Member, ...]
    depth: int

    @property
    def name(self) -> str:
        return self.groups[0].name

    @property
    def size(self) -> int:
        return self.groups[0].size

    @property
    def ops(self) -> frozenset[str]:
        return frozenset().union(*(g.ops for g in self.groups))

    @property
    def blockers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(b for g in self.groups for b in g.blockers))

    def __str__(self) -> str:
        more = f" (and {len(self.groups) - 1} like it)" if len(self.groups) > 1 else ""
        return f"group {self.name!r}{more}"


def chosen_families(wiring: Wiring, sizes: Mapping[str, int], *, nested: bool = False) -> list[tuple[Family, int]]:
    """The families named by ``sizes`` (group or layer names) with the new size of each of their groups.

    A layer name that stands for several nested groups (the channels of a grouped convolution) takes their total. Raises
    UnknownTensor for a name that nothing answers to, InvalidArgument for one that several groups answer to, for a total that
    does not divide evenly, and for a family that is given two sizes. With ``nested``, a name of blocks of units (conv groups, norm groups)
    means the units in them, and its size their total.
    """
    if not sizes:
        raise InvalidArgument("no group was named; give a mapping such as {'fc1': 256}")
    chosen: dict[str, tuple[str, Family, int]] = {}
    for asked, total in sizes.items():
        if isinstance(total, bool) or not isinstance(total, (int, np.integer)) or total < 1:
            raise InvalidArgument(f"the new size of {asked!r} must be a whole number of units, got {total!r}")
        for family, count in _inside(wiring, asked) if nested else families_named(wiring, asked):
            if total % count:
                raise InvalidArgument(
                    f"{asked!r} makes {count} groups of {family.size} units that keep equal sizes; "
                    f"{total} is not a multiple of {count}"
                )
            if family.name in chosen and chosen[family.name][2] != total // count:
                raise InvalidArgument(
                    f"{asked!r} and {chosen[family.name][0]!r} are the same units ({family}) with different sizes"
                )
            chosen[family.name] = (asked, family, int(total) // count)
    return [(family, size) for _, family, size in chosen.values()]


def all_families(wiring: Wiring) -> list[Family]:
    """Every family whose members form rectangles; the ones that do not are left out."""
    found: dict[str, Family] = {}
    for group in wiring.groups:
        siblings = _siblings(wiring, group)
        if siblings[0].name not in found:
            with suppress(CannotGrow):
                found[siblings[0].name] = family_of_groups(wiring, siblings)
    return list(found.values())


def families_named(wiring: Wiring, asked: str) -> list[tuple[Family, int]]:
    """The families that a group or layer name stands for, and by how many groups a total for that name is shared.

    All groups of a recurrent layer (its layers and directions) answer to the layer's name, each with the size asked for.
    """
    recurrent = [g for g in wiring.groups if any(m.tensor.startswith(f"{asked}.weight_hh_l") for m in g.producers)]
    if len({g.size for g in recurrent}) == 1:
        return [(family_of_groups(wiring, (g,)), 1) for g in recurrent]
    for group in wiring.groups:
        if group.name == asked:
            return [(family_of_groups(wiring, _siblings(wiring, group)), 1)]
    made = _made_by(wiring, asked)
    if not made:
        raise UnknownTensor(
            f"no group of units is called {asked!r} or made by a layer of that name "
            f"({closest(asked, (g.name for g in wiring.groups))}){_why_fixed(wiring, asked)}"
        )
    top = [g for g in made if g.parent is None]
    if len(top) == 1:
        return [(family_of_groups(wiring, (top[0],)), 1)]
    kinds = {tuple(s.name for s in _siblings(wiring, g)): g for g in made}
    if top or len(kinds) > 1:
        names = ", ".join(repr(g.name) for g in (top or list(kinds.values()))[:6])
        raise InvalidArgument(f"the layer {asked!r} makes the units of several groups; name one or more of: {names}")
    siblings = _siblings(wiring, made[0])
    return [(family_of_groups(wiring, siblings), len(siblings))]


def _inside(wiring: Wiring, asked: str) -> list[tuple[Family, int]]:
    named = families_named(wiring, asked)
    blocks = named[0][0].groups[0]
    made = {(m.tensor, m.axis) for m in blocks.producers}
    children = [g for g in wiring.children(blocks.name) if {(m.tensor, m.axis) for m in g.producers} >= made]
    if len(named) > 1 or len({_kind(g) for g in children}) != 1:
        return named
    siblings = _siblings(wiring, children[0])
    return [(family_of_groups(wiring, siblings), len(siblings))]


def _made_by(wiring: Wiring, layer: str) -> list[Group]:
    tensor = wiring.canonical_name(layer)
    return [
        g for g in wiring.groups if any(m.tensor == tensor or m.tensor.rpartition(".")[0] == layer for m in g.producers)
    ]


def _why_fixed(wiring: Wiring, layer: str) -> str:
    reasons = [why for (tensor, axis), why in wiring.fixed.items() if axis == 0 and tensor.rpartition(".")[0] == layer]
    if reasons:
        return f"; what {layer!r} puts out is fixed: {reasons[0]}"
    packed = [n for n in wiring.unseen if n.startswith(f"{layer}.") and n not in wiring.shapes]
    return (
        f"; {packed[0]!r} holds weights packed as whole numbers, which cannot be followed: widen before quantising"
        if packed
        else ""
    )


def _siblings(wiring: Wiring, group: Group) -> tuple[Group, ...]:
    if group.parent is None:
        return (group,)
    kind = _kind(group)
    return tuple(g for g in wiring.groups if g.parent is not None and g.size == group.size and _kind(g) == kind)


def _kind(group: Group) -> frozenset[tuple[str, int, str]]:
    return frozenset((m.tensor, m.axis, m.role) for m in group.members)


def family_of_groups(wiring: Wiring, groups: Sequence[Group]) -> Family:
    """``groups`` as one family; CannotGrow when resizing them would leave a tensor that is no rectangle."""
    places: dict[tuple[str, int], list[Member]] = {}
    for group in groups:
        for member in group.members:
            places.setdefault((member.tensor, member.axis), []).append(member)
    members = tuple(_merged(wiring, groups[0], members) for members in places.values())
    return Family(tuple(groups), members, _depth(wiring, groups[0]))


def _depth(wiring: Wiring, group: Group) -> int:
    parents = {g.name: g.parent for g in wiring.groups}
    depth, at = 0, group.parent
    while at is not None and depth < len(parents):
        depth, at = depth + 1, parents.get(at[0])
    return depth


def _merged(wiring: Wiring, group: Group, members: Sequence[Member]) -> Member:
    first = members[0]
    place = f"{first.tensor}[{first.axis}]"
    if len({m.role for m in members}) > 1:
        roles = " and ".join(sorted({m.role for m in members}))
        raise CannotGrow(f"group {group.name!r}: {place} has the roles {roles} at once; no exact split exists")
    indices: dict[bytes, np.ndarray] = {}
    for index, slabs in _by_index(members).items():
        matrix = next(m.index for m in members if m.index.tobytes() == index)
        if slabs is not None:
            axis, covered = slabs
            length = wiring.shapes[first.tensor][axis]
            if np.unique(covered).size != length:
                raise CannotGrow(
                    f"group {group.name!r}: {place} holds its units only at {np.unique(covered).size} of {length} positions "
                    f"of axis {axis}, so resizing them would leave a ragged tensor"
                )
        indices[index] = matrix
    merged = np.concatenate(list(indices.values()), axis=1)
    if np.unique(merged).size != merged.size:
        raise CannotGrow(f"group {group.name!r}: {place} holds different units at one position in different slabs")
    return Member(first.tensor, first.axis, merged, first.role)


def _by_index(members: Sequence[Member]) -> dict[bytes, tuple[int, np.ndarray] | None]:
    """Members with the same positions taken together: the union of their slabs, None when one covers the whole tensor."""
    found: dict[bytes, tuple[int, np.ndarray] | None] = {}
    for m in members:
        key = m.index.tobytes()
        if m.where is None or (key in found and found[key] is None):
            found[key] = None
        else:
            seen = found.get(key)
            found[key] = (m.where[0], m.where[1] if seen is None else np.concatenate([seen[1], m.where[1]]))
    return found


def consumers_of(families: Sequence[tuple[Family, int]]) -> dict[str, list[tuple[str, int, NDArray[np.int64]]]]:
    """What `live_units` asks for: family -> (tensor, axis, index) of every member that reads its units."""
    return {f.name: [(m.tensor, m.axis, m.index) for m in f.members if "in" in m.roles] for f, _ in families}

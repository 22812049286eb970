"""From axis types to groups: every free atom that lives in the weights becomes a group with its index matrices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from weightlapse.wiring.dims import ATOM, PROD, Dims
from weightlapse.wiring.infer import Inference
from weightlapse.wiring.members import ROLES, Group, Member

Positions = NDArray[np.int64]
_REDUCES = "nothing reads these units"
_OUTER = "it meets itself in one flattened axis (outer product)"
_SLABS = "its places need slabs on two axes at once"
_MOST_GROUPS = 20_000


def walk(dims: Dims, node: int, index: Positions) -> Iterator[tuple[int, Positions]]:
    """(atom, its index matrix) for every atom of a type whose unit u has the positions ``index[u]``."""
    root = dims.find(node)
    kind, parts = dims.kind(root), dims.parts(root)
    if kind == ATOM:
        yield root, index
    elif kind == PROD:
        sizes = [dims.sizes[p] for p in parts]
        grid = index.reshape(*sizes, index.shape[1])
        for i, p in enumerate(parts):
            yield from walk(dims, p, np.moveaxis(grid, i, 0).reshape(sizes[i], -1))
    else:
        at = 0
        for p in parts:
            yield from walk(dims, p, index[at : at + dims.sizes[p]])
            at += dims.sizes[p]


@dataclass(frozen=True)
class Spot:
    """Where an atom lives: row u of ``index`` holds the positions of its unit u on one axis of a tensor."""

    tensor: str
    axis: int
    index: Positions
    where: tuple[int, Positions] | None = None


class GroupBuilder:
    def __init__(self, inf: Inference, order: list[str]) -> None:
        self.inf, self.dims = inf, inf.dims
        self.dims.settle([t.axes for t in inf.params.values()])
        self.clones: dict[tuple[int, int], int] = {}  # (atom of a route, position) -> the atom there
        self.template: dict[int, int] = {}  # and back
        self.order = {name: i for i, name in enumerate(order)}
        self.fixed: dict[tuple[str, int], str] = {}
        self.spots: dict[int, list[Spot]] = {}
        self.generic: dict[int, set[int]] = {}  # the atoms that an instance is a case of
        self.doubled = self.dims.doubled()
        self._all_spots()
        self.roles, self.first = self._roles()
        self.labels = self._by_leaf(inf.labels)
        self.blocks = self._by_leaf(inf.blocks)
        self.atom_of: dict[str, int] = {}  # group name -> its atom
        self.read = {leaf for (_, _, leaf), rs in self.roles.items() if "in" in rs} | self._reduced()

    # ---- positions

    def _all_spots(self) -> None:
        for name, typed in self.inf.params.items():
            cells = [
                (atom, Spot(name, axis, index))
                for axis, node in enumerate(typed.axes)
                for atom, index in walk(self.dims, node, np.arange(self.dims.sizes[node], dtype=np.int64)[:, None])
            ]
            for atom, spot in self._resolved(cells):
                self.spots.setdefault(atom, []).append(spot)

    def _resolved(self, cells: list[tuple[int, Spot]]) -> list[tuple[int, Spot]]:
        """The atoms of one tensor with every atom that has cases replaced by them, slice by slice."""
        done = [(a, s) for a, s in cells if a not in self.dims.cases]
        waiting = [(a, s) for a, s in cells if a in self.dims.cases]
        while waiting:
            later: list[tuple[int, Spot]] = []
            for atom, spot in waiting:
                selector, instances = self.dims.cases[atom]
                by = [s for a, s in done if a == self.dims.find(selector)]
                if not by:
                    later.append((atom, spot))
                    continue
                size = self.dims.sizes[selector]
                at = {p: i for p, i in instances.items() if isinstance(p, int)}
                routed = next((i for p, i in instances.items() if isinstance(p, bytes)), None)
                if routed is None and len(at) < size:
                    self.fixed[spot.tensor, spot.axis] = "some of its slices are never used by the traced run"
                parts = divided([spot], by, size) or {}
                for position, instance in at.items() if routed is None else dict.fromkeys(range(size), routed).items():
                    for part in parts.get(position, ()):
                        for leaf, rows in walk(self.dims, instance, part.index):
                            self.generic.setdefault(leaf, set()).add(atom)
                            if routed is not None:
                                leaf = self._clone(leaf, position)
                            cell = (leaf, Spot(part.tensor, part.axis, rows, part.where))
                            (later if leaf in self.dims.cases else done).append(cell)
            if len(later) == len(waiting) and all(x in waiting for x in later):
                for atom, _ in later:  # the axis that tells the cases apart is not in this tensor
                    self.dims.fix(atom, "it is several sets of units in one")
                return done
            waiting = later
        return done

    def _clone(self, leaf: int, position: int) -> int:
        """The atom that every row with this position meets: like all of its route, but with an arrangement of its own."""
        if (leaf, position) not in self.clones:
            new = self.dims.fresh(self.dims.sizes[leaf], self.dims.reason(leaf))
            self.clones[leaf, position] = new
            self.template[new] = leaf
            self.generic[new] = {leaf}
        return self.clones[leaf, position]

    # ---- what is known about atoms

    def _by_leaf(self, notes: list[tuple[int, str]]) -> dict[int, dict[str, None]]:
        out: dict[int, dict[str, None]] = {}
        for node, text in notes:
            for leaf in self.dims.leaves(node):
                out.setdefault(leaf, {})[text] = None
        return out

    def _roles(self) -> tuple[dict[tuple[str, int, int], set[str]], dict[int, str]]:
        roles: dict[tuple[str, int, int], set[str]] = {}
        first: dict[int, str] = {}
        for name, axis, node, role in self.inf.roles:
            for leaf in self.dims.leaves(node):
                roles.setdefault((name, axis, leaf), set()).add(role)
                if role == "out":
                    first.setdefault(leaf, name)
        return roles, first

    def _reduced(self) -> set[int]:
        return {leaf for node, _ in self.inf.blocks for leaf in self.dims.leaves(node)}

    def notes(self, table: dict[int, dict[str, None]], atom: int) -> list[str]:
        return list({text: None for a in self.kinds(atom) for text in table.get(a, ())})

    def kinds(self, atom: int) -> list[int]:
        """The atom and all that it is a case of."""
        found = [atom]
        for a in found:
            found += sorted(self.generic.get(a, set()) - set(found))
        return found

    # ---- groups

    def build(self) -> list[Group]:
        free = [a for a in self.spots if self.dims.is_free(a) and self._usable(a)]
        parents = {a: self._parent(a, free) for a in free}
        groups: list[Group] = []
        taken: set[str] = set()
        atoms: dict[int, list[tuple[Group, list[Spot]]]] = {}
        free.sort(key=lambda a: (self._depth(a, parents), self._rank(a)))
        for atom in free:
            for parent, spots in self._copies(atom, parents, atoms):
                members = self._members(atom, spots)
                if not members or len(groups) >= _MOST_GROUPS:
                    continue
                name = self._name(atom, members, parent, taken)
                taken.add(name)
                self.atom_of[name] = self.template.get(atom, atom)
                blockers = tuple(self.notes(self.blocks, atom)) + _tied(members)
                g = Group(
                    name,
                    self.dims.sizes[atom],
                    members,
                    blockers=blockers,
                    parent=parent,
                    ops=frozenset(self.notes(self.labels, atom)),
                )
                atoms.setdefault(atom, []).append((g, spots))
                groups.append(g)
        self._reasons(free)
        return groups

    def _rank(self, atom: int) -> tuple[int, int]:
        names = [s.tensor for s in self.spots[atom]]
        return (min(self.order.get(n, 1 << 30) for n in names), min(int(s.index.min()) for s in self.spots[atom]))

    def _usable(self, atom: int) -> bool:
        if not self.read.intersection(self.kinds(atom)):
            self.dims.fix(atom, _REDUCES)
            return False
        return any(s.tensor in self.inf.seen for s in self.spots[atom])

    def _parent(self, atom: int, free: list[int]) -> int | None:
        """The atom whose every unit may hold its own arrangement of this one; the innermost if there are several."""
        beside = [h for h in self.dims.companions(atom) if h in free and self._nests(atom, h)]
        return max(beside, key=lambda h: (len(self.dims.companions(h)), h), default=None)

    def _nests(self, atom: int, outer: int) -> bool:
        """Whether every unit of ``outer`` may hold its own arrangement of ``atom`` (they are companions)."""
        if outer not in self.spots or outer in self.doubled or self._ambiguous(atom, outer):
            return False
        mutual = self.dims.is_free(outer) and atom in self.dims.companions(outer)
        return not mutual or self._ambiguous(outer, atom)

    def _ambiguous(self, atom: int, outer: int) -> bool:
        """Whether some tensor leaves open which of two axes of ``outer`` a place of ``atom`` belongs to."""
        for s in self.spots[atom]:
            own = {x.axis for x in self.spots[atom] if x.tensor == s.tensor}
            axes = {o.axis for o in self.spots[outer] if o.tensor == s.tensor}
            if len(axes) > 1 if own - axes else axes - own:
                return True
        return False

    def _depth(self, atom: int, parents: dict[int, int | None]) -> int:
        depth = 0
        while (up := parents.get(atom)) is not None:
            atom, depth = up, depth + 1
        return depth

    def _copies(
        self, atom: int, parents: dict[int, int | None], done: dict[int, list[tuple[Group, list[Spot]]]]
    ) -> Iterator[tuple[tuple[str, int] | None, list[Spot]]]:
        """The atom's places: all of them, or one set for each unit of the group that it is nested in."""
        parent = parents[atom]
        above = {parent}
        while parent is not None and (parent := parents[parent]) is not None:
            above.add(parent)
        parent = parents[atom]
        # Other axes of the weights that it stands beside, fixed ones (experts, say) or free: an arrangement for each position.
        others = [t for t in sorted(self.dims.companions(atom) - above) if self._nests(atom, t)]
        if parent is None:
            yield from ((None, spots) for spots in self._slabs(self.spots[atom], others))
            return
        for group, outer in done.get(parent, []):
            parts = divided(self.spots[atom], outer, group.size)
            if parts is None:
                self.dims.fix(atom, _SLABS)
                return
            for unit, inside in sorted(parts.items()):
                yield from (((group.name, unit), spots) for spots in self._slabs(inside, others))

    def _slabs(self, spots: list[Spot], others: list[int]) -> Iterator[list[Spot]]:
        if not others:
            yield spots
            return
        parts = divided(spots, self.spots[others[0]], self.dims.sizes[others[0]])
        if parts is None:  # one arrangement for all of its positions is right too
            yield from self._slabs(spots, others[1:])
            return
        for _, inside in sorted(parts.items()):
            yield from self._slabs(inside, others[1:])

    def _members(self, atom: int, spots: list[Spot]) -> tuple[Member, ...]:
        merged: dict[tuple[str, int, bytes | None], list[Spot]] = {}
        for s in spots:
            key = (s.tensor, s.axis, None if s.where is None else bytes([s.where[0]]) + s.where[1].tobytes())
            merged.setdefault(key, []).append(s)
        out = []
        for same in merged.values():
            index = np.concatenate([s.index for s in same], axis=1)
            if not _distinct(index):
                self.dims.fix(atom, _OUTER)
                return ()
            out.append(Member(same[0].tensor, same[0].axis, index, self._role(same[0], atom), same[0].where))
        if not any("out" in m.roles for m in out):
            tables = [m for m in out if len(self.inf.params[m.tensor].axes) > 1 and m.role == "add"]
            if not tables:
                self.dims.fix(atom, "no weight produces these units")
                return ()
            out = [replace(m, role="out") if m in tables else m for m in out]  # learned latents: the units themselves
        rank = {r: i for i, r in enumerate(("out", "add", "mul", "stat", "in"))}
        return tuple(sorted(out, key=lambda m: (rank[m.role.split("+")[0]], self.order.get(m.tensor, 1 << 30))))

    def _role(self, spot: Spot, atom: int) -> str:
        found = {role for a in self.kinds(atom) for role in self.roles.get((spot.tensor, spot.axis, a), ())}
        return "+".join(r for r in ROLES if r in found) or "add"

    def _name(self, atom: int, members: tuple[Member, ...], parent: tuple[str, int] | None, taken: set[str]) -> str:
        first = next((self.first[a] for a in self.kinds(atom) if a in self.first), members[0].tensor)
        if first not in {m.tensor for m in members}:
            first = members[0].tensor
        module = first.rpartition("." if "." in first else "/")[0] or first
        if atom in self.template:
            position = next(p for (_, p), clone in self.clones.items() if clone == atom)
            candidates = [f"{module}[{position}]", f"{first}[{position}]"]
        elif parent is not None:
            inner = module[len(parent[0]) :].strip(".") if module.startswith(parent[0]) else module.rpartition(".")[2]
            candidates = [f"{parent[0]}[{parent[1]}]" + (f".{inner}" if inner else "")]
        else:
            candidates = [module, first]
        for c in candidates:
            if c not in taken:
                return c
        return next(c for i in range(2, 1 << 30) if (c := f"{candidates[-1]}#{i}") not in taken)

    def _final(self, node: int) -> list[int]:
        """The atoms of a type, each with its cases in its place."""
        out: list[int] = []
        for leaf in self.dims.leaves(node):
            cases = self.dims.cases.get(leaf)
            out += [x for i in cases[1].values() for x in self._final(i)] if cases else [leaf]
        return out

    def _reasons(self, free: list[int]) -> None:
        groups = set(free)
        for name, typed in self.inf.params.items():
            for axis, node in enumerate(typed.axes):
                leaves = [x for x in self._final(node) if x not in groups or not self.dims.is_free(x)]
                found = dict.fromkeys(r for x in leaves if (r := self.dims.reason(x)) and r != "size 1")
                reason = "; ".join(list(found)[:3]) or None
                if reason is None and leaves and all(self.dims.sizes[x] == 1 for x in leaves):
                    reason = "size 1"
                if reason is not None and (name, axis) not in self.fixed:
                    self.fixed[name, axis] = reason
                elif name not in self.inf.seen:
                    self.fixed[name, axis] = "the traced run never used this tensor"


def divided(spots: list[Spot], outer: list[Spot], size: int) -> dict[int, list[Spot]] | None:
    """``spots`` by the unit of the atom whose places are ``outer``: some of their slots, or a slab of the tensor.

    None when a spot would need slabs on two axes.
    """
    out: dict[int, list[Spot]] = {}
    at: dict[str, list[Spot]] = {}
    for o in outer:
        at.setdefault(o.tensor, []).append(o)
    for s in spots:
        here = at.get(s.tensor, [])
        # Flattened together with it on its own axis: then that is the one it belongs to.
        for o in [o for o in here if o.axis == s.axis and _overlap(o.index, s.index)] or here:
            if o.axis == s.axis:
                owner = np.full(int(max(o.index.max(), s.index.max())) + 1, -1, dtype=np.int64)
                owner[o.index] = np.arange(size)[:, None]
                units = owner[s.index[0]]
                for unit in np.unique(units[units >= 0]):
                    out.setdefault(int(unit), []).append(replace(s, index=s.index[:, units == unit]))
            elif s.where is None:
                for unit in range(size):
                    out.setdefault(unit, []).append(replace(s, where=(o.axis, np.sort(o.index[unit]))))
            elif s.where[0] == o.axis:
                for unit in range(size):
                    both = np.intersect1d(s.where[1], o.index[unit])
                    if both.size:
                        out.setdefault(unit, []).append(replace(s, where=(o.axis, both)))
            elif o.where is None or o.where[0] != s.axis:
                return None
    return out


def _distinct(index: Positions) -> bool:
    seen = np.zeros(int(index.max(initial=0)) + 1, dtype=bool)
    seen[index] = True
    return int(seen.sum()) == index.size


def _overlap(a: Positions, b: Positions) -> bool:
    seen = np.zeros(int(max(a.max(), b.max())) + 1, dtype=bool)
    seen[a] = True
    return bool(seen[b].any())


def _tied(members: tuple[Member, ...]) -> tuple[str, ...]:
    both = [m for m in members if "in" in m.roles and len(m.roles) > 1]
    return tuple(f"tied in+out: {m.tensor} both produces and reads these units" for m in both[:1])

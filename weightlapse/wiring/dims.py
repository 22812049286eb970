"""What the axes of tensors are made of, found by unification.

The type of an axis is an *atom* (a set of units), a *product* of types (a row-major flatten) or a *sum* (a concatenation).
Atoms live in a union-find; learning more about one (it is a product of heads and dims, say) refines it wherever it occurs.
A fixed atom carries the reason why its positions are not interchangeable. Whatever cannot be unified is fixed on both sides:
the inference errs towards fewer symmetries, never towards false ones.

*Companions* of an atom are the atoms that stand beside it in every tensor seen: the dims of a head never occur without the
heads. A companion may hold a different arrangement for each position of the other: this gives nested groups, and separate
query, key and value atoms when one fused axis is taken apart by ``select`` (*cases*). Where every row picks its own position
(an expert), one case stands for all of them (a *route*), as long as it stays beside these rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

ATOM, PROD, SUM = 0, 1, 2
Position = int | bytes  # one position, or which position each row takes


class Dims:
    """All axis types of one inference. A type is an integer; ``find`` leads to its representative."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._kind: list[int] = []
        self._parts: list[tuple[int, ...]] = []
        self.sizes: list[int] = []
        self._reason: list[str | None] = []
        self._near: list[
            list[set[int]]
        ] = []  # one set for each tensor that an atom occurred in: its companions are in all
        self.cases: dict[
            int, tuple[int, dict[Position, int]]
        ] = {}  # atom -> (selector, {its position: the atom there})
        self.generic: dict[int, int] = {}  # atom made by ``at`` -> the atom that it is a case of
        self.copied: set[int] = set()  # atoms along which all values are equal, until they meet others
        self._whole: dict[int, set[int]] = {}  # copied atom -> the copied atoms that it is a case of
        self._rows: dict[bytes, set[int]] = {}  # the axes whose rows take a route
        self._activations: list[tuple[int, ...]] = []
        self.conflicts: list[str] = []

    # ---- making types

    def fresh(self, size: int, reason: str | None = None) -> int:
        self._parent.append(len(self._parent))
        self._kind.append(ATOM)
        self._parts.append(())
        self.sizes.append(size)
        self._reason.append(reason)
        self._near.append([])
        return len(self._parent) - 1

    def copies(self, size: int) -> int:
        """An axis along which all values are equal: expanded, repeated, a constant that does not vary."""
        node = self.fresh(size, "size 1" if size == 1 else None)
        if size > 1:
            self.copied.add(node)
        return node

    def renewed(self, node: int) -> int:
        """The type for one more use: equal values constrain nothing, so two uses need not be the same units."""
        root = self.find(node)
        if self._kind[root] == ATOM:
            return self.copies(self.sizes[root]) if root in self.copied and self._reason[root] is None else node
        parts = [self.renewed(p) for p in self._parts[root]]
        if all(a == b for a, b in zip(parts, self._parts[root], strict=True)):
            return node
        return self._compound(self._kind[root], parts, self.sizes[root])

    def _compound(self, kind: int, parts: Sequence[int], size: int) -> int:
        node = self.fresh(size)
        self._kind[node], self._parts[node] = kind, tuple(parts)
        return node

    def product(self, parts: Sequence[int]) -> int:
        kept = [p for p in parts if self.sizes[p] != 1]
        if len(kept) < 2:
            return kept[0] if kept else self.fresh(1, "size 1")
        return self._compound(PROD, kept, math.prod(self.sizes[p] for p in kept))

    def sum(self, parts: Sequence[int]) -> int:
        kept = [p for p in parts if self.sizes[p] != 0]
        if len(kept) < 2:
            return kept[0] if kept else self.fresh(0, "size 0")
        return self._compound(SUM, kept, sum(self.sizes[p] for p in kept))

    # ---- looking

    def find(self, node: int) -> int:
        while self._parent[node] != node:
            self._parent[node] = self._parent[self._parent[node]]
            node = self._parent[node]
        return node

    def kind(self, node: int) -> int:
        return self._kind[self.find(node)]

    def parts(self, node: int) -> tuple[int, ...]:
        return self._parts[self.find(node)]

    def reason(self, node: int) -> str | None:
        """Why the atom is fixed, or None when it is free; for a compound type the first reason among its leaves."""
        return next((r for leaf in self.leaves(node) if (r := self._reason[leaf]) is not None), None)

    def is_free(self, node: int) -> bool:
        root = self.find(node)
        return self._kind[root] == ATOM and self._reason[root] is None and self.sizes[root] > 1

    def leaves(self, node: int) -> list[int]:
        root = self.find(node)
        if self._kind[root] == ATOM:
            return [root]
        return [leaf for p in self._parts[root] for leaf in self.leaves(p)]

    def any_free(self, node: int) -> bool:
        return any(self.is_free(leaf) for leaf in self.leaves(node))

    def factors(self, node: int) -> list[int]:
        root = self.find(node)
        if self._kind[root] != PROD:
            return [root]
        return [f for p in self._parts[root] for f in self.factors(p)]

    def _summands(self, node: int) -> list[int]:
        root = self.find(node)
        if self._kind[root] != SUM:
            return [root]
        return [s for p in self._parts[root] for s in self._summands(p)]

    def companions(self, atom: int) -> set[int]:
        """Atoms beside ``atom`` in every tensor where it occurs."""
        root = self.find(atom)
        near = self._near[root]
        return set.intersection(*map(self._resolved, near)) - {root} if near else set()

    def _resolved(self, near: Iterable[int]) -> set[int]:
        return {leaf for n in near for leaf in self._plain(n)}

    def _plain(self, node: int) -> list[int]:
        """Leaves that are not one alternative of a sum: only these stand beside *every* position of a neighbour."""
        root = self.find(node)
        if self._kind[root] == ATOM:
            return [root] if self.sizes[root] > 1 else []
        return [x for p in self._parts[root] for x in self._plain(p)] if self._kind[root] == PROD else []

    def doubled(self) -> set[int]:
        """Atoms that stand twice in one activation: their units meet each other, so nothing else is nested in them."""
        found: set[int] = set()
        for axes in self._activations:
            plain = [leaf for a in axes for leaf in self._plain(a)]
            if len(set(plain)) < len(plain):
                found.update(leaf for leaf in plain if plain.count(leaf) > 1)
        return found

    # ---- learning

    def fix(self, node: int, reason: str) -> None:
        for leaf in self.leaves(node):
            if self._reason[leaf] is None:
                self._reason[leaf] = reason
            if leaf in self.cases:
                for instance in self.cases.pop(leaf)[1].values():
                    self.fix(instance, reason)

    def occur(self, axes: Sequence[int], *, weight: bool = False) -> None:
        """A tensor with these axes exists (also one hidden inside an operator, such as the mean in a norm)."""
        if not weight:
            self._activations.append(tuple(axes))
        beside = [self._plain(a) for a in axes]
        for i, a in enumerate(axes):
            around = {x for j, b in enumerate(beside) if j != i for x in b}
            for leaf, near in self._walk(a, around):
                if self._reason[leaf] is None:
                    self._near[leaf].append(near - {leaf})
                    if len(self._near[leaf]) > 8:
                        self._near[leaf] = [self.companions(leaf)]
        for leaf in list(self.cases):
            if leaf in self.cases and self.find(self.cases[leaf][0]) not in self.companions(leaf):
                self._collapse(leaf)

    def _walk(self, node: int, near: set[int]) -> Iterator[tuple[int, set[int]]]:
        root = self.find(node)
        if self._kind[root] == ATOM:
            yield root, near
            return
        parts = self._parts[root]
        for i, p in enumerate(parts):
            here = near
            if self._kind[root] == PROD:
                here = near.union(*(self._plain(q) for j, q in enumerate(parts) if j != i))
            yield from self._walk(p, here)

    def _collapse(self, leaf: int) -> None:
        for instance in self.cases.pop(leaf)[1].values():
            self.unify(instance, leaf)

    def at(self, node: int, selector: int, position: Position, rows: int | None = None) -> int:
        """The type ``node`` has where ``selector`` is at ``position``: companions of it become atoms of their own.

        A position in bytes says where each of ``rows`` is.
        """
        root = self.find(node)
        if self._kind[root] != ATOM:
            parts = [self.at(p, selector, position, rows) for p in self._parts[root]]
            if all(a == b for a, b in zip(parts, self._parts[root], strict=True)):
                return node
            return self.product(parts) if self._kind[root] == PROD else self.sum(parts)
        selector = self.find(selector)
        if not self.is_free(root) or self._kind[selector] != ATOM or selector not in self.companions(root):
            return node
        by, instances = self.cases.setdefault(root, (selector, {}))
        if self.find(by) != selector or any(type(p) is not type(position) for p in instances):
            return node
        if position not in instances:
            instances[position] = new = self.fresh(self.sizes[root])
            self.generic[new] = root
            if root in self.copied:
                self.copied.add(new)
                self._whole[new] = {root}
            beside = {self.at(c, selector, position, rows) for c in self.companions(root) - {selector}}
            self._near[new] = [beside | ({rows} if rows is not None else set())]
        if isinstance(position, bytes) and rows is not None:
            self._rows.setdefault(position, set()).add(rows)
        return instances[position]

    def settle(self, weights: Iterable[Sequence[int]]) -> None:
        """Routes keep an arrangement for each position only where that can be: the others become ordinary axes.

        An instance may live nowhere but beside the rows of one route, and in no axis of ``weights`` itself.
        """
        while (wrong := self._wrong_route(weights)) is not None:
            self._collapse(wrong)
        for _, instances in list(self.cases.values()):
            routes = [p for p in instances if isinstance(p, bytes)]
            for other in routes[1:]:  # what several examples say about the same experts
                self.unify(instances[routes[0]], instances.pop(other))

    def _wrong_route(self, weights: Iterable[Sequence[int]]) -> int | None:
        direct = {leaf for axes in weights for a in axes for leaf in self.leaves(a)}
        taken: dict[int, bytes] = {}
        for atom, (_, instances) in self.cases.items():
            for position, instance in instances.items():
                if isinstance(position, int):
                    continue
                for leaf in self.leaves(instance):
                    if (
                        leaf in direct
                        or taken.setdefault(leaf, position) != position
                        or not self._beside(leaf, position)
                    ):
                        return atom
        return None

    def routes_of(self, leaf: int) -> list[bytes]:
        """The routes that an atom is a case of."""
        root = self.find(leaf)
        return [
            p
            for _, instances in self.cases.values()
            for p, i in instances.items()
            if isinstance(p, bytes) and root in self.leaves(i)
        ]

    def rows_of(self, route: bytes) -> list[set[int]]:
        """What the axes are made of whose rows take the route."""
        return [set(own) for rows in self._rows.get(route, ()) if (own := self._plain(rows))]

    def unroute(self, leaf: int) -> None:
        """The atom is one set of units after all, whatever the row."""
        root = self.find(leaf)
        for atom, (_, instances) in list(self.cases.items()):
            if any(isinstance(p, bytes) and root in self.leaves(i) for p, i in instances.items()):
                self._collapse(atom)

    @property
    def has_routes(self) -> bool:
        return bool(self._rows)

    def _beside(self, leaf: int, route: bytes) -> bool:
        if self._reason[leaf] is not None:
            return True
        near = self.companions(leaf)
        return any(near.issuperset(rows) for rows in self.rows_of(route))

    def unify(self, a: int, b: int) -> None:
        """The two types are the same axis from now on."""
        a, b = self.find(a), self.find(b)
        if a == b:
            return
        if self.sizes[a] != self.sizes[b]:
            self._conflict(a, b)
            return
        if self.sizes[a] < 2:
            return
        ka, kb = self._kind[a], self._kind[b]
        if ka == ATOM and kb == ATOM:
            self._union(a, b)
        elif ka == ATOM:
            self._bind(a, b)
        elif kb == ATOM:
            self._bind(b, a)
        elif ka == PROD and kb == PROD:
            self._match_factors(a, b)
        else:  # two sums, or (a+b)·c, which is a·c + b·c: the parts are whole numbers of the first factor's units
            self._match_summands(a, b)

    def _conflict(self, a: int, b: int) -> None:
        text = f"axes of sizes {self.sizes[a]} and {self.sizes[b]} meet in a way that does not factor"
        self.conflicts.append(text)
        self.fix(a, text)
        self.fix(b, text)

    def _union(self, a: int, b: int) -> None:
        cases = [self.cases.pop(x) for x in (a, b) if x in self.cases]
        if a in self.copied and b in self.copied:
            self._whole.setdefault(a, set()).update(self._whole.pop(b, ()))
        else:
            for x in (a, b):
                self._uneven(x, [i for _, instances in cases for i in instances.values()])
        self._parent[b] = a
        reason = self._reason[a] if self._reason[a] is not None else self._reason[b]
        self._near[a] = self._near[a] + self._near[b]  # not yet intersected: they may still turn out to be the same
        if reason is not None:
            self._reason[a] = reason
        for selector, instances in cases:
            if reason is None and (a not in self.cases or self.find(self.cases[a][0]) == self.find(selector)):
                kept = self.cases.setdefault(a, (selector, {}))[1]
                for position, instance in instances.items():
                    if any(type(p) is not type(position) for p in kept):
                        self.unify(instance, a)
                    elif position in kept:
                        self.unify(kept[position], instance)
                    else:
                        kept[position] = instance
            else:
                for instance in instances.values():
                    self.unify(instance, a)

    def _bind(self, atom: int, compound: int) -> None:
        """An atom turns out to be a product or a sum."""
        reason, near, cases = self._reason[atom], self._near[atom], self.cases.pop(atom, None)
        leaves = self.leaves(compound)
        if atom not in self.copied:
            for leaf in leaves:
                self._uneven(leaf)
        elif self.copied.issuperset(leaves):
            whole = self._whole.pop(atom, set())
            for leaf in leaves:
                self._whole.setdefault(leaf, set()).update(whole)
        else:
            self._uneven(atom, () if cases is None else cases[1].values())
        self._parent[atom] = compound
        for leaf, own in self._walk(compound, set()):
            if self._reason[leaf] is None:
                self._near[leaf] = self._near[leaf] + [(n | own) - {leaf} for n in near]
        if reason is not None:
            self.fix(compound, reason)
        if cases is not None:
            for position, instance in cases[1].items():
                self.unify(instance, self.at(compound, cases[0], position))

    def _uneven(self, atom: int, cases: Iterable[int] = ()) -> None:
        """Values differ along the atom after all: along its ``cases`` too, and along the atom that it is a case of."""
        for node in (atom, *(leaf for case in cases for leaf in self.leaves(case))):
            self.copied.discard(node)
            for leaf in [leaf for whole in self._whole.pop(node, ()) for leaf in self.leaves(whole)]:
                if leaf in self.copied:
                    self._uneven(leaf, self.cases[leaf][1].values() if leaf in self.cases else ())

    def _piece(self, atom: int, size: int) -> int:
        """A part of an atom that is being taken apart; why the atom is fixed comes with what it is bound to."""
        node = self.fresh(size)
        if atom in self.copied:
            self.copied.add(node)
        return node

    def split(self, node: int, sizes: Sequence[int]) -> list[int]:
        """The factors of ``node`` grouped into types of the given sizes (their product is the node's size)."""
        queue = self.factors(node)
        out: list[int] = []
        for size in sizes:
            if queue and self._kind[self.find(queue[0])] == SUM and 1 < size < self.sizes[queue[0]]:
                self._turn(queue.pop(0), size, queue)
            taken: list[int] = []
            have = 1
            while have < size and queue:
                f = self.find(queue.pop(0))
                need = size // have
                if size % have == 0 and need % self.sizes[f] == 0:
                    taken.append(f)
                    have *= self.sizes[f]
                elif size % have == 0 and self.sizes[f] % need == 0:
                    head, tail = self._piece(f, need), self._piece(f, self.sizes[f] // need)
                    self.unify(f, self.product([head, tail]))
                    queue[:0] = [*self.factors(head), *self.factors(tail)]
                else:
                    text = f"an axis of {self.sizes[self.find(node)]} is reshaped across its parts"
                    self.fix(node, text)
                    return [self.fresh(s, text) for s in sizes]
            out.append(self.product(taken))
        return out

    def _turn(self, total: int, count: int, queue: list[int]) -> None:
        """A concatenation of ``count`` pieces of one size becomes count × piece, the piece another one at each position."""
        size, at = self.sizes[total] // count, 0
        inside: set[int] = set()  # where no piece may begin
        for p in self._summands(total):
            if self.find(p) not in self.copied:  # equal values may be cut anywhere
                inside.update(range(at + 1, at + self.sizes[p]))
            at += self.sizes[p]
        edges = [size * i for i in range(1, count)]
        if self.sizes[total] % count or inside.intersection(edges):
            queue.insert(0, total)
            return
        pieces = self.cut(total, edges)
        which = self.fresh(count, "concatenated parts")
        piece = self.piled(which, pieces)
        self._parent[self.find(total)] = self._compound(PROD, [which, piece], self.sizes[total])
        queue[:0] = [which, piece]

    def piled(self, which: int, nodes: Sequence[int]) -> int:
        """The axis that is ``nodes[i]`` where ``which`` is at i: one axis as soon as it stands without ``which``."""
        first = self.find(nodes[0])
        if all(self.find(n) == first for n in nodes) or self.sizes[first] < 2:
            return first
        node = self.fresh(self.sizes[first])
        self._near[node] = [{which}]
        self.cases[node] = (which, dict(enumerate(nodes)))
        return node

    def _match_factors(self, a: int, b: int) -> None:
        fa, fb = self.factors(a), self.factors(b)
        self._parent[b] = a
        while fa and fb:
            x, y = self.find(fa.pop(0)), self.find(fb.pop(0))
            if self.sizes[x] == self.sizes[y]:
                self.unify(x, y)
                continue
            if self.sizes[x] > self.sizes[y]:
                x, y, fa, fb = y, x, fb, fa
            if self.sizes[y] % self.sizes[x]:
                for n in (x, y, *fa, *fb):
                    self.fix(n, "products of different sizes meet")
                self.conflicts.append(f"factors {self.sizes[x]} and {self.sizes[y]}")
                return
            head, tail = self.split(y, [self.sizes[x], self.sizes[y] // self.sizes[x]])
            self.unify(x, head)
            fb[:0] = self.factors(tail)

    def _match_summands(self, a: int, b: int) -> None:
        bounds = [self._bounds(self._summands(n)) for n in (a, b)]
        cuts = sorted({*bounds[0], *bounds[1]})
        pa, pb = self.cut(a, cuts), self.cut(b, cuts)
        a, b = self.find(a), self.find(b)
        if a != b and self._kind[a] == self._kind[b] == SUM:
            self._parent[b] = a
        for x, y in zip(pa, pb, strict=True):
            self.unify(x, y)

    def _bounds(self, parts: Sequence[int]) -> list[int]:
        out, at = [], 0
        for p in parts[:-1]:
            at += self.sizes[p]
            out.append(at)
        return out

    def cut(self, node: int, cuts: Sequence[int]) -> list[int]:
        """The consecutive pieces of an axis between ``cuts`` (ascending; those that are not inside the axis say nothing)."""
        root = self.find(node)
        size = self.sizes[root]
        edges = [0, *(c for c in cuts if 0 < c < size), size]
        spans = list(itertools.pairwise(edges))
        if len(spans) == 1:
            return [root]
        if self._kind[root] == ATOM:
            pieces = [self._piece(root, hi - lo) for lo, hi in spans]
            self._bind(root, self.sum(pieces))
            return pieces
        if self._kind[root] == SUM:
            return self._cut_sum(root, spans)
        factors = self.factors(root)
        rest = math.prod(self.sizes[f] for f in factors[1:])
        if any(e % rest for e in edges):
            text = f"an axis of {size} is cut across its parts"
            self.fix(root, text)
            return [self.fresh(hi - lo, text) for lo, hi in spans]
        first = factors[0]
        if all(hi - lo == rest for lo, hi in spans):  # one piece per position of the first factor
            self_at = [[self.at(f, first, i) for f in factors[1:]] for i in range(len(spans))]
            self.fix(first, "taken apart")
            return [self.product(p) for p in self_at]
        heads = self.cut(first, [e // rest for e in edges[1:-1]])
        return [self.product([h, *factors[1:]]) for h in heads]

    def _cut_sum(self, root: int, spans: list[tuple[int, int]]) -> list[int]:
        inner: list[tuple[int, int, int]] = []  # (start, end, node), cut at every edge
        at = 0
        for p in self._summands(root):
            local = sorted({e - at for span in spans for e in span})
            for piece in self.cut(p, local):
                inner.append((at, at + self.sizes[piece], piece))
                at += self.sizes[piece]
        return [self.sum([node for start, _, node in inner if lo <= start < hi]) for lo, hi in spans]

"""What a wiring is made of: members (one axis of one tensor, seen from a group), groups, bases, and what must hold of them. NumPy only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument

Shapes = Mapping[str, tuple[int, ...]]
SYMMETRIES = ("permutation", "sign", "scale")
ROLES = ("out", "in", "add", "mul", "stat")
BASES = ("orthogonal", "centred", "invertible", "rotary", "signs", "scales")


@dataclass(frozen=True, eq=False)
class Member:
    """One axis of one tensor, seen from one group.

    ``index`` is an int64 matrix of shape (size, k): row u holds the positions on ``axis`` that belong to unit u, in the
    same slot order for every unit. ``role`` says what the axis does for the unit: ``out`` (a row that produces it), ``in``
    (a column that reads it), ``add`` (bias-like), ``mul`` (a gain), ``stat`` (running statistics), several joined by "+".
    ``where`` is ``(other axis, positions)`` when the member covers only that slab of the tensor.
    """

    tensor: str
    axis: int
    index: NDArray[np.int64]
    role: str
    where: tuple[int, NDArray[np.int64]] | None = None

    @property
    def roles(self) -> frozenset[str]:
        """The role's parts: a tied matrix may be "out" and "in" along one axis."""
        return frozenset(self.role.split("+"))

    @property
    def k(self) -> int:
        """Positions per unit."""
        return int(self.index.shape[1])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Member):
            return NotImplemented
        if (self.tensor, self.axis, self.role) != (other.tensor, other.axis, other.role):
            return False
        if (self.where is None) != (other.where is None):
            return False
        if (
            self.where
            and other.where
            and not (self.where[0] == other.where[0] and np.array_equal(self.where[1], other.where[1]))
        ):
            return False
        return np.array_equal(self.index, other.index)

    def __hash__(self) -> int:
        return hash((self.tensor, self.axis, self.role, self.index.shape))


@dataclass(frozen=True)
class Gauge:
    """One more way in which a group's units may be rescaled: ``kind`` is "sign" or "scale", one exponent per member."""

    kind: str
    exponents: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """``size`` interchangeable units, and every place where they live.

    ``exponents[i]`` says how a factor s of a unit acts on its values in ``members[i]``: they are multiplied by
    ``s ** exponents[i]``. It holds for s = -1 when "sign" is in ``symmetries`` and for s > 0 when "scale" is. ``gauges``
    lists further independent rescalings (norm statistics, weight norm). ``parent`` is ``(group, unit)`` for a group that
    lives inside one unit of another: the dims of one head. ``ops`` names what acts on the unit axis; ``blockers`` says why
    the group cannot be given more units without changing the function (empty: it can).
    """

    name: str
    size: int
    members: tuple[Member, ...]
    symmetries: frozenset[str] = frozenset({"permutation"})
    exponents: tuple[int, ...] = ()
    blockers: tuple[str, ...] = ()
    parent: tuple[str, int] | None = None
    ops: frozenset[str] = frozenset()
    gauges: tuple[Gauge, ...] = ()

    def __post_init__(self) -> None:
        if not self.exponents:
            object.__setattr__(self, "exponents", tuple(_default_exponent(m) for m in self.members))
        if len(self.exponents) != len(self.members):
            raise InvalidArgument(
                f"group {self.name!r} has {len(self.members)} members but {len(self.exponents)} exponents"
            )
        for m in self.members:
            if m.index.ndim != 2 or m.index.shape[0] != self.size:
                raise InvalidArgument(
                    f"group {self.name!r}: member {m.tensor}[{m.axis}] has an index of shape {m.index.shape}, expected ({self.size}, k)"
                )

    def with_role(self, *roles: str) -> tuple[Member, ...]:
        """The members that have any of ``roles``."""
        return tuple(m for m in self.members if m.roles & set(roles))

    @property
    def producers(self) -> tuple[Member, ...]:
        """The members whose axis is an output: the weights that compute the units."""
        return self.with_role("out")

    @property
    def consumers(self) -> tuple[Member, ...]:
        """The members whose axis is an input: the weights that read the units."""
        return self.with_role("in")

    def __str__(self) -> str:
        from weightlapse.wiring.words import group_sentence

        return group_sentence(self)


@dataclass(frozen=True)
class Norm:
    """The gain of a norm on a stream: ``offset + gain`` multiplies the normed numbers (and ``bias`` is added) before ``readers``.

    ``readers``: the (tensor, axis) that read nothing else, into which the gain can be folded. Without any it must stay where
    it is (its reader is tied to a producer, say): then the basis may change only while the gain is the same for all numbers.
    """

    gain: str
    offset: float = 0.0
    bias: str | None = None
    readers: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Basis:
    """``size`` numbers that are only ever added, normed and read by matrices, so that they may be written in another basis.

    A matrix M of the set that ``kind`` names acts on each member along its axis, slot by slot of its index (size, k): as M
    where its exponent is 1, as the inverse transpose of M where it is -1. Kinds: "orthogonal"; "centred", an orthogonal one that
    keeps the vector of ones up to sign (LayerNorm subtracts the mean); "invertible"; "rotary", turning and scaling each of
    ``pairs`` in its plane and mixing the other numbers by any invertible matrix; "signs" and "scales", one factor for each of
    ``pairs`` (1 or -1; any but 0). ``norms`` are folded into their readers first. ``parent`` is ``(group, unit)`` for the numbers of one head.
    """

    name: str
    size: int
    kind: str
    members: tuple[Member, ...]
    exponents: tuple[int, ...]
    pairs: tuple[tuple[int, ...], ...] = ()
    norms: tuple[Norm, ...] = ()
    parent: tuple[str, int] | None = None

    @property
    def turns(self) -> bool:
        """Whether its matrices are orthogonal."""
        return self.kind in ("orthogonal", "centred")

    @property
    def is_stream(self) -> bool:
        """Whether it is that of a stream that may be turned, rather than of one head."""
        return self.parent is None and self.turns


def _default_exponent(member: Member) -> int:
    # "out+in" (tied) and statistics have no exponent of their own until one is derived.
    if member.roles & {"out", "add", "mul"}:
        return 0 if "in" in member.roles else 1
    return -1 if "in" in member.roles else 0


def blocks(size: int, k: int = 1, offset: int = 0) -> NDArray[np.int64]:
    """The index matrix of ``size`` units that own ``k`` consecutive positions each, from ``offset`` on."""
    return offset + np.arange(size * k, dtype=np.int64).reshape(size, k)


def check_members(groups: Sequence[Group], bases: Sequence[Basis], shapes: Shapes) -> None:
    """Raises InvalidArgument when a member lies outside its tensor, or two units of a group share a position."""
    names: set[str] = set()
    for g in groups:
        if g.name in names:
            raise InvalidArgument(f"two groups are called {g.name!r}; group names must differ")
        names.add(g.name)
        unknown = set(g.symmetries) - set(SYMMETRIES)
        if unknown:
            raise InvalidArgument(
                f"group {g.name!r}: unknown symmetry {sorted(unknown)[0]!r}; known: {', '.join(SYMMETRIES)}"
            )
        for m in g.members:
            _check_member(g, m, shapes)
    for b in bases:
        if b.name in names:
            raise InvalidArgument(f"two groups or bases are called {b.name!r}; their names must differ")
        names.add(b.name)
        _check_basis(b, groups, shapes)
    for g in groups:
        if g.parent is None:
            continue
        outer = next((o for o in groups if o.name == g.parent[0]), None)
        if outer is None or not 0 <= g.parent[1] < outer.size:
            raise InvalidArgument(
                f"group {g.name!r} lies in unit {g.parent[1]} of {g.parent[0]!r}, which does not exist"
            )


def _check_basis(b: Basis, groups: Sequence[Group], shapes: Shapes) -> None:
    if b.kind not in BASES:
        raise InvalidArgument(f"basis {b.name!r}: unknown kind {b.kind!r}; known: {', '.join(BASES)}")
    if len(b.exponents) != len(b.members) or set(b.exponents) - {1, -1}:
        raise InvalidArgument(f"basis {b.name!r}: each member needs an exponent, 1 or -1, got {b.exponents}")
    for m in b.members:
        _check_member(b, m, shapes)
        if m.index.shape[0] != b.size or m.where is not None:
            raise InvalidArgument(
                f"basis {b.name!r}: member {m.tensor}[{m.axis}] needs {b.size} rows of positions and no slab"
            )
    held = [i for p in b.pairs for i in p]
    if len(set(held)) != len(held) or any(not 0 <= i < b.size for i in held):
        raise InvalidArgument(f"basis {b.name!r}: its pairs must name each of 0 to {b.size - 1} at most once")
    places = {(m.tensor, m.axis) for m in b.members}
    for n in b.norms:
        lost = [t for t in (n.gain, n.bias) if t is not None and t not in shapes]
        lost += [t for t, axis in n.readers if (t, axis) not in places]
        if lost:
            raise InvalidArgument(
                f"basis {b.name!r}: its norm {n.gain!r} names {lost[0]!r}, which is no tensor or no member"
            )
    if b.parent is not None and not any(g.name == b.parent[0] and 0 <= b.parent[1] < g.size for g in groups):
        raise InvalidArgument(f"basis {b.name!r} lies in unit {b.parent[1]} of {b.parent[0]!r}, which does not exist")


def _check_member(g: Group | Basis, m: Member, shapes: Shapes) -> None:
    place = f"group {g.name!r}: member {m.tensor}[{m.axis}]"
    bad = _unknown_roles(m.roles)
    if bad:
        raise InvalidArgument(f"{place} has the unknown role {bad!r}; known: {', '.join(ROLES)}")
    if np.unique(m.index).size != m.index.size:
        raise InvalidArgument(
            f"{place} gives one position to two units (or twice to one); every unit needs positions of its own"
        )
    if m.tensor not in shapes:
        raise InvalidArgument(f"{place}: the tensor is not declared; add a line 'tensor {m.tensor} (shape)'")
    shape = shapes[m.tensor]
    if not 0 <= m.axis < len(shape):
        raise InvalidArgument(f"{place}: the tensor has shape {shape}, so there is no axis {m.axis}")
    if m.index.size and (m.index.min() < 0 or m.index.max() >= shape[m.axis]):
        raise InvalidArgument(
            f"{place} reaches position {int(m.index.max())}, but the axis has {shape[m.axis]} positions"
        )
    if m.where is not None:
        other, positions = m.where
        if not 0 <= other < len(shape) or other == m.axis or (positions.size and positions.max() >= shape[other]):
            raise InvalidArgument(f"{place}: the slab on axis {other} does not exist in shape {shape}")


def _unknown_roles(roles: Iterable[str]) -> str:
    return next((r for r in roles if r not in ROLES), "")

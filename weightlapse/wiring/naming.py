"""Names of one architecture built twice: Keras numbers its layers through a program, so that two such networks share no name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Member, Norm

Shapes = Mapping[str, Sequence[int]]
_NUMBER = re.compile(r"_\d+$")


def paired_names(a: Shapes, b: Shapes) -> dict[str, str] | None:
    """For each name of b the name in a that has its place, matched by structure; None where that cannot be told.

    Names are Keras paths ("sequential_1/dense_3/kernel"). They are matched with the numbers that Keras gives left aside, the k-th of a kind with
    the k-th, and where layers were given names of their own by their order, when leaf names and numbers of axes agree throughout. Names that both have stay
    what they are.

    >>> a = {"sequential/dense/kernel": (3, 8), "sequential/dense_1/kernel": (8, 2)}
    >>> b = {"sequential_1/dense_7/kernel": (3, 8), "sequential_1/dense_8/kernel": (8, 2)}
    >>> paired_names(a, b)["sequential_1/dense_8/kernel"]
    'sequential/dense_1/kernel'
    """
    if set(a) == set(b):
        return {name: name for name in b}
    if len(a) != len(b) or not all("/" in name for name in (*a, *b)):
        return None
    by_kind = _by_kind(a, b)
    if by_kind is not None and all(len(a[mine]) == len(b[name]) for name, mine in by_kind.items()):
        return by_kind
    pairs = list(zip(b, a, strict=True))
    if all(_leaf(name) == _leaf(mine) and len(b[name]) == len(a[mine]) for name, mine in pairs):
        return dict(pairs)
    return None


def _leaf(name: str) -> str:
    return name.rpartition("/")[2]


def _by_kind(a: Shapes, b: Shapes) -> dict[str, str] | None:
    kinds: tuple[dict[tuple[str, ...], list[str]], ...] = ({}, {})
    for side, found in zip((a, b), kinds, strict=True):
        for name in side:
            found.setdefault(tuple(_NUMBER.sub("", part) for part in name.split("/")), []).append(name)
    if {k: len(v) for k, v in kinds[0].items()} != {k: len(v) for k, v in kinds[1].items()}:
        return None
    return {name: mine for kind, names in kinds[1].items() for name, mine in zip(names, kinds[0][kind], strict=True)}


def renamed_wiring(wiring: Wiring, names: Mapping[str, str]) -> Wiring:
    """The same wiring with its tensors under other names; names that ``names`` lacks stay."""

    def new(name: str) -> str:
        return names.get(name, name)

    def moved(members: Sequence[Member]) -> tuple[Member, ...]:
        return tuple(replace(m, tensor=new(m.tensor)) for m in members)

    def of(norm: Norm) -> Norm:
        readers = tuple((new(n), axis) for n, axis in norm.readers)
        return replace(norm, gain=new(norm.gain), bias=None if norm.bias is None else new(norm.bias), readers=readers)

    return replace(
        wiring,
        groups=tuple(replace(g, members=moved(g.members)) for g in wiring.groups),
        bases=tuple(replace(b, members=moved(b.members), norms=tuple(map(of, b.norms))) for b in wiring.bases),
        aliases={new(n): [new(o) for o in others] for n, others in wiring.aliases.items()},
        unseen=tuple(map(new, wiring.unseen)),
        shapes={new(n): shape for n, shape in wiring.shapes.items()},
        fixed={(new(n), axis): why for (n, axis), why in wiring.fixed.items()},
    )


def shapes_of(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of a state of arrays or tensors."""
    return {name: tuple(value.shape) for name, value in state.items() if hasattr(value, "shape")}

"""What may act on the queries and keys of a head: any matrix, or, under rotary positions and norms, turns, signs or factors of pairs of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from weightlapse.wiring.members import Basis, Member


def query_forms(
    name: str,
    members: tuple[Member, ...],
    exponents: tuple[int, ...],
    parent: tuple[str, int] | None,
    kinds: Iterable[str] = ("rotary", "signs"),
) -> list[Basis]:
    """Guesses for one head, the freest first; ``members`` as those of a `Basis`, each with the head's numbers along its rows."""
    size = len(members[0].index)
    out = [Basis(name, size, "invertible", members, exponents, parent=parent)]
    out += [
        Basis(name, size, kind, members, exponents, pairs, parent=parent) for kind in kinds for pairs in _pairings(size)
    ]
    return out


def _pairings(d: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Which numbers rotary positions may turn together: halves or neighbours, of all numbers or of the first or last of them."""
    sizes = [d, d // 2, d // 4, 3 * d // 4, *(r for r in (2 * d // 5, 32, 64) if r < d)]
    for r in dict.fromkeys([*sizes, *range(d - d % 2, 1, -2)] if d <= 16 else sizes):
        if r >= 2 and r % 2 == 0:
            for start in dict.fromkeys((0, d - r)):
                yield tuple((start + i, start + i + r // 2) for i in range(r // 2))
                if r > 2:
                    yield tuple((start + 2 * i, start + 2 * i + 1) for i in range(r // 2))

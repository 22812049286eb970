"""Systems of equations against all values of their unknowns (modulo 2) and against elimination over fractions."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction

import pytest

from weightlapse.wiring.equations import Equations, Span

NAMES = "abcde"
Row = list[tuple[str, int]]


def rank(rows: list[list[Fraction]]) -> int:
    rows, found = [list(map(Fraction, r)) for r in rows], 0
    for column in range(len(NAMES)):
        pivot = next((r for r in rows[found:] if r[column]), None)
        if pivot is None:
            continue
        rows.remove(pivot)
        rows = [[a - r[column] / pivot[column] * b for a, b in zip(r, pivot, strict=True)] if k >= found else r for k, r in enumerate(rows)]  # fmt: skip
        rows.insert(found, pivot)
        found += 1
    return found


def dense(row: Row) -> list[int]:
    return [sum(c for k, c in row if k == name) for name in NAMES]


def drawn(seed: int) -> tuple[list[Row], list[Row]]:
    """Equations of one to four unknowns (a name may come twice), and sums to be asked about."""
    draw = random.Random(seed)

    def row() -> Row:
        return [(draw.choice(NAMES), draw.choice((1, -1, 1, -1, 2, -2, 3, 0))) for _ in range(draw.randint(1, 4))]

    return [row() for _ in range(draw.randint(0, 5))], [row() for _ in range(12)]


def zero(row: Row, values: list[Fraction], modulus: int | None) -> bool:
    total = sum(c * v for c, v in zip(dense(row), values, strict=True))
    return total % modulus == 0 if modulus else total == 0


@pytest.mark.parametrize("seed", range(40))
def test_equations_over_fractions(seed: int) -> None:
    rows, sums = drawn(seed)
    e = Equations(None)
    e.add_all(rows)
    system = [dense(r) for r in rows]
    free = len(NAMES) - rank(system)
    for row in sums:
        follows = rank([*system, dense(row)]) == rank(system)
        assert (e.expression(row) == {}) == follows
        other = e.copy()
        other.add(row)
        assert other.expression(row) == {}
        assert len(other.solutions(list(NAMES))) == free - (not follows)
        assert (e.expression(row) == {}) == follows
    found = e.solutions(list(NAMES))
    assert len(found) == free == rank(found)
    assert all(zero(r, v, None) for r in rows for v in found)
    assert [[v != 0 for v in values] for values in e.solutions([[], "b"])] == [[False, True]] * e.free("b")
    tied = e.solutions(["abc", "d", "e"])
    same: list[Row] = [[("a", 1), ("b", -1)], [("a", 1), ("c", -1)]]
    assert len(tied) == len(NAMES) - rank([*system, *map(dense, same)])
    assert all(zero(r, [v[0]] * 3 + v[1:], None) for r in rows for v in tied)
    assert len(e.solutions(list(NAMES))) == free  # tied in a copy
    for name in NAMES:
        assert e.free(name) == (rank([*system, dense([(name, 1)])]) != rank(system))
        if e.free(name):
            values = e.ratios(name, NAMES)
            assert values[NAMES.index(name)] == 1
            assert all(zero(r, values, None) for r in rows)
            assert all(isinstance(v, int) or v.denominator > 1 for v in values)


@pytest.mark.parametrize("seed", range(40))
def test_equations_modulo_two(seed: int) -> None:
    rows, sums = drawn(100 + seed)
    e = Equations(2)
    e.add_all(rows)
    every = [v for v in itertools.product((0, 1), repeat=len(NAMES)) if all(zero(r, v, 2) for r in rows)]
    for row in sums:
        assert (e.expression(row) == {}) == all(zero(row, v, 2) for v in every)
    found = e.solutions(list(NAMES))
    assert 2 ** len(found) == len(every)
    assert all(tuple(v) in every for v in found)
    assert all(2 ** len(e.solutions(["ab", "c", "de"])) == len([v for v in every if v[0] == v[1] and v[3] == v[4]]) for _ in range(2))  # fmt: skip
    for i, name in enumerate(NAMES):
        assert e.free(name) == any(v[i] for v in every)
        if e.free(name):
            values = e.ratios(name, NAMES)
            assert values[i] == 1
            assert tuple(v % 2 for v in values) in every


@pytest.mark.parametrize("seed", range(20))
def test_what_vectors_span(seed: int) -> None:
    rows, sums = drawn(200 + seed)
    span, two = Span(None), Span(2)
    held: list[list[int]] = []
    sets = {(0,) * len(NAMES)}
    for v in map(dense, (*rows, *sums)):
        grows = rank([*held, v]) > rank(held)
        assert span.holds(v) is not grows
        assert span.grows(v) is grows
        assert span.holds(v)
        held.append(v)
        odd = tuple(c % 2 for c in v)
        assert two.holds(v) is (odd in sets)
        assert two.grows(v) is (odd not in sets)
        sets |= {tuple((a + b) % 2 for a, b in zip(s, odd, strict=True)) for s in sets}


@pytest.mark.parametrize("factor", [1, -1, 2, -2, 3, -3])
def test_an_equation_is_solved_for_any_factor(factor: int) -> None:
    for others in ([("b", 3)], [("b", 3), ("c", 1)], [("b", -factor)]):
        e = Equations(None)
        e.add([("a", factor), *others])
        assert e.expression([("a", 2 * factor), *((k, 2 * c) for k, c in others)]) == {}
        assert e.expression([("a", factor)]) == {k: -c for k, c in others} or others == [("b", -factor)]
        assert e.expression([("a", 2 * factor), *others]) != {}


def test_a_solution_where_one_unknown_is_one() -> None:
    e = Equations(None)
    e.add([("unit", 2), ("b", -3), ("c", 1)])
    e.add([("c", 1), ("d", 2)])
    found = e.ratios("unit", ["unit", "b", "c", "d", "elsewhere"])
    assert found[0] == 1
    assert found[4] == 0
    assert 2 * found[0] - 3 * found[1] + found[2] == 0 == found[2] + 2 * found[3]
    assert found.count(0) >= 2
    e.add([("c", 1)])
    assert e.ratios("unit", ["unit", "b"]) == [1, Fraction(2, 3)]
    assert e.ratios("b", ["unit", "b"]) == [Fraction(3, 2), 1]

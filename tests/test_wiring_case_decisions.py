"""Axes that hold another set of units at each position of a neighbour, routes that pick the position for each row, and axes along which all values are equal."""

from __future__ import annotations

import pytest

from tests.test_wiring_decisions import fresh
from weightlapse.wiring.dims import PROD, SUM, Dims


def same(dims: Dims, *nodes: int) -> bool:
    return len({dims.find(n) for n in nodes}) == 1


# ---- cases


def test_a_compound_axis_has_its_cases_part_by_part() -> None:
    dims, (heads, a, b, c) = fresh(2, 3, 4, 5)
    whole, row = dims.product([a, b]), dims.sum([b, c])
    dims.occur([heads, whole])
    first = dims.at(whole, heads, 0)
    assert dims.kind(first) == PROD
    assert [dims.sizes[p] for p in dims.parts(first)] == [3, 4]
    assert not set(dims.leaves(first)) & {a, b}
    assert dims.at(whole, heads, 0) != dims.at(whole, heads, 1)
    assert dims.at(row, heads, 0) != row  # b has cases, c has none
    assert dims.kind(dims.at(row, heads, 0)) == SUM
    assert dims.leaves(dims.at(row, heads, 0)) == [dims.at(b, heads, 0), c]
    assert dims.at(whole, c, 0) == whole
    assert dims.at(row, c, 0) == row


def test_the_cases_of_neighbours_are_neighbours() -> None:
    dims, (heads, a, b, other) = fresh(2, 3, 4, 5)
    dims.occur([heads, a, b])
    first = dims.at(a, heads, 1)
    assert dims.companions(first) == {dims.at(b, heads, 1)}
    assert dims.generic[first] == a
    assert dims.at(a, other, 0) == a  # no neighbour
    assert dims.at(heads, heads, 0) == heads
    assert dims.at(a, dims.product([heads, b]), 0) == a  # no single axis


def test_one_axis_has_cases_by_one_neighbour_only() -> None:
    dims, (heads, groups, a) = fresh(2, 3, 4)
    dims.occur([heads, groups, a])
    assert dims.at(a, heads, 0) != a
    assert dims.at(a, groups, 0) == a


def test_fixing_an_axis_fixes_its_cases() -> None:
    dims, (heads, a) = fresh(2, 3)
    dims.occur([heads, a])
    cases = [dims.at(a, heads, i) for i in (0, 1)]
    dims.fix(a, "output")
    assert [dims.reason(x) for x in cases] == ["output"] * 2
    assert not dims.cases


def test_axes_that_become_one_share_their_cases() -> None:
    dims, (heads, x, y) = fresh(3, 4, 4)
    dims.occur([heads, x])
    dims.occur([heads, y])
    x0, y0, y1 = dims.at(x, heads, 0), dims.at(y, heads, 0), dims.at(y, heads, 1)
    dims.unify(x, y)
    assert same(dims, x0, y0)
    assert not same(dims, x0, y1)
    assert same(dims, dims.at(x, heads, 1), y1)
    assert not same(dims, dims.at(x, heads, 2), x0, y1)


@pytest.mark.parametrize("how", ["other neighbour", "a reason", "rows"])
def test_axes_that_become_one_have_one_order_where_their_cases_do_not_fit(how: str) -> None:
    dims, (heads, others, x, y, rows) = fresh(3, 3, 4, 4, 5)
    dims.occur([heads, others, x])
    dims.occur([heads, others, y])
    x0, x1 = dims.at(x, heads, 0), dims.at(x, heads, 1)
    if how == "other neighbour":
        y0, y1 = dims.at(y, others, 0), dims.at(y, others, 1)
    elif how == "rows":
        y0, y1 = dims.at(y, heads, b"one", rows), dims.at(y, heads, b"two", rows)
    else:
        y0, y1 = dims.at(y, heads, 0), dims.at(y, heads, 1)
        dims._reason[y] = "output"
    dims.unify(x, y)
    assert same(dims, x, y, y0, y1)
    assert same(dims, x, x0, x1) == (how == "a reason")


def test_an_axis_with_cases_turns_out_to_be_a_product() -> None:
    dims, (heads, x, p, q) = fresh(2, 6, 2, 3)
    dims.occur([heads, x])
    x0, x1 = dims.at(x, heads, 0), dims.at(x, heads, 1)
    dims.unify(x, dims.product([p, q]))
    assert [dims.sizes[leaf] for leaf in dims.leaves(x0)] == [2, 3]
    assert not set(dims.leaves(x0)) & set(dims.leaves(x1))
    assert dims.leaves(x0) == dims.leaves(dims.at(x, heads, 0))
    assert dims.kind(x0) == PROD


def test_what_an_axis_stood_beside_stays_beside_its_parts() -> None:
    dims, (x, p, q, other) = fresh(6, 2, 3, 4)
    dims.occur([x, other])
    dims.unify(x, dims.product([p, q]))
    assert dims.companions(p) == {q, other}
    assert dims.companions(q) == {p, other}
    assert dims.companions(other) == {p, q}


def test_positions_of_the_first_axis_are_apart_where_they_stand_beside() -> None:
    dims, (heads, dim) = fresh(3, 4)
    whole = dims.product([heads, dim])
    dims.occur([whole])
    pieces = dims.cut(whole, [4, 8])
    assert len({dims.find(p) for p in pieces}) == 3
    assert all(map(dims.is_free, pieces))
    assert dims.reason(heads) == "taken apart"


def test_many_tensors_are_remembered_as_one() -> None:
    dims, (a, b, c) = fresh(2, 3, 4)
    for _ in range(12):
        dims.occur([a, b, c])
    assert len(dims._near[a]) <= 9
    assert dims.companions(a) == {b, c}
    dims.occur([a, c])
    assert dims.companions(a) == {c}


def test_what_stands_twice_in_a_result_meets_itself() -> None:
    dims, (a, b, c) = fresh(2, 3, 4)
    dims.occur([a, b, a])
    dims.occur([dims.product([b, c])])
    dims.occur([c, c], weight=True)
    assert dims.doubled() == {a}
    dims.occur([dims.product([b, c]), c])
    assert dims.doubled() == {a, c}
    one = dims.fresh(1)
    dims.occur([one, one])
    assert dims.doubled() == {a, c}


# ---- pieces


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("size", [2, 3])
def test_equal_pieces_in_a_row_are_a_number_times_a_piece(count: int, size: int) -> None:
    dims, pieces = fresh(*[size] * count)
    which, piece = dims.split(dims.sum(pieces), [count, size])
    assert dims.reason(which) == "concatenated parts"
    assert [dims.at(piece, which, i) for i in range(count)] == pieces
    dims.occur([which, piece])
    assert not same(dims, *pieces)
    dims.occur([piece])
    assert same(dims, *pieces)


def test_pieces_of_one_kind_are_that_piece() -> None:
    dims, (a, b) = fresh(3, 3)
    assert dims.split(dims.sum([a, a]), [2, 3])[1] == a
    which = dims.fresh(2, "stack")
    assert dims.piled(which, [a, a]) == a
    assert dims.piled(which, [a, b]) not in (a, b)
    one, other = dims.fresh(1), dims.fresh(1)
    assert dims.piled(which, [one, other]) == one


def test_a_row_of_pieces_is_split_where_they_end() -> None:
    dims, (a, b) = fresh(2, 4)
    total = dims.sum([a, b])
    first, rest = dims.split(total, [1, 6])
    assert dims.sizes[first] == 1
    assert dims.leaves(rest) == [a, b]
    d, e = dims.fresh(2), dims.fresh(4)
    dims.split(dims.sum([d, e]), [2, 3])  # a piece would begin inside of e
    assert not dims.any_free(d)
    assert not dims.any_free(e)


def test_equal_values_may_be_cut_anywhere() -> None:
    dims, (a,) = fresh(2)
    total = dims.sum([a, dims.copies(4)])
    which, piece = dims.split(total, [3, 2])
    assert dims.at(piece, which, 0) == a
    assert dims.is_free(a)


@pytest.mark.parametrize("sizes", [(2, 2, 3), (4, 3), (2, 6), (12,), (1, 12), (12, 1)])
def test_an_axis_of_two_is_split_across_both(sizes: tuple[int, ...]) -> None:
    dims, (a, b) = fresh(4, 3)
    parts = dims.split(dims.product([a, b]), sizes)
    assert [dims.sizes[p] for p in parts] == list(sizes)
    assert [dims.sizes[x] for p in parts for x in dims.leaves(p) if dims.sizes[x] > 1] == (
        [4, 3] if sizes in ((4, 3), (12,), (1, 12), (12, 1)) else [2, 2, 3]
    )
    assert dims.any_free(a)
    assert dims.any_free(b)


def test_a_fixed_axis_has_fixed_pieces() -> None:
    dims, (a, b) = fresh(6, 6)
    dims.fix(a, "input")
    dims.fix(b, "output")
    assert [dims.reason(p) for p in dims.cut(a, [2])] == ["input"] * 2
    assert [dims.reason(p) for p in dims.split(b, [2, 3])] == ["output"] * 2


# ---- equal values


def test_equal_values_stay_equal_in_parts_until_they_meet_others() -> None:
    dims = Dims()
    whole, parts = dims.copies(6), [dims.copies(2), dims.copies(3)]
    dims.unify(whole, dims.product(parts))
    assert dims.copied.issuperset(parts)
    assert dims.leaves(dims.renewed(whole)) != dims.leaves(whole)
    dims.unify(parts[0], dims.fresh(2))
    assert parts[0] not in dims.copied
    assert parts[1] in dims.copied
    once = dims.renewed(whole)
    assert dims.leaves(once)[0] == dims.find(parts[0])
    assert dims.leaves(once)[1] != dims.find(parts[1])


def test_what_is_not_of_equal_values_is_used_as_it_is() -> None:
    dims, (a, b) = fresh(2, 3)
    for node in (a, dims.product([a, b]), dims.sum([a, b])):
        assert dims.renewed(node) == node
    copied = dims.copies(3)
    dims.fix(copied, "input")
    assert dims.renewed(copied) == copied
    assert dims.copies(1) not in dims.copied
    assert dims.reason(dims.copies(1)) == "size 1"
    total = dims.sum([a, dims.copies(2)])
    assert dims.kind(dims.renewed(total)) == SUM
    assert dims.leaves(dims.renewed(total))[0] == a


def test_pieces_of_equal_values_are_of_equal_values() -> None:
    dims = Dims()
    assert dims.copied.issuperset(dims.cut(dims.copies(5), [2]))
    assert dims.copied.issuperset(dims.split(dims.copies(6), [2, 3]))
    assert not dims.copied.intersection(dims.cut(dims.fresh(5), [2]))


def test_an_axis_that_varies_makes_its_parts_vary() -> None:
    dims = Dims()
    parts = [dims.copies(2), dims.copies(3)]
    dims.unify(dims.fresh(6), dims.product(parts))
    assert not dims.copied.intersection(parts)


def test_equal_values_that_are_taken_in_part_by_others_vary_there() -> None:
    dims, (a,) = fresh(2)
    whole, part = dims.copies(6), dims.copies(3)
    dims.unify(whole, dims.product([a, part]))
    assert a not in dims.copied
    assert part in dims.copied


def cases_of_copies(dims: Dims, heads: int, size: int) -> tuple[int, int, int]:
    whole = dims.copies(size)
    dims.occur([heads, whole])
    return whole, dims.at(whole, heads, 0), dims.at(whole, heads, 1)


def test_values_that_differ_in_one_case_differ_in_all() -> None:
    dims, (heads, a) = fresh(2, 3)
    whole, first, second = cases_of_copies(dims, heads, 3)
    assert dims.copied.issuperset([whole, first, second])
    dims.unify(first, a)
    assert not dims.copied.intersection([whole, first, second, a])


def test_cases_of_two_axes_that_become_one_belong_to_both() -> None:
    dims, (heads, a) = fresh(2, 3)
    one, first, _ = cases_of_copies(dims, heads, 3)
    other, second, _ = cases_of_copies(dims, heads, 3)
    dims.unify(first, second)
    assert dims.copied.issuperset([one, other])
    dims.unify(second, a)
    assert not dims.copied.intersection([one, other])


@pytest.mark.parametrize("which", [0, 1])
def test_parts_of_a_case_belong_to_what_it_is_a_case_of(which: int) -> None:
    dims, (heads, a, b) = fresh(2, 2, 3)
    whole, first, second = cases_of_copies(dims, heads, 6)
    parts = [dims.copies(2), dims.copies(3)]
    dims.unify(first, dims.product(parts))
    assert dims.copied.issuperset([whole, second])
    dims.unify(parts[which], (a, b)[which])
    assert not dims.copied.intersection([whole, second, parts[which]])


def test_an_axis_that_varies_in_part_varies_in_its_cases() -> None:
    dims, (heads, a, b) = fresh(2, 2, 3)
    whole, first, second = cases_of_copies(dims, heads, 6)
    dims.unify(whole, dims.product([a, b]))
    assert not dims.copied.intersection([x for n in (whole, first, second) for x in dims.leaves(n)])
    whole, first, second = cases_of_copies(dims, heads, 3)
    dims.unify(whole, dims.fresh(3))
    assert not dims.copied.intersection([whole, first, second])


# ---- routes


def routed(*routes: bytes) -> tuple[Dims, int, int, int, list[int]]:
    """A stack of matrices, one for each expert; the hidden units that the rows of each route meet."""
    dims, (experts, hidden, rows) = fresh(3, 4, 5)
    assert not dims.has_routes
    dims.occur([experts, hidden], weight=True)
    found = [dims.at(hidden, experts, r, rows) for r in routes]
    assert dims.has_routes
    for x in found:
        dims.occur([rows, x])
    return dims, experts, hidden, rows, found


def test_rows_of_one_route_meet_the_same_units() -> None:
    dims, experts, hidden, rows, (a, again, b) = routed(b"one", b"one", b"two")
    assert a == again
    assert not same(dims, a, b, hidden)
    assert dims.routes_of(a) == [b"one"]
    assert dims.routes_of(b) == [b"two"]
    assert dims.routes_of(hidden) == []
    assert dims.rows_of(b"one") == [{rows}]
    assert dims.rows_of(b"three") == []
    assert dims.at(hidden, experts, 0) == hidden  # single positions are another kind of case


@pytest.mark.parametrize("count", [1, 2, 3])
def test_several_examples_speak_of_the_same_experts(count: int) -> None:
    dims, experts, hidden, _, found = routed(*[b"%d" % i for i in range(count)])
    dims.settle([[experts, hidden]])
    assert same(dims, *found)
    assert not same(dims, hidden, found[0])
    assert len(dims.cases[hidden][1]) == 1


def test_single_positions_are_not_made_one() -> None:
    dims, (heads, dim) = fresh(2, 3)
    dims.occur([heads, dim])
    a, b = (dims.at(dim, heads, i) for i in (0, 1))
    dims.settle([[heads, dim]])
    assert not same(dims, a, b)


@pytest.mark.parametrize("how", ["without its rows", "in a weight", "in two routes", "in a part"])
def test_routes_that_cannot_be_are_one_order(how: str) -> None:
    dims, experts, hidden, rows, (a, b) = routed(b"one", b"two")
    weights = [[experts, hidden]]
    if how == "without its rows":
        dims.occur([a])
    elif how == "in a weight":
        weights.append([a])
    elif how == "in two routes":
        dims.unify(a, b)
    else:
        part = dims.fresh(2)
        dims.unify(a, dims.product([part, dims.fresh(2)]))
        dims.occur([rows, part])
        weights.append([dims.product([dims.fresh(3), part])])
    dims.settle(weights)
    assert not dims.cases
    assert [dims.find(x) for x in dims.leaves(a)] == [dims.find(x) for x in dims.leaves(hidden)]


def test_fixed_units_of_a_route_need_no_rows() -> None:
    dims, experts, hidden, _, (a,) = routed(b"one")
    dims.fix(a, "output")
    dims.occur([a])
    dims.settle([[experts, hidden]])
    assert dims.routes_of(a) == [b"one"]


def test_a_route_is_given_up_for_the_units_in_question_only() -> None:
    dims, (experts, hidden, inner, rows) = fresh(3, 4, 6, 5)
    dims.occur([experts, hidden, inner], weight=True)
    a, b = (dims.at(x, experts, b"one", rows) for x in (hidden, inner))
    dims.unroute(a)
    assert same(dims, a, hidden)
    assert not same(dims, b, inner)
    dims.unroute(hidden)  # none
    assert dims.routes_of(b) == [b"one"]


def test_rows_that_are_made_of_several_axes() -> None:
    dims, (experts, hidden, batch, time) = fresh(3, 4, 2, 5)
    dims.occur([experts, hidden], weight=True)
    a = dims.at(hidden, experts, b"one", dims.product([batch, time]))
    assert dims.rows_of(b"one") == [{batch, time}]
    dims.occur([batch, time, a])
    dims.settle([[experts, hidden]])
    assert not same(dims, a, hidden)
    dims.occur([batch, a])  # summed over the time: rows are mixed
    dims.settle([[experts, hidden]])
    assert same(dims, a, hidden)

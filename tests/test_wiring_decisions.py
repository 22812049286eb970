"""What axes are made of, decided by unification, against every permutation of a few units.

A tree is an axis as somebody wrote it: an atom, a product (a row-major flatten) or a sum (a concatenation) of others. Two trees that are the same axis must be
put into the same order by whatever the inference lets free: this is checked by going through all orders. How much it lets free is held against the number of all
orders of the written atoms that agree.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weightlapse.wiring.dims import ATOM, PROD, SUM, Dims

Order = tuple[int, ...]
Tree = int | tuple[int, tuple["Tree", ...]]  # a node of Dims, or a kind and parts; trees of one test share their atoms


def product_of(parts: Sequence[Order]) -> Order:
    """The order of a flatten whose axes have these orders."""
    sizes = [len(p) for p in parts]
    strides = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
    return tuple(sum(p * s for p, s in zip(places, strides)) for places in itertools.product(*parts))


def sum_of(parts: Sequence[Order]) -> Order:
    """The order of a concatenation of parts in these orders."""
    starts = itertools.accumulate((len(p) for p in parts), initial=0)
    return tuple(start + i for start, part in zip(starts, parts) for i in part)


def of_node(dims: Dims, node: int, orders: dict[int, Order]) -> Order:
    """The order of a node, by what it was found to be made of; leaves without one stay."""
    root = dims.find(node)
    if dims.kind(root) == ATOM:
        return orders.get(root, tuple(range(dims.sizes[root])))
    made = product_of if dims.kind(root) == PROD else sum_of
    return made([of_node(dims, p, orders) for p in dims.parts(root)])


def of_tree(tree: Tree, atom: dict[int, Order]) -> Order:
    """The order of an axis as it was written."""
    if isinstance(tree, int):
        return atom[tree]
    return (product_of if tree[0] == PROD else sum_of)([of_tree(t, atom) for t in tree[1]])


def atoms_of(tree: Tree) -> set[int]:
    return {tree} if isinstance(tree, int) else {a for t in tree[1] for a in atoms_of(t)}


def made(dims: Dims, tree: Tree) -> int:
    if isinstance(tree, int):
        return tree
    parts = [made(dims, t) for t in tree[1]]
    return dims.product(parts) if tree[0] == PROD else dims.sum(parts)


def free(dims: Dims, atoms: Sequence[int]) -> Iterator[dict[int, Order]]:
    """Every order of what the inference lets free."""
    leaves = sorted({leaf for a in atoms for leaf in dims.leaves(a) if dims.is_free(leaf)})
    for orders in itertools.product(*(itertools.permutations(range(dims.sizes[leaf])) for leaf in leaves)):
        yield dict(zip(leaves, orders))


def agree(a: Tree, b: Tree, sizes: dict[int, int]) -> int:
    """How many orders of the atoms, as they were written, put both axes into the same order."""
    atoms = sorted(atoms_of(a) | atoms_of(b))
    every = itertools.product(*(itertools.permutations(range(sizes[x])) for x in atoms))
    return sum(of_tree(a, atom) == of_tree(b, atom) for atom in (dict(zip(atoms, o)) for o in every))


def check(a: Tree, b: Tree, dims: Dims) -> tuple[int, int]:
    """Make the trees one axis; how many orders the inference finds, how many there are."""
    sizes = {x: dims.sizes[x] for x in atoms_of(a) | atoms_of(b)}
    truth = agree(a, b, sizes)
    dims.unify(made(dims, a), made(dims, b))
    for x in sizes:
        dims.occur([x])  # each stands alone somewhere: nothing is beside it everywhere, so it has one order
    atoms, found = sorted(sizes), set()
    for orders in free(dims, atoms):
        atom = {x: of_node(dims, x, orders) for x in atoms}
        assert of_tree(a, atom) == of_tree(b, atom), (a, b, atom)
        found.add(tuple(atom.values()))
    assert 1 <= len(found) <= truth
    return len(found), truth


def fresh(*sizes: int) -> tuple[Dims, list[int]]:
    dims = Dims()
    return dims, [dims.fresh(n) for n in sizes]


# sizes of the atoms, both axes with atoms by their place, and how many orders are left
CASES = [
    ((4, 4), 0, 1, 24),
    ((6, 2, 3), 0, (PROD, (1, 2)), 12),
    ((6, 2, 4), 0, (SUM, (1, 2)), 48),
    ((5, 2, 3), (SUM, (1, 2)), 0, 12),
    ((2, 3, 2, 3), (PROD, (0, 1)), (PROD, (2, 3)), 12),
    ((2, 3, 2, 3), (SUM, (0, 1)), (SUM, (2, 3)), 12),
    ((2, 2, 4, 2), (PROD, (0, (PROD, (1, 3)))), (PROD, (2, 3)), 8),  # the axis of 4 is 2 x 2
    ((4, 2, 2, 2), (PROD, (0, 1)), (PROD, (2, (PROD, (3, 1)))), 8),
    ((2, 3, 1, 4), (SUM, (0, 1)), (SUM, (2, 3)), 6),  # cut in different places: 1, 1, 3
    ((2, 2, 2), (PROD, (0, 1)), (SUM, (2, 2)), 2),  # two equal pieces, one after the other
    ((2, 4, 6), (SUM, (0, 1)), 2, 48),
    ((2, 3, 2, 6, 2), (PROD, (0, 1, 2)), (PROD, (3, 4)), 24),  # what is left over meets the next factor
    ((2, 2, 2, 3, 3), (SUM, (0, 1, 2)), (SUM, (3, 4)), 4),
    ((2, 2, 2, 3, 2), (SUM, (0, 1, 2)), (PROD, (3, 4)), 2),
]  # fmt: skip


@pytest.mark.parametrize(("sizes", "a", "b", "left"), CASES)
def test_two_axes_become_one(sizes: tuple[int, ...], a: Tree, b: Tree, left: int) -> None:
    dims, _ = fresh(*sizes)  # atoms are numbered as they are made
    found, truth = check(a, b, dims)
    assert found == left
    assert found == truth
    assert not dims.conflicts


def trees(total: int, sizes: Sequence[int], deep: int = 2) -> st.SearchStrategy[Tree]:
    """Axes of a size, of atoms with these sizes."""
    options: list[st.SearchStrategy[Tree]] = [st.just(i) for i, n in enumerate(sizes) if n == total]
    if deep:
        for n in range(2, total):
            rest = total - n
            if rest >= 2:
                options.append(st.tuples(trees(n, sizes, 0), trees(rest, sizes, deep - 1)).map(lambda p: (SUM, p)))
            if total % n == 0:
                options.append(
                    st.tuples(trees(n, sizes, 0), trees(total // n, sizes, deep - 1)).map(lambda p: (PROD, p))
                )
    return st.one_of(options) if options else st.nothing()


SIZES = (2, 2, 3, 4, 6, 8)


@settings(max_examples=120)
@given(st.sampled_from([4, 6, 8]).flatmap(lambda n: st.tuples(trees(n, SIZES), trees(n, SIZES))))
def test_nothing_is_free_that_does_not_agree(pair: tuple[Tree, Tree]) -> None:
    dims, _ = fresh(*SIZES)
    everything = math.prod(math.factorial(SIZES[x]) for x in atoms_of(pair[0]) | atoms_of(pair[1]))
    if everything <= 5000:
        check(*pair, dims)


def test_the_check_finds_a_wrong_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    """An inference that does nothing lets the two axes go their own ways."""
    dims, _ = fresh(4, 4)
    monkeypatch.setattr(dims, "unify", lambda a, b: None)
    with pytest.raises(AssertionError):
        check(0, 1, dims)


@pytest.mark.parametrize(("sizes", "parts"), [((5,), (2, 3, 1)), ((2, 3), (3, 2)), ((3, 4), (2, 6))])
def test_what_does_not_factor_is_fixed_on_both_sides(sizes: tuple[int, ...], parts: tuple[int, ...]) -> None:
    dims, atoms = fresh(*sizes)
    others = [dims.fresh(n) for n in parts]
    dims.unify(dims.product(atoms), dims.product(others))
    assert dims.conflicts
    wrong = [x for x in (*atoms, *others) if dims.any_free(x) and dims.sizes[x] > 1]
    assert not wrong or math.prod(sizes) == math.prod(parts)
    assert all(dims.reason(x) for x in (*atoms, *others) if dims.sizes[x] > 1 and x not in wrong)


def test_a_reason_spreads_and_the_first_one_stays() -> None:
    dims, (a, b, c) = fresh(4, 2, 2)
    dims.fix(b, "input")
    dims.unify(a, dims.product([b, c]))
    assert dims.reason(a) == "input"
    assert [dims.is_free(x) for x in (a, b, c)] == [False, False, True]
    dims.fix(a, "output")
    assert [dims.reason(x) for x in (b, c)] == ["input", "output"]


@pytest.mark.parametrize("size", [0, 1])
def test_axes_of_one_position_are_nobodys_units(size: int) -> None:
    dims, (a, b) = fresh(size, size)
    assert not dims.is_free(a)
    dims.unify(a, b)
    assert dims.find(a) != dims.find(b)
    other = dims.fresh(3)
    one = dims.fresh(1)
    assert dims.product([other, one]) == other
    assert dims.sum([other, dims.fresh(0)]) == other
    assert dims.sizes[dims.product([one, one])] == 1
    assert dims.sizes[dims.sum([])] == 0


@pytest.mark.parametrize("sizes", [(2, 6), (4, 3), (2, 2, 3), (12,), (12, 1), (3, 4), (6, 2)])
def test_an_axis_split_is_that_axis(sizes: tuple[int, ...]) -> None:
    dims, (a, b, c) = fresh(2, 2, 3)
    whole = dims.product([a, b, c])
    parts = dims.split(whole, sizes)
    assert [dims.sizes[p] for p in parts] == list(sizes)
    if sizes in {(3, 4), (6, 2)}:  # across its parts
        assert not any(map(dims.any_free, (a, b, c, *parts)))
        return
    for orders in free(dims, [a, b, c]):
        assert product_of([of_node(dims, p, orders) for p in parts]) == of_node(dims, whole, orders)
    left = sum(1 for _ in free(dims, [a, b, c]))
    assert left == 2 * 2 * 6


@pytest.mark.parametrize(("cuts", "left"), [([4], 48), ([4, 8], 24), ([2], 1), ([0, 12], 144), ([], 144)])
def test_an_axis_cut_is_its_pieces_in_a_row(cuts: list[int], left: int) -> None:
    dims, (first, second) = fresh(3, 4)
    whole = dims.product([first, second])
    pieces = dims.cut(whole, cuts)
    inside = [c for c in cuts if 0 < c < 12]
    assert [dims.sizes[p] for p in pieces] == [b - a for a, b in itertools.pairwise([0, *inside, 12])]
    assert sum(1 for _ in free(dims, [first, second])) == left
    if left == 1:  # cut across its parts
        assert not any(map(dims.any_free, pieces))
        return
    for orders in free(dims, [first, second]):
        assert sum_of([of_node(dims, p, orders) for p in pieces]) == of_node(dims, whole, orders)


def test_companions_stand_beside_an_axis_in_every_tensor() -> None:
    dims, (heads, dim, out) = fresh(2, 3, 5)
    whole = dims.product([heads, dim])
    dims.occur([whole, out])
    assert dims.companions(dim) == {heads, out}
    dims.occur([heads, dim])
    assert dims.companions(dim) == {heads}
    assert dims.companions(out) == {heads, dim}
    dims.occur([dim], weight=True)
    assert dims.companions(dim) == set()
    assert dims.companions(heads) == {dim}


def test_a_companion_has_an_order_of_its_own_at_each_position() -> None:
    dims, (heads, dim) = fresh(2, 3)
    dims.occur([heads, dim])
    at = [dims.at(dim, heads, i) for i in (0, 1, 0)]
    assert at[0] == at[2] != at[1]
    assert dims.at(heads, dim, 0) != heads  # the other way round as well
    dims.occur([dim])  # it stands alone: one order for all
    assert {dims.find(x) for x in at} == {dims.find(dim)}


def test_what_stands_nowhere_beside_is_the_same_everywhere() -> None:
    dims, (heads, dim) = fresh(2, 3)
    assert dims.at(dim, heads, 0) == dim
    dims.occur([heads, dim])
    dims.fix(dim, "input")
    assert dims.at(dim, heads, 0) == dim


def test_equal_values_may_be_used_twice_in_different_orders() -> None:
    dims = Dims()
    copied = dims.copies(3)
    assert dims.renewed(copied) != copied
    a, b = dims.fresh(3), dims.fresh(3)
    dims.unify(copied, a)  # its values differ after all
    assert dims.renewed(copied) == copied
    dims.unify(copied, b)
    assert dims.find(a) == dims.find(b)
    assert dims.kind(dims.sum([a, dims.copies(2)])) == SUM

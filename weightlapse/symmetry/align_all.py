"""``wl.align_all``: many networks of one architecture in one common order of units."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from weightlapse.arguments import search_seed
from weightlapse.errors import InvalidArgument
from weightlapse.progress import track
from weightlapse.symmetry.checks import check_alike, wired_arrays
from weightlapse.symmetry.elements import Elements, identity
from weightlapse.symmetry.nets import Net, sound
from weightlapse.symmetry.search import Search, automatic_restarts
from weightlapse.symmetry.states import Arrays, Weights, float_arrays, own_state, parameter_names
from weightlapse.symmetry.units import allowed_symmetries
from weightlapse.wiring.data import Wiring


@dataclass(frozen=True)
class AlignedAll:
    """``states[i]`` is network i in the first one's order of units; ``elements[i]`` what brought it there.

    Consistent: going from i to j through any k is the same, because all pass through one common order.
    ``distance_before``, ``distance_after``: float64 (n, n), row i: ``||X_i - X_j|| / ||X_i||`` over all parameters.
    """

    states: list[dict[str, Any]] = field(repr=False)
    elements: list[Elements] = field(repr=False)
    distance_before: NDArray[np.float64] = field(repr=False)
    distance_after: NDArray[np.float64] = field(repr=False)

    def mean(self) -> Arrays:
        """The average network, as float arrays."""
        arrays = [float_arrays(s) for s in self.states]
        return {n: np.mean([x[n] for x in arrays], axis=0) for n in arrays[0]}


def align_all(
    nets: Sequence[Any],
    wiring: Wiring | None = None,
    *,
    data: Any = None,
    symmetries: Literal["auto"] | Iterable[str] = "auto",
    restarts: int | Literal["auto"] = "auto",
    rounds: int = 5,
    seed: int | None = 0,
) -> AlignedAll:
    """Bring many networks into the order of the first, all consistently.

    Each is aligned to the first, then, round after round, to the mean of all others, until that stops helping: the mean
    knows more about the common order than any one network (the merging of many models in Ainsworth et al. 2023). Of each
    network the state nearest to the others is kept, and no function changes.

    nets: each as ``wl.align`` takes it: a module, a mapping, a recording or a path. wiring: of all; may be left out when a recording holds one, or for
    modules with ``data``, inputs (samples first) to find it on. seed: of the random starts; None is 0.

    Raises InvalidArgument for an empty list and without a wiring, CannotAlign for networks of different shapes.

    >>> import numpy as np, weightlapse as wl
    >>> w = wl.Wiring.from_spec('''
    ... tensor a.weight (3, 2)
    ... tensor b.weight (1, 3)
    ... group a: 3 units, permutation
    ...   a.weight[0]: out
    ...   b.weight[1]: in
    ... ''')
    >>> a = {"a.weight": np.arange(6.0).reshape(3, 2), "b.weight": np.array([[10.0, 20.0, 30.0]])}
    >>> others = [wl.permute(a, w, "a", order) for order in ([2, 0, 1], [1, 0, 2])]
    >>> [x["b.weight"].tolist() for x in wl.align_all([a, *others], wiring=w).states]
    [[[10.0, 20.0, 30.0]], [[10.0, 20.0, 30.0]], [[10.0, 20.0, 30.0]]]
    """
    if not len(nets):
        raise InvalidArgument("align_all needs at least one network")
    allowed = allowed_symmetries(symmetries)
    given = [Net.of(n, f"{i}-th") for i, n in enumerate(nets)]
    alike = [given[0], *(n.under_names_of(given[0])[0] for n in given[1:])]
    wiring = sound(alike, wiring, data)
    states = [own_state(n.net) for n in alike]
    check_alike(states, wiring)
    pairs = [wired_arrays(states[0], s, wiring) for s in states]
    first, wired = pairs[0][0], [b for _, b in pairs]
    count = automatic_restarts(first) if restarts == "auto" else int(restarts)
    rng = np.random.default_rng(search_seed(seed))
    searches = [Search(first, b, wiring, allowed) for b in wired[1:]]
    elements = [identity(wiring), *(s.run(count, rng).elements for s in track(searches, "aligning"))]
    moved = [dict(first), *(dict(e.on_arrays(b, s.units)) for e, b, s in zip(elements[1:], wired[1:], searches))]
    for _ in range(rounds):
        if not _round(moved, wired, elements, wiring, allowed):
            break
    placed = [e.on_state(s, wiring) for e, s in zip(elements, states)]
    names = parameter_names(states[0], wiring)
    return AlignedAll(placed, elements, _distances(states, names), _distances(placed, names))


def _round(
    moved: list[Arrays], wired: Sequence[Weights], elements: list[Elements], wiring: Wiring, allowed: frozenset[str]
) -> bool:
    """Align every network but the first to the mean of the others, in turn; whether anything moved."""
    n = len(moved)
    total = {t: np.sum([m[t] for m in moved], axis=0) for t in moved[0]}
    better = False
    for i in range(1, n):
        mean = {t: (v - moved[i][t]) / (n - 1) for t, v in total.items()}
        search = Search(mean, wired[i], wiring, allowed)
        before = search.polish(elements[i], "before").distance
        search.run(0, np.random.default_rng(0))
        if search.best.distance < before * (1 - 1e-6):
            better = True
        elements[i] = search.best.elements
        new = dict(elements[i].on_arrays(wired[i], search.units))
        total = {t: v + new[t] - moved[i][t] for t, v in total.items()}
        moved[i] = new
    return better and n > 2


def _distances(states: Sequence[Mapping[str, Any]], names: list[str]) -> NDArray[np.float64]:
    """All relative distances from one gram matrix, tensor by tensor."""
    n = len(states)
    gram = np.zeros((n, n))
    for name in names:
        rows = [float_arrays(s, [name]).get(name) for s in states]
        if rows[0] is None:
            continue
        flat = np.stack([np.asarray(r, dtype=np.float64).ravel() for r in rows])
        flat = flat - flat.mean(axis=0)  # differences are what matters; this keeps small ones exact
        gram += flat @ flat.T
    squared = gram.diagonal()[:, None] + gram.diagonal()[None, :] - 2 * gram
    np.fill_diagonal(squared, 0.0)
    norms = np.array([np.sqrt(sum(float(np.vdot(v, v)) for v in float_arrays(s, names).values())) for s in states])
    out: NDArray[np.float64] = np.sqrt(np.maximum(squared, 0.0)) / np.where(norms > 0, norms, np.inf)[:, None]
    return out

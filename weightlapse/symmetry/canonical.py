"""``wl.canonical``: one representative for all networks that are the same up to symmetry, to hash, diff and draw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from weightlapse.symmetry.checks import check_wiring_fits
from weightlapse.symmetry.elements import Elements, depth
from weightlapse.symmetry.match import Matcher, Move
from weightlapse.symmetry.nets import Net, sound
from weightlapse.symmetry.own_bases import OwnBases
from weightlapse.symmetry.scale import balance, rescaled
from weightlapse.symmetry.states import Weights, float_arrays
from weightlapse.symmetry.units import Units, allowed_symmetries
from weightlapse.symmetry.with_bases import WithBases
from weightlapse.wiring.arrays import at_home, check_device, device_of, in_full_precision
from weightlapse.wiring.data import Wiring


def canonical(
    net: Any,
    wiring: Wiring | None = None,
    *,
    data: Any = None,
    symmetries: Literal["auto"] | Iterable[str] = "auto",
    device: Any = None,
) -> dict[str, Any]:
    """The network in its canonical guise: same function, units in an order, sign and scale of their own.

    Order: by the squared size of all that belongs to a unit, largest first. Sign: the largest weight whose other end
    has its sign already is positive, input side first. Scale: incoming and outgoing weights have the same norm (see
    `weightlapse.symmetry.scale`). Permuted and sign-flipped copies come out bit for bit equal, so their bytes can be hashed; rescaled copies
    equal to rounding. Units that tie exactly (duplicates, units without weights) keep their order.

    Bases (see `weightlapse.symmetry.own_bases`) are those of the network's own axes: copies in other bases come out equal to 1e-6 and better.

    net: a module or mapping of arrays or tensors, a recording (its last frame) or a path, as ``wl.align`` takes them; the result maps the same
    names to values of the same kind. wiring: may be left out for a recording that holds one, or for a module with ``data``, inputs
    (samples first) to find it on. device: where products of weights are made; default: where the weights are.

    Raises InvalidArgument without a wiring, or for a device that is not there.

    >>> import numpy as np, weightlapse as wl
    >>> w = wl.Wiring.from_spec('''
    ... tensor a.weight (2, 1)
    ... tensor b.weight (1, 2)
    ... group a: 2 units, permutation, sign
    ...   a.weight[0]: out
    ...   b.weight[1]: in
    ... ''')
    >>> wl.canonical({"a.weight": np.array([[1.0], [-5.0]]), "b.weight": np.array([[3.0, 4.0]])}, w)["a.weight"].tolist()
    [[5.0], [1.0]]
    """
    given = Net.of(net, "given")
    wiring, state = sound([given], wiring, data), given.state
    if device is None:
        device = device_of(state)
    else:
        check_device(device)
    with in_full_precision(device):
        found = canonical_elements(state, wiring, symmetries=symmetries, device=device)
        return found.on_state(state, wiring, device) if isinstance(found, WithBases) else found.on_state(state, wiring)


def canonical_elements(
    state: Mapping[str, Any],
    wiring: Wiring,
    *,
    symmetries: Literal["auto"] | Iterable[str] = "auto",
    device: Any = None,
) -> Elements:
    """What brings ``state`` into canonical form; ``.on_state`` does the same to other frames of its run."""
    check_wiring_fits(state, wiring)
    allowed = allowed_symmetries(symmetries)
    if wiring.bases and "basis" in allowed:
        own = OwnBases(state, wiring, allowed, device)
        matcher = _in_order(own.arrays, own.rest, allowed, own.untold)
        return own.element(matcher.at, matcher.b)
    names = dict.fromkeys(m.tensor for g in wiring.groups for m in g.members if m.roles != {"stat"})
    return _in_order(float_arrays(state, names), wiring, allowed).at


_Untold = Mapping[str, NDArray[np.bool_]]  # by tensor, where numbers are by which no sign can be told


def _in_order(
    arrays: Weights,
    wiring: Wiring,
    allowed: frozenset[str],
    untold: Callable[[Elements, Weights], _Untold] = lambda _at, _b: {},
) -> Matcher:
    """Orders, signs and scales of their own: the element and the arrays after it."""
    matcher = Matcher(arrays, arrays, wiring, allowed)
    units = list(matcher.units.values())
    factors = balance(arrays, units)
    matcher.begin(rescaled(arrays, units, factors), matcher.at.times(factors))
    # inner groups first: what a unit weighs does not depend on the order inside it
    for u in sorted(units, key=lambda u: -depth(u.group, matcher.units)):
        if u.permute:
            matcher.apply(Move(u, np.argsort(-_weight(matcher.b, u), kind="stable")))
    _fix_signs(matcher, untold(matcher.at, matcher.b))
    return matcher


def _weight(b: Weights, u: Units) -> NDArray[np.float64]:
    """The squared size of each unit; summed in sorted order, so that no reordering elsewhere changes a single bit."""
    squares = [np.square(at_home(p.rows(b[p.tensor])), dtype=np.float64) for p in u.voters]
    total: NDArray[np.float64] = np.sort(np.concatenate(squares, axis=1), axis=1).sum(axis=1)
    return total


def _fix_signs(matcher: Matcher, untold: _Untold) -> None:
    open_ = [u for u in matcher.units.values() if u.sign]
    while open_:
        names = {u.name for u in open_}
        # a group whose neighbours are settled comes first; where there is none, the next one stays as it is
        settled = ((u, found) for u in open_ if (found := _largest(matcher, u, names, untold)) is not None)
        u, largest = next(settled, (open_[0], None))
        if largest is not None:
            matcher.apply(Move(u, np.arange(u.size), largest < 0))
        open_.remove(u)


def _largest(matcher: Matcher, u: Units, unsettled: set[str], untold: _Untold) -> NDArray[np.float64] | None:
    """Of each unit the weight of largest size that its sign turns and no unsettled group does; None without any."""
    chosen: NDArray[np.float64] | None = None
    for p in u.voters:
        if p.exponent % 2 == 0 or any(g.name in unsettled for g in matcher.neighbours(p)):
            continue
        values = at_home(matcher.b[p.tensor])
        nested = matcher.nesting.cells(u.name).get(p.tensor)
        values = values if nested is None else np.where(nested > 0, 0, values)
        rows = p.rows(np.where(untold[p.tensor], 0, values) if p.tensor in untold else values)
        value = rows[np.arange(u.size), np.abs(rows).argmax(axis=1)].astype(np.float64)
        chosen = value if chosen is None else np.where(np.abs(value) > np.abs(chosen), value, chosen)
    return chosen

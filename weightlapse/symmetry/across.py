"""Aligning networks of different widths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import CannotAlign
from weightlapse.symmetry.alignment import Alignment
from weightlapse.symmetry.fold import fold
from weightlapse.symmetry.run import Runner, data_of
from weightlapse.symmetry.search import Search
from weightlapse.symmetry.states import distance, float_arrays, is_module, parameter_names, wired_arrays
from weightlapse.symmetry.widths import common, correspondence, laid_out, wiring_for
from weightlapse.wiring.arrays import shape_of
from weightlapse.wiring.data import Wiring


def differ_in_width(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two states have the same tensors, some of them of another size."""
    return (
        set(a) == set(b)
        and any(shape_of(a, n) != shape_of(b, n) for n in a)
        and all(len(shape_of(a, n)) == len(shape_of(b, n)) for n in a)
    )


def across_widths(
    a: Any,
    b: Any,
    state_a: Mapping[str, Any],
    state_b: Mapping[str, Any],
    w: Wiring,
    wiring_b: Wiring | None,
    allowed: frozenset[str],
    data: Any,
    restarts: int | Literal["auto"],
    seed: int,
    merge: float,
) -> Alignment:
    if wiring_b is None:
        wiring_b = wiring_for(w, {n: tuple(v.shape) for n, v in state_b.items()})
    alone = {g.name for g in w.groups} ^ {g.name for g in wiring_b.groups}
    if alone:
        some = sorted(alone)[0]
        side, other = ("first", "second") if w.find(some) is not None else ("second", "first")
        raise CannotAlign(
            f"group {some!r} of the {side} network is no group of the {other} (a layer of one unit has nothing to exchange, or the two are "
            "wired differently), so their units have no common order"
        )
    wider = any(h.size > w.group(h.name).size for h in wiring_b.groups)
    if wider:
        folded = fold(state_b, wiring_b, tolerance=merge)
        small, small_wiring, what = folded.state, folded.wiring, folded.groups
    else:
        small, small_wiring, what = dict(float_arrays(state_b)), wiring_b, {}
    both = common(w, small_wiring)
    x = laid_out(float_arrays(state_a), w, both)
    y = laid_out({n: small[n] for n in x}, small_wiring, both)
    search = Search(*wired_arrays(x, y, both), both, allowed)
    found = search.by_weights(restarts, seed)
    moved: dict[str, Any] = found.elements.on_state(y, both)
    units = {
        g.name: correspondence(
            found.elements.order[g.name],
            w.group(g.name).size,
            small_wiring.group(g.name).size,
            what.get(g.name),
            h.size,
        )
        for g, h in ((g, wiring_b.group(g.name)) for g in both.groups)
    }
    wide = common(w, wiring_b)
    names = parameter_names(x, both)
    before = distance(laid_out(float_arrays(state_a), w, wide), laid_out(float_arrays(state_b), wiring_b, wide), names)
    after = distance(x, moved, names)
    state = {n: _like(moved[n], v) if n in moved else v for n, v in state_b.items()}
    error = None
    if data is not None and is_module(a) and is_module(b) and not differ_in_width(state_a, state):
        error = _change_across(a, b, state, data, merge)
    factor = found.elements.factor
    return Alignment(
        state,
        found.elements.order,
        {n: np.sign(f) for n, f in factor.items()},
        {n: np.abs(f) for n, f in factor.items()},
        before,
        after,
        found.method,
        error,
        both,
        found.elements,
        {found.method: found.distance},
        (found,),
        tuple(c.sentence(n) for n, c in units.items() if len(c.matched) < wiring_b.group(n).size or c.unmatched_a),
        units,
    )


def _change_across(a: Any, b: Any, state: Mapping[str, Any], data: Any, merge: float) -> float:
    """How far a's code with b's folded weights is from b."""
    few = data_of(data).head(64)
    x, y = Runner(b, few).outputs(), Runner(a, few).outputs(state)
    error = float(np.abs(x - y).max(initial=0.0)) / (float(np.abs(x).max(initial=0.0)) or 1.0)
    if error > max(1e-4, 100 * merge):
        raise CannotAlign(
            f"folding changed what the second network computes (by {error:.1e} of its outputs): its units are not as "
            "independent as the wiring says, or merge is too large"
        )
    return error


def _like(value: NDArray[Any], sample: Any) -> Any:
    return sample.new_tensor(value) if hasattr(sample, "new_tensor") else value.astype(np.asarray(sample).dtype)

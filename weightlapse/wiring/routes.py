"""Guards the routes: hidden units may be in another order for every expert only while each row stays by itself.

The operators that leave every row where it is and do not mix rows are listed; any other that touches such units makes them
ordinary ones, in one order for all experts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weightlapse.wiring.products import GROUPED
from weightlapse.wiring.record import Call

if TYPE_CHECKING:
    from weightlapse.wiring.infer import Inference

_STAY = frozenset(
    "view _unsafe_view reshape _reshape_alias squeeze unsqueeze permute t transpose expand split split_with_sizes chunk slice select unbind cat glu "
    "_softmax softmax _safe_softmax native_layer_norm layer_norm rms_norm _fused_rms_norm mean sum index".split()
)
_PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}  # the first factor's number


def guard(inf: Inference, call: Call, results: list[list[int]]) -> None:
    """Called after the rule of ``call`` and before its results are written down."""
    dims = inf.dims
    touched = {leaf for t in call.inputs for a in inf.axes(t) for leaf in dims.leaves(a)}
    touched |= {leaf for axes in results for a in axes for leaf in dims.leaves(a)}
    for leaf in touched:
        routes = dims.routes_of(leaf)
        if routes and not all(_stays(inf, call, results, leaf, route) for route in routes):
            dims.unroute(leaf)


def _stays(inf: Inference, call: Call, results: list[list[int]], leaf: int, route: bytes) -> bool:
    from weightlapse.wiring.rules.table import RULES, is_pointwise

    dims = inf.dims
    rows = dims.rows_of(route)
    for axes in results:
        found = {x for a in axes for x in dims.leaves(a)}
        if leaf in found and not any(own <= found for own in rows):
            return False
    if call.name in _PRODUCTS:
        first = call.inputs[_PRODUCTS[call.name]]
        summed = set(dims.leaves(inf.axes(first)[-1]))
        return leaf in summed or not any(own & summed for own in rows)
    return call.name in _STAY or call.name in GROUPED or (call.name not in RULES and is_pointwise(call))

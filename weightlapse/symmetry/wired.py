"""The wiring of networks that are looked at: the one that is given, a recording's own, or one that is found by running a module."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from weightlapse.errors import InvalidArgument
from weightlapse.symmetry.runner import data_of
from weightlapse.symmetry.states import bare, is_module
from weightlapse.wiring.data import Wiring


def wiring_of(known: Iterable[Wiring | None], nets: Iterable[Any], data: Any) -> Wiring:
    """The first that is known (what was given, then what recordings hold), else the one that is `traced`. Raises what that does."""
    return next((w for w in known if w is not None), None) or traced(nets, data)


def traced(nets: Iterable[Any], data: Any) -> Wiring:
    """The wiring of the first of ``nets`` that is a module, found on the first samples of ``data``. Raises InvalidArgument without either."""
    module = next((n for n in nets if is_module(n)), None)
    if module is None or data is None:
        raise InvalidArgument(
            "the wiring is missing: pass wiring=wl.trace(model, example), or give a module and data to find it on; "
            "state dicts alone do not say which axes hold the same units"
        )
    from weightlapse.wiring.trace import trace

    few = data_of(data).head(3)
    device = next((p.device for p in bare(module).parameters()), None)
    return trace(module, few.with_inputs(x.clone().to(device) for x in few.inputs).example)

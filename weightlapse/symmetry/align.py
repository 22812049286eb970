"""``wl.align``: bring one network onto another by moving its hidden units, without changing what it computes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import CannotAlign, InvalidArgument
from weightlapse.symmetry.activations import match_activations
from weightlapse.symmetry.barrier import Line
from weightlapse.symmetry.elements import Elements
from weightlapse.symmetry.run import Runner, data_of
from weightlapse.symmetry.search import NEAR, Found, Search, automatic_restarts
from weightlapse.symmetry.states import (
    Arrays,
    as_array,
    check_same_shapes,
    distance,
    float_arrays,
    is_module,
    parameter_names,
    state_of,
)
from weightlapse.wiring.data import SYMMETRIES, Wiring


@dataclass(frozen=True)
class Alignment:
    """b brought onto a.

    ``state``: b's weights in a's order of units, arrays or tensors as b's were. ``permutations``, ``signs``, ``scales``:
    per group, what was done: unit u of ``state`` is b's unit ``permutations[g][u]``, times sign and scale; groups nested
    in units are moved after the unit that holds them. ``distance_before``, ``distance_after``: ``||A - B|| / ||A||`` over all
    parameters together, running statistics left out. ``method``: how the best result was found. ``function_error``: the
    largest change of b's output on the data, relative to its spread; None when b was not run. ``tried``: the distance (and the rise of
    the loss half way, with data) that each method reached; ``candidates`` their elements. ``notes``: what else to know.
    """

    state: dict[str, Any] = field(repr=False)
    permutations: dict[str, NDArray[np.int64]] = field(repr=False)
    signs: dict[str, NDArray[np.float64]] = field(repr=False)
    scales: dict[str, NDArray[np.float64]] = field(repr=False)
    distance_before: float
    distance_after: float
    method: str
    function_error: float | None
    wiring: Wiring = field(repr=False)
    elements: Elements = field(repr=False)
    tried: dict[str, float] = field(default_factory=dict, repr=False)
    candidates: tuple[Found, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()

    def apply(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The same relabelling of another state of b, say an earlier step of its training.

        >>> import numpy as np, weightlapse as wl
        >>> w = wl.Wiring.from_spec('''
        ... tensor a.weight (2, 1)
        ... tensor b.weight (1, 2)
        ... group a: 2 units, permutation
        ...   a.weight[0]: out
        ...   b.weight[1]: in
        ... ''')
        >>> x = {"a.weight": np.array([[1.0], [2.0]]), "b.weight": np.array([[3.0, 4.0]])}
        >>> y = {"a.weight": np.array([[2.0], [1.0]]), "b.weight": np.array([[4.0, 3.0]])}
        >>> wl.align(x, y, w).apply(y)["b.weight"].tolist()
        [[3.0, 4.0]]
        """
        return self.elements.on_state(state, self.wiring)

    def __str__(self) -> str:
        moved = sum(not np.array_equal(p, np.arange(len(p))) for p in self.permutations.values())
        return (
            f"aligned by {self.method}: distance {self.distance_before:.3g} -> {self.distance_after:.3g}, "
            f"{moved} of {len(self.permutations)} groups reordered"
        )


def align(
    a: Any,
    b: Any,
    wiring: Wiring | None = None,
    *,
    data: Any = None,
    symmetries: Literal["auto"] | Iterable[str] = "auto",
    restarts: int | Literal["auto"] = "auto",
    seed: int = 0,
) -> Alignment:
    """Find the order, signs and scales of b's hidden units that bring its weights nearest to a's.

    What b computes stays the same; this is checked on every call (by undoing the moves, and by running b when it is a module
    and there is data).

    a, b: torch modules, or mappings of names to arrays or tensors, of one architecture. wiring: from ``wl.trace`` or
    ``Wiring.from_spec``; may be left out when a module and ``data`` are given. data: inputs (samples first), or
    ``(inputs, integer labels)``: matching by activations is tried too, and the result with the lower loss half way between
    both networks is returned. symmetries: "auto" for all that each group has, or some of "permutation", "sign",
    "scale". restarts: further random starts; "auto" gives small networks a few. seed: for these.

    Method: coordinate descent on exact assignments (Ainsworth et al. 2023), departures in `weightlapse.symmetry.match`.

    Raises CannotAlign (different tensors, NaN or Inf, a wiring that does not fit the network) and InvalidArgument.
    """
    allowed = allowed_symmetries(symmetries)
    state_a, state_b = own_state(a), own_state(b)
    w = wiring if wiring is not None else traced(a, b, data)
    check_same_shapes(state_a, state_b)
    check_wiring_fits(state_b, w)
    search = Search(*wired_arrays(state_a, state_b, w), w, allowed)
    found = by_weights(search, restarts, seed)
    tried, candidates = {found.method: found.distance}, [found]
    if data is not None and found.distance > NEAR:
        runner = Runner(_module_of(a, b), data_of(data))
        line = Line(runner, state_a)
        candidates += by_activations(search, runner, state_a, state_b)
        rises = [line.middle(f.elements.on_state(state_b, w)) for f in candidates]
        tried = {f.method: rise for f, rise in zip(candidates, rises)}
        found = candidates[int(np.argmin(rises))]
    moved = found.elements.on_state(state_b, w)
    error = _check_function(b, state_b, moved, found.elements, w, data)
    return _alignment(state_a, state_b, moved, found, w, error, tried, tuple(candidates))


def traced(a: Any, b: Any, data: Any) -> Wiring:
    """The wiring of whichever network is a module, found on the first samples of ``data``."""
    module = a if is_module(a) else b if is_module(b) else None
    if module is None or data is None:
        raise InvalidArgument(
            "the wiring is missing: pass wiring=wl.trace(model, example), or give a module and data to find it on; "
            "state dicts alone do not say which axes hold the same units"
        )
    from weightlapse.wiring.trace import trace

    example = tuple(x.clone() for x in data_of(data).head(3).inputs)
    return trace(module, example)


def allowed_symmetries(symmetries: Any) -> frozenset[str]:
    if symmetries == "auto":
        return frozenset(SYMMETRIES)
    wanted = frozenset([symmetries] if isinstance(symmetries, str) else symmetries)
    unknown = wanted - set(SYMMETRIES)
    if unknown:
        raise InvalidArgument(f"unknown symmetry {sorted(unknown)[0]!r}; known: {', '.join(SYMMETRIES)}, or 'auto'")
    return wanted


def own_state(net: Any) -> dict[str, Any]:
    """A state that later training of the module cannot change."""
    state = state_of(net)
    return {n: v.detach().clone() for n, v in state.items()} if is_module(net) else state


def check_wiring_fits(state: Mapping[str, Any], w: Wiring) -> None:
    for g in w.groups:
        for m in g.members:
            if m.tensor not in state:
                if m.roles == {"stat"}:
                    continue
                raise CannotAlign(
                    f"group {g.name!r} lives in {m.tensor!r}, which the networks do not have; trace these networks"
                )
            found, expected = tuple(state[m.tensor].shape), w.shapes.get(m.tensor)
            if expected is not None and found != tuple(expected):
                raise CannotAlign(
                    f"{m.tensor!r} has shape {found}, but the wiring was found for {tuple(expected)}; trace this network"
                )


def wired_arrays(state_a: Mapping[str, Any], state_b: Mapping[str, Any], w: Wiring) -> tuple[Arrays, Arrays]:
    """The tensors that units live in, both networks in one precision."""
    names = dict.fromkeys(m.tensor for g in w.groups for m in g.members if m.roles != {"stat"})
    a, b = float_arrays(state_a, names), float_arrays(state_b, names)
    for which, arrays in (("first", a), ("second", b)):
        bad = next((n for n, v in arrays.items() if not np.isfinite(v).all()), None)
        if bad is not None:
            raise CannotAlign(f"{bad!r} of the {which} network holds NaN or Inf, which has no distance to anything")
    for n in a:
        if a[n].dtype != b[n].dtype:
            a[n], b[n] = a[n].astype(np.float64), b[n].astype(np.float64)
    return a, b


def by_weights(search: Search, restarts: int | Literal["auto"], seed: int) -> Found:
    """The best result of weight matching; its method names the start that led there."""
    count = automatic_restarts(search.a) if restarts == "auto" else int(restarts)
    found = search.run(count, np.random.default_rng(seed))
    return Found(found.elements, found.distance, f"weights, {found.method}")


def by_activations(
    search: Search, runner: Runner, state_a: Mapping[str, Any], state_b: Mapping[str, Any]
) -> list[Found]:
    """The result of activation matching, and where weight matching goes from there."""
    w = search.wiring
    names = [g.name for g in w.groups]
    units_a, units_b = (runner.units(w, names, s) for s in (state_a, state_b))
    start = match_activations(search.a, search.b, w, search.allowed, units_a, units_b)
    return [search.fitted(start, "activations"), search.polish(start, "activations, then weights")]


def _module_of(a: Any, b: Any) -> Any:
    if not is_module(a) and not is_module(b):
        raise InvalidArgument(
            "data= needs at least one of the networks as a module, to run it; state dicts hold no code"
        )
    return a if is_module(a) else b


def _check_function(
    b: Any, state: Mapping[str, Any], moved: Mapping[str, Any], elements: Elements, w: Wiring, data: Any
) -> float | None:
    back = elements.off_state(moved, w)
    exact = all(np.all(np.abs(f) == 1) for f in elements.factor.values())
    for n in state:
        x, y = as_array(state[n]), as_array(back[n])
        if not (
            np.array_equal(x, y, equal_nan=x.dtype.kind == "f")
            if exact
            else np.allclose(x, y, rtol=1e-5, atol=0, equal_nan=True)
        ):
            raise CannotAlign(
                f"the moves that bring the networks together cannot be undone on {n!r}: the wiring gives it to units twice; "
                "trace the network anew, or mend the spec"
            )
    if data is None or not is_module(b):
        return None
    error, tolerance = function_change(Runner(b, data_of(data).head(64)), state, moved)
    if error > tolerance:
        raise CannotAlign(
            f"moving the units changed what the network computes (by {error:.1e} of its spread): the wiring is not this "
            "network's; trace it on examples that reach every branch"
        )
    return error


def function_change(runner: Runner, before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[float, float]:
    """The largest difference of outputs relative to their size, and how much rounding alone may cause."""
    x, y = runner.outputs(before), runner.outputs(after)
    scale = float(np.abs(x).max(initial=0.0)) or 1.0
    low = runner.dtype is None or any(str(as_array(v).dtype) == "float32" for v in before.values())
    return float(np.abs(x - y).max(initial=0.0)) / scale, 1e-3 if low else 1e-8


def _alignment(
    state_a: Mapping[str, Any],
    state_b: Mapping[str, Any],
    moved: Mapping[str, Any],
    found: Found,
    w: Wiring,
    error: float | None,
    tried: dict[str, float],
    candidates: tuple[Found, ...],
) -> Alignment:
    names = parameter_names(state_a, w)
    a = float_arrays(state_a, names)
    factor = found.elements.factor
    return Alignment(
        dict(moved),
        found.elements.order,
        {n: np.sign(f) for n, f in factor.items()},
        {n: np.abs(f) for n, f in factor.items()},
        distance(a, float_arrays(state_b, a)),
        distance(a, float_arrays(moved, a)),
        found.method,
        error,
        w,
        found.elements,
        tried,
        candidates,
    )

"""``wl.align``: bring one network onto another by moving its hidden units, without changing what it computes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from weightlapse.arguments import search_seed
from weightlapse.errors import CannotAlign, InvalidArgument
from weightlapse.symmetry.across import across_widths, differ_in_width
from weightlapse.symmetry.activations import match_activations
from weightlapse.symmetry.alignment import Alignment
from weightlapse.symmetry.barrier import Line
from weightlapse.symmetry.elements import Elements
from weightlapse.symmetry.invariants import check_invariants
from weightlapse.symmetry.nets import Nets, given
from weightlapse.symmetry.rebase import Rebase, Rebased
from weightlapse.symmetry.run import Runner, data_of
from weightlapse.symmetry.search import NEAR, Found, Search
from weightlapse.symmetry.states import (
    as_array,
    check_same_shapes,
    check_values,
    check_weights,
    check_wiring_fits,
    distance,
    float_arrays,
    is_module,
    parameter_names,
    short_floats,
    state_of,
    wired_arrays,
)
from weightlapse.symmetry.units import allowed_symmetries
from weightlapse.symmetry.wired import wiring_of
from weightlapse.symmetry.with_bases import WithBases
from weightlapse.wiring.arrays import at_home, check_device, device_of, in_full_precision
from weightlapse.wiring.data import Wiring

_BACK = 1e-5  # what is found in other bases and is no nearer may be an order that matrices come close to: weight matching looks, too


def align(
    a: Any,
    b: Any,
    wiring: Wiring | None = None,
    *,
    data: Any = None,
    symmetries: Literal["auto"] | Iterable[str] = "auto",
    restarts: int | Literal["auto"] = "auto",
    seed: int | None = 0,
    wiring_b: Wiring | None = None,
    merge: float = 1e-6,
    device: Any = None,
) -> Alignment:
    """Find the order, signs and scales of b's hidden units that bring its weights nearest to a's.

    What b computes stays the same; this is checked on every call (by undoing the moves, and by running b when it is a module
    and there is data).

    a, b: torch modules, Keras models, Flax NNX or Equinox modules, mappings of names to arrays or tensors, recordings (their last frame), or paths of
    checkpoints (files, folders of shards), of recordings, or of one step ("run@500"); of one architecture. wiring: from ``wl.trace`` or
    ``Wiring.from_spec``; may be left out when a recording holds one, or a module and ``data`` are given. data: inputs (samples first), or
    ``(inputs, integer labels)``: matching by activations is tried too, and the result with the lower loss half way between
    both networks is returned. symmetries: "auto" for all that each group has, or some of "permutation", "sign",
    "scale", "basis" (streams and heads in other bases). restarts: further random starts; "auto" gives small networks a few. seed: for these; None is 0.

    Different widths: where b has more units in a group than a, it is folded first (`weightlapse.symmetry.fold`): units
    whose incoming weights agree to ``merge``, up to sign and scale, are merged, constant ones become part of the next bias, unheard ones
    are dropped. What is left without partner is set beside zeros, and ``units`` and ``notes`` of the result say so. wiring_b: b's own
    wiring; needed only where it cannot be told from a's and the shapes.

    device: where the products of weights are made ("cuda", a ``torch.device``); default: where the weights are, in NumPy for
    those in main memory. Weights that lie elsewhere are brought there one tensor at a time. What is decided is decided in double precision
    in main memory, and the result lies where b's weights do.

    Method: coordinate descent on exact assignments (Ainsworth et al. 2023), departures in `weightlapse.symmetry.match`.

    Raises CannotAlign (different tensors, NaN or Inf, a wiring that does not fit the network) and InvalidArgument (among others, for a device
    that is not there).

    >>> import numpy as np, weightlapse as wl
    >>> w = wl.Wiring.from_spec('''
    ... tensor a.weight (3, 2)
    ... tensor b.weight (1, 3)
    ... group a: 3 units, permutation
    ...   a.weight[0]: out
    ...   b.weight[1]: in
    ... ''')
    >>> a = {"a.weight": np.arange(6.0).reshape(3, 2), "b.weight": np.array([[10.0, 20.0, 30.0]])}
    >>> b = wl.permute(a, w, "a", [2, 0, 1])
    >>> found = wl.align(a, b, wiring=w)
    >>> found.distance_after, found.state["b.weight"].tolist()
    (0.0, [[10.0, 20.0, 30.0]])
    """
    (a, of_a), (b, of_b) = given(a), given(b)
    wiring = next((w for w in (wiring, of_a, of_b) if w is not None), None)
    nets = Nets.of(a, b)
    if device is None:
        device = device_of(*(state_of(n) for n in (nets.b, nets.a)))
    else:
        check_device(device)
    with in_full_precision(device):
        found = _aligned(nets.a, nets.b, wiring, data, symmetries, restarts, search_seed(seed), wiring_b, merge, device)
    return nets.given_back(found)


def _aligned(
    a: Any,
    b: Any,
    wiring: Wiring | None,
    data: Any,
    symmetries: Literal["auto"] | Iterable[str],
    restarts: int | Literal["auto"],
    seed: int,
    wiring_b: Wiring | None,
    merge: float,
    device: Any,
) -> Alignment:
    allowed = allowed_symmetries(symmetries)
    data = None if data is None else data_of(data, *(n for n in (a, b) if is_module(n)))
    state_a, state_b = state_of(a), state_of(b)
    check_values(state_a, "first")
    check_values(state_b, "second")
    w = wiring_of((wiring,), (a, b), data)
    check_weights(a, state_a, w, "first")
    check_weights(b, state_b, w, "second")
    check_wiring_fits(state_a, w)
    if differ_in_width(state_a, state_b):
        return across_widths(a, b, state_a, state_b, w, wiring_b, allowed, data, restarts, seed, merge)
    check_same_shapes(state_a, state_b)
    notes: tuple[str, ...] = ()
    short = short_floats(state_b)
    if short and any(g.symmetries & allowed >= {"scale"} for g in w.groups):
        allowed -= {"scale"}
        notes = (
            f"scales were left as they are: in {short} a rescaled unit would be rounded, and the function with it",
        )
    wired = wired_arrays(state_a, state_b, w, device)
    found: Found | None = None
    moved: dict[str, Any] | None = None
    if w.bases and "basis" in allowed:
        rebase = Rebase(state_a, state_b, w, allowed, device)
        found = rebase.run()
        notes += rebase.notes
        moved = rebase.moved
    search: Search | None = None
    if found is None or found.distance > _BACK or (isinstance(found, Rebased) and found.plain):
        search = Search(*wired, w, allowed)
        by_order = search.by_weights(restarts, seed)
        if found is None or by_order.distance <= found.distance + 1e-12:
            found, moved = by_order, None
    tried, candidates = {found.method: found.distance}, [found]
    if data is not None and search is not None and found.distance > NEAR:
        runner = Runner(_module_of(a, b), data, double=False)
        line = Line(runner, state_a)
        candidates += by_activations(search, runner, state_a, state_b)
        rises = [line.middle(f.elements.on_state(state_b, w)) for f in candidates]
        tried = {f.method: rise for f, rise in zip(candidates, rises)}
        found, moved = candidates[int(np.argmin(rises))], None
    if moved is None:
        moved = found.elements.on_state(state_b, w)
    if short and any(moved[n].dtype != v.dtype for n, v in state_b.items()):
        notes += (
            f"what is written in another basis is given in float32: rounded to {short} it would compute a little else; "
            "symmetries=('permutation', 'sign') moves without rounding",
        )
    error = _check_function(b, state_b, moved, found.elements, w, data, device)
    if is_module(b):  # what did not move is the module's own, which later training would change
        moved = {n: v.detach().clone() if v is state_b[n] else v for n, v in moved.items()}
    return _alignment(state_a, state_b, moved, found, w, error, tried, tuple(candidates), notes, device)


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
    b: Any, state: Mapping[str, Any], moved: Mapping[str, Any], elements: Elements, w: Wiring, data: Any, device: Any
) -> float | None:
    if isinstance(elements, WithBases):
        _check_undone(state, moved, elements, w, device)
    there, back = elements.placements(state, w), elements.placements(state, w, inverse=True)
    for n, placement in {} if isinstance(elements, WithBases) else there.items():
        undone = back[n].undoes(placement)
        if undone is None:  # slabs of a tensor moved apart: only its numbers tell
            x, y = as_array(state[n]), as_array(back[n](moved[n]))
            undone = np.allclose(x, y, rtol=1e-5 if placement.rescales else 0, atol=0, equal_nan=x.dtype.kind == "f")
        if not undone:
            raise CannotAlign(
                f"the moves that bring the networks together cannot be undone on {n!r}: the wiring gives it to units twice; "
                "trace the network anew, or mend the spec"
            )
    if data is None or not is_module(b):
        if isinstance(elements, WithBases):
            check_invariants(state, moved, w, device)
        return None
    error, tolerance = function_change(Runner(b, data_of(data).head(64)), state, moved)
    if error > tolerance:
        raise CannotAlign(
            f"moving the units changed what the network computes (by {error:.1e} of its spread): the wiring is not this "
            "network's; trace it on examples that reach every branch"
        )
    return error


def _check_undone(
    state: Mapping[str, Any], moved: Mapping[str, Any], elements: WithBases, w: Wiring, device: Any
) -> None:
    """Other bases round: what is undone must be what it was, to the precision of the weights."""
    back = elements.changed(moved, w, inverse=True, device=device)
    names, left = list(back.busy), _SAMPLE
    np.random.default_rng(0).shuffle(names)
    for n in names:
        if left < 0:
            return  # of a large network a sample: what goes wrong, a singular matrix or gain, goes wrong throughout
        name = next(m for m in w.names_of(n) if m in state)
        x, y = as_array(state[name]), at_home(back[n])
        left -= x.size
        low = 1e-4 if x.dtype == np.float32 else 1e-9
        if x.size and not float(np.abs(x - y).max()) <= low * max(float(np.abs(x).max()), 1e-300) * 10:
            raise CannotAlign(
                f"the change of basis that brings the networks together cannot be undone on {n!r} to its precision: a matrix or a "
                "gain of it is nearly singular; align with symmetries=('permutation', 'sign', 'scale')"
            )


_SAMPLE = 4_000_000  # numbers that are moved back to see whether that is possible


def function_change(runner: Runner, before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[float, float]:
    """The largest difference of outputs relative to their size, and how much rounding alone may cause."""
    x, y = runner.outputs_of_new(before), runner.outputs_of_new(after)
    scale = float(np.abs(x).max(initial=0.0)) or 1.0
    low = runner.dtype is None or any(str(as_array(v).dtype) == "float32" for v in before.values())
    rounded = runner.dtype is None and short_floats(before)  # what runs it rounds whatever it is given
    return float(np.abs(x - y).max(initial=0.0)) / scale, 5e-2 if rounded else 1e-3 if low else 1e-8


def _alignment(
    state_a: Mapping[str, Any],
    state_b: Mapping[str, Any],
    moved: Mapping[str, Any],
    found: Found,
    w: Wiring,
    error: float | None,
    tried: dict[str, float],
    candidates: tuple[Found, ...],
    notes: tuple[str, ...],
    device: Any,
) -> Alignment:
    names = parameter_names(state_a, w)
    a = float_arrays(state_a, names, device)
    factor = found.elements.factor
    return Alignment(
        dict(moved),
        found.elements.order,
        {n: np.sign(f) for n, f in factor.items()},
        {n: np.abs(f) for n, f in factor.items()},
        distance(a, float_arrays(state_b, a, device)),
        distance(a, float_arrays(moved, a, device)),
        found.method,
        error,
        w,
        found.elements,
        tried,
        candidates,
        notes,
    )

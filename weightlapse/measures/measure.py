"""`measure`: numbers over time from a recording, several of them in one pass."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument, closest
from weightlapse.measures.gradients import gradient_noise
from weightlapse.measures.kept import kept
from weightlapse.measures.outputs import function_drift
from weightlapse.measures.quantities import NEEDS_END, QUANTITIES, shares
from weightlapse.measures.stream import Array, Groups, Moment, Values, frames_of, moments, select
from weightlapse.measures.trajectory import trajectory
from weightlapse.measures.units import duplicate_units, quiet_units
from weightlapse.recording.frames import Frames
from weightlapse.recording.recording import opened
from weightlapse.recording.run import Run

Result = dict[str, NDArray[np.float64]]
By = Literal["tensor", "unit", "layer", "network"]
LARGEST_RESULT = 1 << 30  # bytes of a measure that keeps one number per weight

# measures that follow from others once the pass is over: name -> (what they need, how)
DERIVED: dict[str, tuple[tuple[str, ...], Callable[..., Array]]] = {
    "path_length": (("update_norm",), lambda u: np.nancumsum(u)),
    "directness": (("update_norm", "distance"), lambda u, d: _ratio(d, np.nancumsum(u))),
}
# measures that read the recording in a way of their own
WHOLE: dict[str, Callable[..., Result]] = {
    "pca": lambda run, names, frames, **_: {"network": trajectory(run, tensors=names, frames=frames).coordinates},
    "gradient_noise": lambda run, names, frames, **_: gradient_noise(run, names, frames),
    "function_drift": lambda run, _names, frames, model=None, data=None: function_drift(run, model, data, frames),
    "quiet_units": lambda run, names, frames, **_: quiet_units(run, names, frames),
    "duplicate_units": lambda run, names, frames, **_: duplicate_units(run, names, frames),
}
ARRAYS = ("mass", "histogram", "top_movers")
MEASURES = tuple(sorted({*QUANTITIES, *DERIVED, *WHOLE, *ARRAYS}))


@overload
def measure(  # type: ignore[overload-overlap]  # a text is a sequence of texts too
    run: Run | str | os.PathLike[str],
    what: str,
    *,
    tensors: str | Sequence[str] = "*",
    by: By = "tensor",
    groups: Groups | None = None,
    frames: Frames = None,
    bins: int = 64,
    top: int = 10,
    model: Any = None,
    data: Any = None,
) -> Result: ...


@overload
def measure(
    run: Run | str | os.PathLike[str],
    what: Sequence[str],
    *,
    tensors: str | Sequence[str] = "*",
    by: By = "tensor",
    groups: Groups | None = None,
    frames: Frames = None,
    bins: int = 64,
    top: int = 10,
    model: Any = None,
    data: Any = None,
) -> dict[str, Result]: ...


def measure(
    run: Run | str | os.PathLike[str],
    what: str | Sequence[str],
    *,
    tensors: str | Sequence[str] = "*",
    by: By = "tensor",
    groups: Groups | None = None,
    frames: Frames = None,
    bins: int = 64,
    top: int = 10,
    model: Any = None,
    data: Any = None,
) -> Result | dict[str, Result]:
    """Numbers over time from a recording: ``{name: float64 array (T, ...)}``.

    Arguments:
        run: a `Recording`, or the path of one; only the recording is read, no framework is needed (but see ``function_drift``).
        what: a measure, or several that share one pass; then the result is ``{measure: {name: array}}``.
        tensors: glob or globs; floating-point and complex tensors of all matching names.
        by: ``"tensor"``: one number per tensor; ``"unit"``: one per row of its first axis, (T, rows); ``"layer"``: the tensors of
            one module together; ``"network"``: all selected tensors together, under the name ``"network"``.
        groups: ``{group: flat positions}`` for one tensor, ``{group: (tensor, flat positions)}`` or ``{group: {tensor: flat positions}}``; results are then by group.
        frames: which frames, rising: a slice, a range, an integer or a sequence of integers; all by default. What is measured against the frame
            before goes from each of them to the next.
        bins: for ``histogram``. top: for ``top_movers``. model, data: for ``function_drift``.

    Measures, each defined at its function: norm, mean, std, max_abs, update_norm, update_ratio, distance, distance_to_end,
    angle_to_start, angle_to_end, angle_to_previous, path_length, directness (displacement over path), sparsity, sign_changes;
    mass (shares |w| / sum|w|, one per weight, (T, *S); with ``groups`` each group's share of all selected tensors), entropy,
    gini, transport (mass moved since the frame before); spectrum, effective_rank, stable_rank, alpha; histogram ((T, bins)
    counts on edges that stay the same for the whole run; key ``NAME:edges`` holds them); top_movers ((T, top, 2): flat position
    and change since the frame before, largest first); quiet_units, duplicate_units; pca; gradient_noise (needs the stream
    ``gradients``); function_drift (needs ``model`` and ``data``).

    A complex tensor counts with both parts. Norms, distances, angles and what follows from them are those of the real vector of all real and
    imaginary parts (so a norm is the root of the sum of |w|^2); mean, std, histogram and sign_changes look at the parts as numbers of their own;
    max_abs, sparsity, mass, entropy, gini, transport and top_movers at the modulus of each weight (or of its change); spectrum and the ranks
    at the complex matrix. In a group of real and complex tensors together each part counts as a weight.

    Raises:
        InvalidArgument: an unknown measure, an empty choice of frames, a result too large for memory.
        UnknownTensor: no tensor matches.

    >>> import numpy as np, tempfile, weightlapse as wl
    >>> w = np.zeros(3)
    >>> rec = wl.watch({"w": w}, tempfile.mkdtemp() + "/run")
    >>> for t in range(4):
    ...     w[0] += 1.0
    ...     rec.step({"w": w})
    >>> rec.close()
    >>> wl.measure(wl.load(rec.path), "norm")["w"]
    array([0., 1., 2., 3., 4.])
    """
    wanted = [what] if isinstance(what, str) else list(what)
    for name in wanted:
        if name not in MEASURES:
            raise InvalidArgument(
                f"there is no measure {name!r}; {closest(name, MEASURES)}. All: {', '.join(MEASURES)}"
            )
    if by not in ("tensor", "unit", "layer", "network"):
        raise InvalidArgument(f"by={by!r}; use 'tensor', 'unit', 'layer' or 'network'")
    run, span = frames_of(opened(run), frames)
    chosen = select(run, tensors)
    results: dict[str, Result] = {
        name: WHOLE[name](run, chosen, span, **({"model": model, "data": data} if name == "function_drift" else {}))
        for name in wanted
        if name in WHOLE
    }
    passing = [name for name in wanted if name not in WHOLE]
    needed = [need for name in passing for need in (DERIVED[name][0] if name in DERIVED else (name,))]
    ready = kept(run, list(dict.fromkeys(needed)), chosen, span) if by == "tensor" and not groups else {}
    if ready and all(found.keys() >= set(chosen) for found in ready.values()):
        results |= {name: _derived(name, ready, chosen) for name in passing}
    elif passing:
        results |= _one_pass(run, passing, chosen, span, _grouping(by, groups, chosen, run), by, groups, bins, top)
    return results[wanted[0]] if isinstance(what, str) else {name: results[name] for name in wanted}


def _derived(name: str, ready: Mapping[str, Result], names: list[str]) -> Result:
    """A measure of the tensors ``names``, from what it follows from."""
    needs, how = DERIVED.get(name, ((name,), lambda x: x))
    return {key: how(*(ready[need][key] for need in needs)) for key in names}


def _grouping(by: str, groups: Groups | None, names: list[str], run: Run) -> Groups | None:
    """Layers and the whole network are groups that hold every weight of their tensors."""
    if groups is not None or by in ("tensor", "unit"):
        return groups
    layers: dict[str, dict[str, Any]] = {}
    for name in names:
        layer = "network" if by == "network" else (name.rpartition(".")[0] or name)
        layers.setdefault(layer, {})[name] = ...
    return layers


def _one_pass(
    run: Run,
    wanted: list[str],
    names: list[str],
    span: range,
    grouping: Groups | None,
    by: str,
    groups: Groups | None,
    bins: int,
    top: int,
) -> dict[str, Result]:
    simple = [n for n in wanted if n in QUANTITIES]
    for name in wanted:
        if name in DERIVED:
            simple += [need for need in DERIVED[name][0] if need not in simple]
    if "mass" in wanted and not groups:
        _refuse_large(run, names, len(span))
    edges = _edges(run, names, span, grouping, bins) if "histogram" in wanted else {}
    rows: dict[str, dict[str, list[Any]]] = {n: {} for n in [*simple, *(a for a in ARRAYS if a in wanted)]}
    totals: dict[int, float] = {}
    if groups and "mass" in wanted:
        for moment in moments(run, names, span, label="total mass"):
            totals[moment.frame] = totals.get(moment.frame, 0.0) + float(np.abs(moment.weights).sum())
    need_end = any(n in NEEDS_END for n in simple)
    for moment in moments(run, names, span, grouping, need_end=need_end):
        for name in rows:
            if name == "mass":
                weights = moment.weights
                value: Any = (
                    np.abs(weights).sum() / totals[moment.frame] if groups else shares(weights).reshape(weights.shape)
                )
            elif name == "histogram":
                value = np.histogram(moment.now[np.isfinite(moment.now)], bins=edges[moment.name])[0]
            elif name == "top_movers":
                value = _top_movers(moment, top)
            else:
                value = _by_unit(QUANTITIES[name], moment) if by == "unit" and not groups else QUANTITIES[name](moment)
            rows[name].setdefault(moment.name, []).append(value)
    results = {name: {k: np.asarray(v, dtype=np.float64) for k, v in per.items()} for name, per in rows.items()}
    for name in wanted:
        if name in DERIVED:
            needs, how = DERIVED[name]
            keys = results[needs[0]]
            results[name] = {k: how(*(results[n][k] for n in needs)) for k in keys}
    if "histogram" in wanted:
        results["histogram"] |= {f"{k}:edges": e for k, e in edges.items()}
    return results


def _by_unit(function: Callable[[Moment], Any], m: Moment) -> Array:
    """The quantity of each row of the first axis; a tensor without axes is one row."""
    single = m.raw.ndim == (1 if m.is_complex else 0)

    def rows(x: Values) -> Values:
        return x[None] if single else x

    def pick(x: Values | None, i: int) -> Values | None:
        return None if x is None else rows(x)[i : i + 1]

    now, start = rows(m.raw), rows(m.start)
    return np.asarray(
        [
            function(
                Moment(
                    m.name, m.frame, m.step, now[i : i + 1], pick(m.before, i), start[i : i + 1], pick(m.end, i), m.is_complex
                )
            )
            for i in range(now.shape[0])
        ]
    )  # fmt: skip


def _top_movers(m: Moment, top: int) -> Array:
    if m.update is None:
        return np.full((min(top, m.weights.size), 2), np.nan)
    change = m.as_weights(m.update).reshape(-1)
    flat: Array = np.abs(change) if m.is_complex else change
    count = min(top, flat.size)
    order = np.argsort(-np.abs(flat), kind="stable")[:count]
    return np.stack([order.astype(np.float64), flat[order]], axis=1)


def _edges(run: Run, names: list[str], span: range, grouping: Groups | None, bins: int) -> Result:
    """Bin edges that hold every finite value of the run, so that histograms of different frames compare."""
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    for m in moments(run, names, span, grouping, label="finding the range"):
        finite = m.now[np.isfinite(m.now)]
        if finite.size:
            low[m.name] = min(low.get(m.name, np.inf), float(finite.min()))
            high[m.name] = max(high.get(m.name, -np.inf), float(finite.max()))
        else:
            low.setdefault(m.name, 0.0), high.setdefault(m.name, 0.0)
    return {k: np.linspace(low[k], high[k] if high[k] > low[k] else low[k] + 1.0, bins + 1) for k in low}


def _refuse_large(run: Run, names: list[str], count: int) -> None:
    size = 8 * count * sum(int(np.prod(run.shapes[n], dtype=np.int64)) for n in names)
    if size > LARGEST_RESULT:
        raise InvalidArgument(
            f"mass keeps one number per weight and frame: {size / 1e9:.1f} GB here. Choose fewer tensors= or frames=, give groups=, "
            "or use 'entropy', 'gini' or 'transport', which keep one number per tensor"
        )


def _ratio(a: Array, b: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(b > 0, a / b, np.nan)

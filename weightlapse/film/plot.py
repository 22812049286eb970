"""Figures of a recording, drawn on Matplotlib axes: `lines`, `heatmap`, `mass`, `norms`, `scalars`, `trajectory`, `ridgeline`.

Every function takes a recording (or its path), draws on ``ax`` or on a new figure, and returns the axes, so that titles, limits and
files stay in the caller's hands. The numbers come from `weightlapse.measures`; the rules for colours and for tensors of any shape are
those of the film.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

import weightlapse.film.charts as charts
from weightlapse.errors import InvalidArgument, UnknownTensor, closest
from weightlapse.film.axes import axes_or_new, colour_bar, finished, listed_map, series_colours
from weightlapse.film.colours import GROUND, encode
from weightlapse.film.differences import diff as diff  # wl.plot.diff
from weightlapse.film.frames import Values, all_shapes, chosen, sample, span_at, values_over
from weightlapse.film.spike import autopsy as autopsy  # wl.plot.autopsy
from weightlapse.measures.measure import measure
from weightlapse.picture.cells import gaps
from weightlapse.picture.compose import arrangement_of
from weightlapse.picture.limits import limit_of
from weightlapse.picture.numbers import spans_decades
from weightlapse.picture.reduce import SPIKE, typical
from weightlapse.picture.sample import limit
from weightlapse.recording.frames import Frames, check_frames, rising_frames
from weightlapse.recording.polar import PARTS, polar
from weightlapse.recording.recording import opened
from weightlapse.recording.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 2000  # frames looked at for a curve: more than the pixels of any figure
_CELLS = 4_000_000  # cells of a heat map; larger tensors are thinned, spikes kept


def lines(
    run: Run | str | os.PathLike[str],
    tensor: str | None = None,
    ax: Axes | None = None,
    *,
    most: int = 64,
    frames: Frames = None,
) -> Axes:
    """Every weight of ``tensor`` (a name or a glob; default: the first) against the step; beyond ``most``, ``most`` of them evenly spread.

    Of a complex tensor its magnitudes and its phases. Returns the axes. Raises UnknownTensor.

    >>> lines(run, "fc1.weight")                                                   # doctest: +SKIP
    """
    run = polar(opened(run))
    shapes = all_shapes(run)
    names = [_named(run, tensor)] if tensor is None or tensor in shapes else chosen(run, tensor)
    total = sum(int(np.prod(shapes[name])) for name in names)
    drawn = charts.single_weights(
        run, sample(check_frames(frames, len(run.steps)), _POINTS), {name: shapes[name] for name in names}, most
    )
    ax = axes_or_new(ax)
    colours = series_colours()
    for i, line in enumerate(drawn):
        tone = i if len(names) == 1 else int(line.tone)
        ax.plot(
            line.steps,
            line.values,
            color=colours[tone % len(colours)],
            lw=1.2 if len(drawn) <= 16 else 0.7,
            label=line.label,
        )
    what = ", ".join(names) if len(names) <= 3 else f"{len(names)} tensors"
    ax.set(
        xlabel="step",
        ylabel="weight",
        title=what if len(drawn) == total else f"{what}: {len(drawn)} of {total} weights",
    )
    ax.axhline(0, color="0.8", lw=0.8, zorder=0)
    if 1 < len(drawn) <= 8:
        ax.legend(frameon=False, fontsize="small")
    return finished(ax)


def heatmap(
    run: Run | str | os.PathLike[str],
    tensor: str | None = None,
    frame: int = -1,
    ax: Axes | None = None,
    *,
    scale: Literal["tensor", "step"] | float = "tensor",
    cmap: str = "RdBu_r",
) -> Axes:
    """The weights of ``tensor`` at ``frame`` as a heat map: a matrix as it is, kernels tiled in × out, a vector as a strip.

    ``scale``: "tensor" (one for all frames, as in the film), "step" (this frame's own), or a number. NaN, Inf and values beyond the
    scale have colours of their own. Of a complex tensor ``w`` the magnitude is drawn, or the part that is named: ``w.phase``. Returns the axes.

    >>> heatmap(run, "fc1.weight", frame=0)                                        # doctest: +SKIP
    """
    run = polar(opened(run))
    name = _named(run, tensor)
    (index,) = check_frames(int(frame), len(run.steps))
    value = _value(run, name, int(index))
    end = _limit(run, name, scale, value)
    drawn = arrangement_of(name, value.shape, all_shapes(run), run.wiring)
    flat = drawn.arrange(value)
    step = int(np.ceil(np.sqrt(flat.size / _CELLS))) if flat.size > _CELLS else 1
    codes = encode(typical(flat, step, step, SPIKE * end), end)
    if drawn.wrapped:
        codes[drawn.blank()[::step, ::step]] = GROUND
    high, broad = codes.shape
    wide = min(max(5.5 * broad / max(high, 1), 1.5), 11) + 1.5
    ax = axes_or_new(ax, (wide, min(max((wide - 1.5) * high / max(broad, 1), 1.2), 5.5) + 0.8))
    listed, norm = listed_map(cmap)
    image = ax.imshow(
        np.ma.masked_equal(codes, GROUND),
        cmap=listed,
        norm=norm,
        interpolation="nearest",
        aspect="equal" if 0.05 < high / broad < 20 else "auto",
    )
    if step == 1 and max(codes.shape) <= 400:
        for levels, line in ((drawn.across, ax.axvline), (drawn.down, ax.axhline)):
            for every, pixels in gaps(levels, 12):
                for place in range(every, broad if levels is drawn.across else high, every):
                    line(place - 0.5, color="white", lw=0.4 * pixels)
    colour_bar(ax, image, end, cmap)
    shape = "×".join(map(str, value.shape)) or "scalar"
    said = f"step {int(np.asarray(run.steps)[index])}, {shape}" + (
        f", 1 of {step}×{step} weights, spikes kept" if step > 1 else ""
    )
    ax.set_title(f"{name}\n{said}", fontsize="medium")
    ax.set(xticks=[], yticks=[])
    return ax


def mass(
    run: Run | str | os.PathLike[str],
    tensor: str | None = None,
    ax: Axes | None = None,
    *,
    frames: Frames = None,
    most: int = 16,
) -> Axes:
    """Shares of the absolute weight, |w| / Σ|w|, over time: of each weight of ``tensor`` where it has at most ``most``, or of each tensor.

    Areas are stacked, so that mass which moves from one weight to another is seen to move. Returns the axes.
    """
    run = opened(run)
    shapes = all_shapes(run)
    names = chosen(run, "*")
    if tensor is None and sum(int(np.prod(shapes[n])) for n in names) <= most and len(names) == 1:
        tensor = names[0]
    span = _thinned(run, frames)
    steps = np.asarray(run.steps)[span]
    ax = axes_or_new(ax)
    if tensor is not None:
        name = _named(run, tensor)
        shape = shapes[name]
        shares = np.asarray(measure(run, "mass", tensors=[name], frames=span)[name], dtype=np.float64).reshape(
            len(steps), -1
        )
        order = np.argsort(-np.nanmean(shares, axis=0), kind="stable")
        kept = np.sort(order[:most])
        parts = [shares[:, i] for i in kept]
        labels = ["[" + ",".join(map(str, np.unravel_index(i, shape))) + "]" for i in kept]
        if len(kept) < shares.shape[1]:
            parts.append(np.delete(shares, kept, axis=1).sum(axis=1))
            labels.append(f"{shares.shape[1] - len(kept)} others")
        title = f"{name}: share of mass"
    else:
        grouped = {n: {n: np.arange(int(np.prod(shapes[n])))} for n in names}
        found = measure(run, "mass", tensors=names, groups=grouped, frames=span)
        parts, labels = [np.asarray(found[n], dtype=np.float64).reshape(len(steps)) for n in names], names
        title = "share of mass by tensor"
    colours = series_colours()
    ax.stackplot(
        steps,
        *parts,
        colors=[colours[i % len(colours)] for i in range(len(parts))],
        labels=labels,
        alpha=0.85,
        lw=0.4,
        edgecolor="white",
    )
    ax.set(xlabel="step", ylabel="|w| / Σ|w|", title=title, ylim=(0, 1), xlim=(steps[0], max(steps[-1], steps[0] + 1)))
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize="small", reverse=True)
    return finished(ax)


def norms(
    run: Run | str | os.PathLike[str],
    tensors: str | Sequence[str] = "*",
    ax: Axes | None = None,
    *,
    frames: Frames = None,
) -> Axes:
    """The Euclidean norm of each tensor against the step. Returns the axes."""
    run = opened(run)
    span = _thinned(run, frames)
    found = measure(run, "norm", tensors=chosen(run, tensors), frames=span)
    return _many(ax, np.asarray(run.steps)[span], found, "norm", "norm of each tensor")


def scalars(
    run: Run | str | os.PathLike[str], names: str | Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """What was logged beside the weights (loss, accuracy, ...) against the step; a log axis where it helps. Returns the axes."""
    run = opened(run)
    known = {name: np.asarray(values, dtype=np.float64) for name, values in run.scalars.items()}
    if not known:
        raise InvalidArgument("the recording holds no scalars; rec.log(loss=...) records them")
    wanted = list(known) if names is None else [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in known:
            raise InvalidArgument(f"no scalar is called {name!r} ({closest(name, known)})")
    steps = np.asarray(run.steps)
    ax = axes_or_new(ax)
    colours = series_colours()
    for i, name in enumerate(wanted):
        there = ~np.isnan(known[name])
        ax.plot(steps[there], known[name][there], color=colours[i % len(colours)], lw=1.2, label=name)
    ax.set(xlabel="step", title=", ".join(wanted))
    if spans_decades(np.concatenate([known[name] for name in wanted])):
        ax.set_yscale("log")
    if len(wanted) > 1:
        ax.legend(frameon=False, fontsize="small")
    return finished(ax)


def trajectory(
    run: Run | str | os.PathLike[str],
    tensors: str | Sequence[str] = "*",
    ax: Axes | None = None,
    *,
    frames: Frames = None,
) -> Axes:
    """The path of all chosen weights together in the plane of its two largest principal components. Returns the axes."""
    from weightlapse.measures.trajectory import trajectory as path_of

    run = opened(run)
    found = path_of(run, tensors=chosen(run, tensors), frames=frames)
    across, down = (
        found.coordinates[:, i] if i < found.coordinates.shape[1] else np.zeros(len(found.frames)) for i in (0, 1)
    )
    ax = axes_or_new(ax)
    steps = np.asarray(run.steps)[found.frames]
    ax.plot(across, down, color="0.8", lw=1, zorder=1)
    dots = ax.scatter(across, down, c=steps, cmap="viridis", s=10, zorder=2)
    ax.figure.colorbar(dots, ax=ax, label="step").outline.set_visible(False)
    for index, word in ((0, "start"), (-1, "end")):
        ax.annotate(word, (across[index], down[index]), xytext=(6, 6), textcoords="offset points")
    shares = [
        f"component {i + 1} ({share:.0%} of the movement)" for i, share in enumerate([*found.explained, 0.0, 0.0][:2])
    ]
    ax.set(xlabel=shares[0], ylabel=shares[1], title="path of the weights", aspect="equal", adjustable="datalim")
    return finished(ax)


def ridgeline(
    run: Run | str | os.PathLike[str],
    tensor: str | None = None,
    ax: Axes | None = None,
    *,
    frames: Frames = None,
    most: int = 24,
) -> Axes:
    """Histograms of ``tensor`` (default: the first) at up to ``most`` frames, the earliest at the back. Returns the axes."""
    run = opened(run)
    name = _named(run, tensor)
    span = _thinned(run, frames)
    found = measure(run, "histogram", tensors=[name], frames=span)
    counts, edges = (
        np.asarray(found[name], dtype=np.float64),
        np.asarray(found[f"{name}:edges"], dtype=np.float64).reshape(-1),
    )
    kept = np.unique(np.linspace(0, len(counts) - 1, min(len(counts), most)).round().astype(int))
    steps = np.asarray(run.steps)[span][kept]
    middle = (edges[:-1] + edges[1:]) / 2
    tallest = counts[kept].max() or 1.0
    ax = axes_or_new(ax)
    for row, frame in enumerate(kept):
        base = float(len(kept) - 1 - row)
        height = base + 3.0 * counts[frame] / tallest
        ax.fill_between(middle, base, height, color=series_colours()[0], alpha=0.75, lw=0, zorder=row)
        ax.plot(middle, height, color="white", lw=0.8, zorder=row)
    rows = np.unique(np.linspace(0, len(kept) - 1, min(len(kept), 6)).round().astype(int))
    ax.set_yticks([len(kept) - 1 - row for row in rows], labels=[str(int(steps[row])) for row in rows])
    ax.set(xlabel="weight", ylabel="step", title=f"{name}: histograms")
    return finished(ax)


def _many(ax: Any, steps: NDArray[np.int64], found: dict[str, NDArray[np.float64]], ylabel: str, title: str) -> Any:
    ax = axes_or_new(ax)
    colours = series_colours()
    for i, (name, values) in enumerate(found.items()):
        ax.plot(
            steps,
            values,
            color=colours[i % len(colours)],
            ls=("-", "--", ":", "-.")[i // len(colours) % 4],
            lw=1.2,
            label=name,
        )
    if spans_decades(np.concatenate([np.asarray(v, dtype=np.float64).ravel() for v in found.values()]), 100):
        ax.set_yscale("log")
    ax.set(xlabel="step", ylabel=ylabel, title=title)
    if len(found) <= 20:
        ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return finished(ax)


def _named(run: Run, tensor: str | None) -> str:
    shapes = all_shapes(run)
    if tensor is None:
        return chosen(run, "*")[0]
    if tensor not in shapes and f"{tensor}.{PARTS[0]}" in shapes:
        tensor = f"{tensor}.{PARTS[0]}"
    if tensor not in shapes:
        raise UnknownTensor(f"no tensor of the recording is called {tensor!r} ({closest(tensor, shapes)})")
    if int(np.prod(shapes[tensor])) == 0:
        raise InvalidArgument(f"{tensor!r} has the shape {shapes[tensor]} and so no weight that could be drawn")
    return tensor


def _value(run: Run, name: str, frame: int) -> Values:
    (values,) = values_over(run, [name], np.array([frame]))
    if name not in values:
        span = span_at(run, frame)
        raise UnknownTensor(
            f"{name!r} does not exist at frame {frame}: it belongs to another part of the run; "
            f"run.layouts tells them apart, and there is {list(span.shapes) if span else []}"
        )
    return values[name]


def _limit(run: Run, name: str, scale: str | float, value: Values) -> float:
    if scale == "step":
        return limit_of(value)
    if scale == "tensor":
        return limit(run, name)
    if isinstance(scale, (int, float)) and np.isfinite(scale) and scale > 0:
        return float(scale)
    raise InvalidArgument(f"scale must be 'tensor', 'step' or a positive number, not {scale!r}")


def _thinned(run: Run, frames: Frames) -> NDArray[np.int64]:
    """``frames``, thinned to about as many as a figure can show."""
    picked = rising_frames(frames, len(run.steps))
    return picked[:: max(len(picked) // _POINTS, 1)]

"""The weights that a Lift writes, as a map over the space of its inputs: arrays first, pictures and recordings of them after."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from weightlapse.errors import InvalidArgument, UnknownTensor, closest
from weightlapse.lift.hypernetwork import Lift

_ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class WeightMap:
    """Generated weights on a grid. ``weights[name]`` is (len(v), len(u), *S): row = second axis of the plane, column = first."""

    u: NDArray[np.float64]
    v: NDArray[np.float64]
    axes: tuple[int, int]
    at: NDArray[np.float64]  # (H,): where the plane lies in the other coordinates
    weights: dict[str, NDArray[Any]]


def weight_map(
    net: Lift,
    low: float | Sequence[float],
    high: float | Sequence[float],
    *,
    axes: tuple[int, int] = (0, 1),
    at: ArrayLike | None = None,
    resolution: int = 64,
    width: int | None = None,
) -> WeightMap:
    """What ``net`` writes over the plane of two input coordinates, ``low`` to ``high`` (numbers, or one for each axis).

    ``at``: the value of all coordinates off the plane (H,), default zero. The inputs are those of the generator (the hyper-input, where
    the net has one); ``width`` H is told from the net where it can be. Pure computation, no drawing.
    """
    width = width if width is not None else _width(net)
    point = np.zeros(width) if at is None else np.asarray(at, np.float64)
    if point.shape != (width,) or not all(0 <= a < width for a in axes) or axes[0] == axes[1]:
        raise InvalidArgument(f"weight_map: axes {axes} and at {point.shape} must fit inputs of {width} numbers")
    if resolution < 1:
        raise InvalidArgument(f"weight_map: resolution must be at least 1, not {resolution}")
    bottom, top = np.broadcast_to(np.asarray(low, float), 2), np.broadcast_to(np.asarray(high, float), 2)
    u, v = (np.linspace(bottom[i], top[i], resolution) for i in (0, 1))
    points = np.broadcast_to(point, (resolution, resolution, width)).copy()
    points[:, :, axes[0]], points[:, :, axes[1]] = u[None, :], v[:, None]
    found = weights_along(net, points.reshape(-1, width))
    return WeightMap(u, v, axes, point, {n: w.reshape(resolution, resolution, *w.shape[1:]) for n, w in found.items()})


@torch.no_grad()
def weights_along(net: Lift, points: ArrayLike | Tensor) -> dict[str, NDArray[Any]]:
    """What ``net`` writes at each of ``points`` (T, H), inputs of its generator: name -> (T, *S)."""
    like = next(net.parameters())
    inputs = torch.as_tensor(points if isinstance(points, Tensor) else np.asarray(points)).to(like)
    rows = inputs.split(_ROWS_AT_ONCE)
    parts = [net.weights_for(r, r) if net.hyper_width is not None else net.weights_for(r) for r in rows]
    return {name: torch.cat([p[name] for p in parts]).cpu().numpy() for name in parts[0]}


def path_between(stops: ArrayLike, frames: int) -> NDArray[np.float64]:
    """``frames`` points (frames, H) at equal distances along the straight lines from stop to stop (K, H)."""
    corners = np.asarray(stops, np.float64)
    if corners.ndim != 2 or len(corners) < 2 or frames < 2:
        raise InvalidArgument("path_between: give at least two stops (K, H) and two frames")
    lengths = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(corners, axis=0), axis=1))]
    if lengths[-1] == 0:
        raise InvalidArgument("path_between: all stops are the same point, so there is no path")
    where = np.linspace(0, lengths[-1], frames)
    return np.stack([np.interp(where, lengths, c) for c in corners.T], axis=1)


def record_path(net: Lift, points: ArrayLike, path: str | os.PathLike[str], *, overwrite: bool = False) -> Any:
    """Record what ``net`` writes along ``points`` (T, H): frame t is the network written at points[t]. Returns the `Recording`.

    ``wl.make_film(record_path(net, path_between(stops, 100), "path"), "path.mp4")`` is the film along a path of inputs. Scalars ``x0``,
    ``x1``, ... are the coordinates.
    """
    from weightlapse.capture.watch import watch
    from weightlapse.recording.recording import load

    where = np.asarray(points, np.float64)
    written = weights_along(net, where)
    frames = [{name: value[t] for name, value in written.items()} for t in range(len(where))]
    with watch(
        frames[0], path, meta={"frames": "points of a path through the inputs of a Lift"}, overwrite=overwrite
    ) as rec:
        rec.log(**_coordinates(where[0]))
        for t, frame in enumerate(frames[1:], 1):
            rec.step(frame, step=t, **_coordinates(where[t]))
    return load(path)


def draw_map(found: WeightMap, tensor: str, *, axes: Any = None, cmap: str = "RdBu_r") -> Any:
    """One image per weight of ``tensor`` over the plane, laid out as the tensor is, on one symmetric scale; returns the Matplotlib figure.

    ``axes``: an array of Matplotlib axes to draw into, one per weight; default: a new figure of up to 16 x 16 images.
    """
    if tensor not in found.weights:
        raise UnknownTensor(f"draw_map: the net writes no tensor {tensor!r}; {closest(tensor, found.weights)}")
    values = found.weights[tensor]
    grid = values.reshape(*values.shape[:2], values.shape[2] if values.ndim > 3 else 1, -1)
    rows, columns = grid.shape[2:]
    if axes is None:
        from matplotlib.figure import Figure

        rows, columns = min(rows, 16), min(columns, 16)
        figure = Figure(figsize=(1 + 1.5 * columns, 0.8 + 1.5 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
    panes = np.asarray(axes, object).reshape(rows, columns)
    limit = float(np.abs(grid[np.isfinite(grid)]).max(initial=0.0)) or 1.0
    extent = (found.u[0], found.u[-1], found.v[0], found.v[-1])
    for o in range(rows):
        for i in range(columns):
            pane = panes[o, i]
            image = pane.imshow(
                grid[:, :, o, i], origin="lower", extent=extent, cmap=cmap, vmin=-limit, vmax=limit, aspect="auto"
            )
            index = f"{o}, {i}" if values.ndim > 3 else f"{i}"
            pane.set_title(f"[{index}]", fontsize=8)
            pane.tick_params(labelsize=6)
            if o == rows - 1:
                pane.set_xlabel(f"x{found.axes[0]}", fontsize=8)
            if i == 0:
                pane.set_ylabel(f"x{found.axes[1]}", fontsize=8)
    figure = panes[0, 0].figure
    figure.suptitle(f"{tensor}, as written for each input", fontsize=10)
    figure.colorbar(image, ax=panes.ravel().tolist(), shrink=0.9)
    return figure


def _coordinates(point: NDArray[np.float64]) -> dict[str, float]:
    return {f"x{i}": float(c) for i, c in enumerate(point[:16])}


def _width(net: Lift) -> int:
    if net.hyper_width is not None:
        return net.hyper_width
    if net.task_chain is not None and net.hyper_map is None:
        return net.task_chain.inputs
    raise InvalidArgument("the width of this net's inputs cannot be told; pass width=")

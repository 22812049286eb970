"""Two recordings in one picture: the first, the second, the second aligned, their difference, and how far apart they are.

All columns share one symmetric scale per tensor. The alignment is found once, at the last frame, and serves the whole film, so that
no unit jumps from one picture to the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

import weightlapse.film.charts as charts
from weightlapse.errors import InvalidArgument
from weightlapse.film.curves import Curves, Line
from weightlapse.film.frames import Values, all_shapes, sample, values_over
from weightlapse.film.limits import over_frames
from weightlapse.film.panels import Header, Legend, Panel, Weights
from weightlapse.film.placing import place
from weightlapse.film.plates import Measure, Placed, even, plates
from weightlapse.film.scene import THINNED, Order, Scene, frame_boxes, legend_ends
from weightlapse.film.surface import Box
from weightlapse.picture.numbers import grouped
from weightlapse.progress import track
from weightlapse.recording.frames import frame_of_step
from weightlapse.recording.renamed import under_names_of
from weightlapse.recording.run import LayoutSpan, Run, Seen, TensorHistory
from weightlapse.symmetry.runs import align_runs
from weightlapse.symmetry.states import distance, float_arrays, parameter_names
from weightlapse.wiring.data import Wiring

_POINTS = 240  # moments at which the distance is measured
FIRST, SECOND, ALIGNED, DIFFERENCE = "first", "second", "aligned", "difference"


class _InStep(Seen):
    """A recording seen at the steps of another: at each step its newest frame."""

    def __init__(self, run: Run, steps: NDArray[np.int64]) -> None:
        super().__init__(run)
        self.run, self._steps = run, steps
        self.at = np.clip(np.searchsorted(np.asarray(run.steps), steps, side="right") - 1, 0, None)

    @property
    def steps(self) -> NDArray[np.int64]:
        return self._steps

    @property
    def scalars(self) -> dict[str, NDArray[np.float64]]:
        return {name: np.asarray(values)[self.at] for name, values in self.run.scalars.items()}

    @property
    def layouts(self) -> Sequence[LayoutSpan]:
        return ()

    def bound(self, name: str, frame: int | None = None) -> float:
        return self.run.bound(name, None if frame is None else int(self.at[frame]))

    def state(self, step: int | None = None, *, frame: int | None = None) -> dict[str, NDArray[Any]]:
        if step is not None:
            frame = frame_of_step(self, step)
        return self.run.state(frame=int(self.at[-1 if frame is None else frame]))

    def __getitem__(self, name: str, /) -> TensorHistory:
        history = self.run[name]
        return history if np.array_equal(self.at, np.arange(len(history))) else np.asarray(history[:])[self.at]

    def values(self, names: Sequence[str], frames: NDArray[np.int64]) -> Iterator[dict[str, Values]]:
        return values_over(self.run, names, self.at[frames])


class Pair(Seen):
    """Two recordings as one, at the steps of the longer one: with its events, and the tensors and scalars of the second.

    Where one has no frame at a step its newest earlier one stands; a teacher that no longer trains needs a single frame.
    """

    def __init__(self, first: Run, second: Run, align: bool) -> None:
        second = under_names_of(first, second)
        shapes = all_shapes(first)
        for name, shape in all_shapes(second).items():
            if shapes.get(name) != shape:
                other = f"shape {shapes[name]}" if name in shapes else "no such tensor"
                raise InvalidArgument(
                    f"{name!r} has shape {shape} in the second recording and {other} in the first, so there is no difference to draw; "
                    "film recordings of the same architecture, or choose tensors that both have with tensors="
                )
        longer = second if len(second.steps) >= len(first.steps) else first
        steps: NDArray[np.int64] = np.asarray(longer.steps)
        self.first, self.second = _InStep(first, steps), _InStep(second, steps)
        super().__init__(self.second)
        self._events = longer.events
        self._wiring = first.wiring or second.wiring
        self.align = align and self._wiring is not None
        self.note = (
            "not aligned: neither recording holds a wiring (record with example=...)"
            if align and not self.align
            else ""
        )
        self.labels = ("A", "B") if first.name == second.name else (first.name, second.name)

    @property
    def name(self) -> str:
        """Both labels, for the title."""
        return " and ".join(self.labels)

    @property
    def events(self) -> Sequence[tuple[int, str]]:
        """(step, text) of the longer recording alone."""
        return self._events

    @property
    def wiring(self) -> Wiring | None:
        """That of the first recording, or, where it has none, of the second; None where neither has one, and nothing is aligned."""
        return self._wiring

    @cached_property
    def _element(self) -> Any:
        return align_runs(self.first, self.second, self.wiring).element(len(self.steps) - 1)

    @property
    def columns(self) -> tuple[str, ...]:
        """What the columns of the picture show, from left to right."""
        return (FIRST, SECOND, ALIGNED, DIFFERENCE) if self.align else (FIRST, SECOND, DIFFERENCE)

    def read(self, names: Sequence[str], frames: NDArray[np.int64]) -> Iterator[dict[str, Values]]:
        """Values of every column, under ``column|name``."""
        for a, b, aligned in self.states(names, frames):
            values: dict[str, Values] = {}
            for name in names:
                values[f"{FIRST}|{name}"], values[f"{SECOND}|{name}"] = a[name], b[name]
                moved = b[name] if aligned is None else aligned[name]
                if aligned is not None:
                    values[f"{ALIGNED}|{name}"] = moved
                with np.errstate(invalid="ignore", over="ignore"):
                    values[f"{DIFFERENCE}|{name}"] = np.asarray(moved.astype(np.float64) - a[name].astype(np.float64))
            yield values

    def states(
        self, names: Sequence[str], frames: NDArray[np.int64]
    ) -> Iterator[tuple[Mapping[str, Values], Mapping[str, Values], Mapping[str, Values] | None]]:
        """First, second, and second aligned (None when not aligned) at each frame."""
        # moving units needs every tensor they live in, drawn or not
        wanted = list(dict.fromkeys([*names, *self._wired])) if self.align else list(names)
        for a, b in zip(self.first.values(names, frames), self.second.values(wanted, frames)):
            yield a, b, self._element.on_state(b, self.wiring) if self.align else None

    @cached_property
    def _wired(self) -> list[str]:
        known = self.second.shapes
        return [m.tensor for g in (self.wiring.groups if self.wiring else ()) for m in g.members if m.tensor in known]

    def distances(self, names: Sequence[str], frames: NDArray[np.int64]) -> list[Line]:
        """``||A - B|| / ||A||`` over ``names``, as recorded and aligned."""
        looked = sample(frames, _POINTS)
        raw, aligned = [], []
        for a, b, moved in track(self.states(names, looked), "measuring distances", total=len(looked)):
            arrays = float_arrays(a, parameter_names(a, self.wiring))
            raw.append(distance(arrays, float_arrays(b, arrays)))
            if moved is not None:
                aligned.append(distance(arrays, float_arrays(moved, arrays)))
        steps = self.steps[looked]
        lines = [Line("raw", steps, np.array(raw), 1)]
        return [*lines, Line("aligned", steps, np.array(aligned), 0)] if aligned else lines


def compose_pair(pair: Pair, order: Order) -> Scene:
    """The scene of two recordings."""
    width, height = order.size
    if width < 400 or height < 260:
        raise InvalidArgument(f"size={width}x{height} is too small for two recordings side by side: at least 400x260")
    measure = Measure.of(width, height)
    header, body, footer = frame_boxes(width, height, measure)
    names = list(order.names)
    shapes = {name: tuple(pair.shapes[name]) for name in names}
    x, y, wide, high = body
    gap = even(26 * max(measure.unit, 0.5))
    low = even(min(max(high * 0.3, 90), high * 0.45))
    head = even(measure.text * 2.5)
    count = len(pair.columns)
    each = even((wide - gap * (count - 1)) / count)
    placed, missing = place(plates(shapes, pair.wiring), each, high - low - gap - head, measure)
    by_tensor = _shared_scales(pair, names, order)
    panels: list[Panel] = []
    for i, (column, heading) in enumerate(zip(pair.columns, _headings(pair))):
        box: Box = (x + i * (each + gap), y + head, each, high - low - gap - head)
        own = {f"{column}|{name}": limit for name, limit in by_tensor.items()} if by_tensor else None
        moved = [_in_column(p.moved(p.x + box[0], p.y + box[1]), column, labelled=i == 0) for p in placed]
        panels.append(Weights([(0, moved)], measure, own, missing if i == 0 else 0, box, heading))
    panels += _charts(pair, order, names, (x, y + high - low, wide, low), measure, gap)
    steps, shown = pair.steps, order.frames
    marks = [
        charts.place_in_film(steps[shown], step)
        for step, _ in pair.events
        if steps[shown].min() <= step <= steps[shown].max()
    ]
    title = order.title or f"{pair.labels[0]} and {pair.labels[1]}"
    total = sum(int(np.prod(shape)) for shape in shapes.values())
    subtitle = " · ".join(
        filter(None, [f"{len(names)} tensors · {grouped(total)} weights each", order.note, pair.note])
    )
    panels.append(Header(header, measure, title, subtitle, int(steps[shown].max()), marks if len(shown) > 1 else []))
    if footer[3]:
        thinned = any(isinstance(panel, Weights) and panel.thinned for panel in panels)
        note = (
            "each step has its own colour scale"
            if by_tensor is None
            else "one colour scale per tensor, shared by all columns"
        )
        panels.append(
            Legend(footer, measure, legend_ends(order.scale, by_tensor or {}), note + (THINNED if thinned else ""))
        )
    return Scene(panels, lambda frames: pair.read(names, frames))


def _headings(pair: Pair) -> list[str]:
    a, b = pair.labels
    return [a, b, f"{b}, aligned", f"{b} aligned − {a}"] if pair.align else [a, b, f"{b} − {a}"]


def _in_column(placed: Placed, column: str, *, labelled: bool) -> Placed:
    """The plate with the names of one column's values; only the first column writes labels."""
    plate = placed.plate

    def renamed(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"{column}|{name}" for name in names)

    return replace(
        placed,
        plate=replace(plate, main=f"{column}|{plate.main}", beside=renamed(plate.beside), below=renamed(plate.below)),
        tiles=tuple(replace(tile, name=f"{column}|{tile.name}") for tile in placed.tiles),
        label=placed.label if labelled else 0,
    )


def _shared_scales(pair: Pair, names: Sequence[str], order: Order) -> dict[str, float] | None:
    if order.scale == "step":
        return None
    frames = np.unique(order.frames)
    sides = [over_frames(side.run, names, np.unique(side.at[frames])) for side in (pair.first, pair.second)]
    found = {name: max(side[name] for side in sides) for name in names}
    return dict.fromkeys(found, max(found.values())) if order.scale == "global" else found


def _charts(pair: Pair, order: Order, names: Sequence[str], box: Box, measure: Measure, gap: int) -> list[Panel]:
    x, y, wide, high = box
    steps = pair.steps[order.frames]
    span = (int(steps.min()), int(steps.max()))
    lines = pair.distances(names, order.frames)
    logged = charts.scalar_charts(pair) if wide > 400 else []
    left = even(wide * 0.6) if logged else wide
    a, b = pair.labels
    title = f"distance ‖{b} − {a}‖ / ‖{a}‖"
    made: list[Panel] = [
        Curves((x, y, left - (gap if logged else 0), high), measure, title, lines, span, log_steps=order.log_steps)
    ]
    if logged:
        name, curves = charts.scalars(pair, order, {}, logged[0])
        made.append(
            Curves(
                (x + left, y, wide - left, high),
                measure,
                f"{name} of {pair.labels[1]}",
                curves,
                span,
                log_steps=order.log_steps,
            )
        )
    return made

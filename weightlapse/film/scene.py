"""Puts a picture together: which panels, where, on which scales. The same rules for a film, a thumbnail and a figure."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

import weightlapse.film.charts as charts
from weightlapse.errors import InvalidArgument, closest
from weightlapse.film.colours import MARKS, SERIES_COUNT, SIGN_DARK
from weightlapse.film.curves import Curves, Line, stacked
from weightlapse.film.frames import Values, all_shapes, sample, span_at, values_over
from weightlapse.film.grown import Lineage, events_of, stages_of
from weightlapse.film.limits import over_frames
from weightlapse.film.moving import Mass, Ridges, Words, density
from weightlapse.film.painter import Painter
from weightlapse.film.panels import Header, Legend, Moment, Panel, Weights
from weightlapse.film.placing import place
from weightlapse.film.plates import Measure, even, plates
from weightlapse.film.surface import Box, Surface
from weightlapse.picture.numbers import grouped
from weightlapse.picture.sample import limit
from weightlapse.recording.run import Run

KINDS = ("weights", "scalars", "lines", "groups", "mass", "distance", "norms", "histograms", "text")
_SCALE_SAID = {
    "step": "each step has its own colour scale",
    "global": "one colour scale for all",
    "tensor": "one colour scale per tensor",
}
THINNED = " · small cells: one weight of several, spikes always"


@dataclass
class Order:
    """What a caller asks to be drawn."""

    names: Sequence[str]
    frames: NDArray[np.int64]  # the frame of each picture; of a still, all that its curves show
    size: tuple[int, int]
    scale: str = "tensor"
    panels: Sequence[str] | None = None
    groups: Mapping[str, Any] | None = None
    title: str = ""
    note: str = ""
    log_steps: bool = False
    still: int | None = None  # the one frame that a still shows

    @property
    def shown(self) -> NDArray[np.int64]:
        """Frames whose tensors need a place."""
        return self.frames if self.still is None else np.array([self.still])

    def looked(self, run: Run) -> NDArray[np.int64]:
        """Frames from which limits are taken: of a still, those with the same layout."""
        span = None if self.still is None else span_at(run, self.still)
        return self.frames if span is None else self.frames[self.frames >= span.start]


@dataclass
class Scene:
    """Panels at their places, and ``read``: frames -> the values that each moment must bring, in order."""

    panels: list[Panel]
    read: Callable[[NDArray[np.int64]], Iterator[dict[str, Values]]]
    signs: Mapping[int, int] = field(default_factory=lambda: dict.fromkeys(MARKS, SIGN_DARK))  # see `colours.signs`
    started: bool = field(default=False)

    @property
    def series_used(self) -> int:
        """How many series colours the picture needs: the palette of a GIF has none to give away."""
        tones = [line.tone for panel in self.panels if isinstance(panel, Curves) for line in panel.lines]
        return max([1, *(tone % SERIES_COUNT for tone in tones if isinstance(tone, int))]) + 1

    def draw(self, surface: Surface, moment: Moment) -> None:
        """Draw the moment over the last one that was drawn on this surface."""
        self.draw_on(Painter(surface, self.signs), moment)

    def draw_on(self, painter: Painter, moment: Moment) -> None:
        """With any painter; what never changes is drawn once, before the first moment, so a scene serves one surface."""
        if not self.started:
            for panel in self.panels:
                panel.static(painter)
            self.started = True
        for panel in self.panels:
            panel.draw(painter, moment)


def compose(run: Run, order: Order) -> Scene:
    """The scene of one recording."""
    width, height = order.size
    measure = Measure.of(width, height)
    header, body, footer = frame_boxes(width, height, measure)
    known = all_shapes(run, order.shown)
    shapes = {name: known[name] for name in order.names}
    wanted = (
        _parse(order.panels)
        if order.panels is not None
        else _automatic(run, shapes, body, len(np.unique(order.frames)))
    )
    if order.groups and order.panels is None and ("groups", "*") not in wanted:
        wanted = [*wanted, ("groups", "*")]  # whoever names groups wants to see them
    heat = [(kind, words) for kind, words in wanted if kind == "weights"]
    others = [(kind, words) for kind, words in wanted if kind != "weights"]

    built: list[Panel] = []
    tile_limits: dict[str, float] = {}
    main, side = _split(body, bool(heat), len(others), measure)
    if heat:
        drawn = _globbed(shapes, heat[0][1])
        weights = weight_panel(run, drawn, main, measure, order)
        tile_limits = dict(weights.limits or {})
        built.append(weights)
    for (kind, words), box in zip(others, side):
        built.append(_BUILD[kind](run, order, shapes, box, measure, words, tile_limits))
    steps = np.asarray(run.steps)
    title = order.title or run.name
    count = f"{len(shapes)} tensor{'s' if len(shapes) != 1 else ''} · {_weights(run, order)}"
    subtitle = " · ".join(filter(None, [count, order.note]))
    shown = order.frames
    events = events_of(run)
    marks = [
        charts.place_in_film(steps[shown], step)
        for step, _ in events
        if steps[shown].min() <= step <= steps[shown].max()
    ]
    built.append(Header(header, measure, title, subtitle, int(steps[shown].max()), marks if len(shown) > 1 else []))
    if heat and footer[3]:
        note = _SCALE_SAID[order.scale] + (THINNED if weights.thinned else "")
        built.append(Legend(footer, measure, legend_ends(order.scale, tile_limits), note))
    return Scene(built, lambda frames: values_over(run, list(shapes), frames))


def _weights(run: Run, order: Order) -> str:
    """How many weights are drawn; of a network that grows, at first and at last."""
    ends = [all_shapes(run, np.array([frame])) for frame in (int(order.shown[0]), int(order.shown[-1]))]
    counts = [sum(int(np.prod(known[name])) for name in order.names if name in known) for known in ends]
    said = " → ".join(grouped(n) for n in dict.fromkeys(counts))
    return said + (" weight" if counts == [1, 1] else " weights")


def frame_boxes(width: int, height: int, measure: Measure) -> tuple[Box, Box, Box]:
    """Header, body and footer inside the margins, all even."""
    margin = even(26 * max(measure.unit, 0.5))
    head = even(measure.text * 4.1)
    foot = even(measure.text * 2) if height >= 300 else 0
    top = even(margin * 0.8)
    wide = even(width - 2 * margin)
    body_top = top + head + even(margin * 0.8)
    bottom = height - even(margin * 0.7) - foot
    header = (margin, top, wide, head)
    footer = (margin, bottom, wide, foot)
    return (
        header,
        (margin, body_top, wide, max(even(bottom - body_top - (even(margin * 0.4) if foot else 0)), 2)),
        footer,
    )


def legend_ends(mode: str, by_tensor: Mapping[str, float]) -> tuple[str, str, str]:
    """What stands at the left end, the middle and the right end of the legend's colours."""
    from weightlapse.picture.numbers import short

    if mode == "global" and by_tensor:
        largest = short(max(by_tensor.values()))
        return "−" + largest, "0", "+" + largest
    return "−scale", "0", "+scale"


def weight_panel(run: Run, shapes: Mapping[str, tuple[int, ...]], box: Box, measure: Measure, order: Order) -> Weights:
    """The heat maps of ``shapes`` in ``box``, with their limits over the film."""
    stages, missing = [], 0
    for start, frames in stages_of(run, order.shown):
        known = all_shapes(run, frames)
        placed, left_out = place(
            plates({name: known[name] for name in shapes if name in known}, run.wiring),
            box[2],
            box[3],
            measure,
        )
        stages.append((start, [p.moved(p.x + box[0], p.y + box[1]) for p in placed]))
        missing = max(missing, left_out)
    names = list(dict.fromkeys(tile.name for _, placed in stages for p in placed for tile in p.tiles))
    by_tensor = None if order.scale == "step" else over_frames(run, names, order.looked(run))
    if by_tensor and order.scale == "global":
        by_tensor = dict.fromkeys(by_tensor, max(by_tensor.values()))
    lineage = Lineage(run) if len(run.layouts) > 1 else None
    return Weights(stages, measure, by_tensor, missing, box, lineage=lineage)


def _split(body: Box, heat: bool, others: int, measure: Measure) -> tuple[Box, list[Box]]:
    """The place of the heat maps and of the other panels: a column on the right, a row below in upright pictures."""
    x, y, wide, high = body
    gap = even(30 * max(measure.unit, 0.5))
    if not others:
        return body, []
    if not heat:
        columns = 1 if others == 1 else 2 if others <= 4 else 3
        rows = -(-others // columns)
        each = (wide - gap * (columns - 1)) // columns
        boxes = [b for c in range(columns) for b in stacked((x + c * (each + gap), y, each, high), rows, gap)]
        return body, [boxes[(i % columns) * rows + i // columns] for i in range(others)]
    if wide >= high * 1.15:
        columns = 1 if (high - gap * (others - 1)) / others > 105 * measure.unit or others < 3 else 2
        side = even(min(max(wide * 0.27, 150), wide * 0.4)) * columns - (0 if columns == 1 else even(wide * 0.06))
        rows = -(-others // columns)
        each = (side - gap * (columns - 1)) // columns
        boxes = [
            b for c in range(columns) for b in stacked((x + wide - side + c * (each + gap), y, each, high), rows, gap)
        ]
        return (x, y, even(wide - side - gap), high), boxes[:others]
    low = even(min(high * 0.32, 130 * max(measure.unit, 0.6) * 2))
    each = (wide - gap * (others - 1)) // others
    boxes = [(x + i * (each + gap), y + high - low, each, low) for i in range(others)]
    return (x, y, wide, even(high - low - gap)), boxes


def _automatic(run: Run, shapes: Mapping[str, tuple[int, ...]], body: Box, moments: int) -> list[tuple[str, str]]:
    """Heat maps, then what tells most: the loss, single weights of a tiny network, distances when there is no loss, histograms."""
    wanted = [("weights", "*")]
    if body[2] < 260 or body[3] < 120:
        return wanted
    room = max(body[3] // 150, 1)
    total = sum(int(np.prod(shape)) for shape in shapes.values())
    if moments > 1:
        wanted += [("scalars", name) for name in charts.scalar_charts(run)[: max(room - 1, 1)]]
        if total <= 64:
            wanted.append(("lines", "*"))
        elif len(wanted) == 1 and len(run.layouts) <= 1:
            wanted.append(("distance", "*"))
    matrices = [name for name, shape in shapes.items() if len(shape) >= 2 and int(np.prod(shape)) >= 64]
    if 1 <= len(matrices) <= 12 and len(wanted) - 1 < room:
        wanted.append(("histograms", "*"))
    return wanted[: 1 + room]


def _parse(panels: Sequence[str]) -> list[tuple[str, str]]:
    listed = [panels] if isinstance(panels, str) else list(panels)
    out = []
    for panel in listed:
        kind, _, words = str(panel).partition(":")
        if kind == "loss":
            kind, words = "scalars", "loss"
        if kind not in KINDS:
            raise InvalidArgument(
                f'no panel is called {kind!r} ({closest(kind, [*KINDS, "loss"])}); write panels=["weights", "lines:fc1.*", ...]'
            )
        out.append((kind, words))
    if not out:
        raise InvalidArgument("panels is empty, so nothing would be drawn; leave it out for the automatic choice")
    return out


def _globbed(shapes: Mapping[str, tuple[int, ...]], words: str) -> dict[str, tuple[int, ...]]:
    pattern = words or "*"
    kept = {name: shape for name, shape in shapes.items() if fnmatch.fnmatchcase(name, pattern)}
    if not kept:
        raise InvalidArgument(f"no drawn tensor matches {pattern!r} ({closest(pattern, shapes)})")
    return kept


def _curves(make: Callable[..., tuple[str, list[Line]]]) -> Callable[..., Panel]:
    def build(
        run: Run,
        order: Order,
        shapes: Mapping[str, tuple[int, ...]],
        box: Box,
        measure: Measure,
        words: str,
        _: Mapping[str, float],
    ) -> Panel:
        title, lines = make(run, order, _globbed(shapes, words) if make is not charts.scalars else shapes, words)
        steps = np.asarray(run.steps)
        span = (int(steps[order.frames.min()]), int(steps[order.frames.max()]))
        return Curves(box, measure, title, lines, span, log_steps=order.log_steps)

    return build


def _histograms(
    run: Run,
    order: Order,
    shapes: Mapping[str, tuple[int, ...]],
    box: Box,
    measure: Measure,
    words: str,
    known: Mapping[str, float],
) -> Panel:
    kept = _globbed(shapes, words)
    matrices = {name: shape for name, shape in kept.items() if len(shape) >= 2} or kept
    room = max((box[3] - 2 * measure.text) // (measure.text + 4), 1)
    names = list(matrices)[:room]
    looked = list(values_over(run, names, sample(order.looked(run), 24)))
    by_name = {name: known.get(name) or limit(run, name, order.looked(run)) for name in names}
    tallest = {name: max(float(density(v[name], by_name[name]).max()) for v in looked if name in v) for name in names}
    return Ridges(box, measure, by_name, tallest)


def _mass(
    run: Run,
    order: Order,
    shapes: Mapping[str, tuple[int, ...]],
    box: Box,
    measure: Measure,
    words: str,
    _: Mapping[str, float],
) -> Panel:
    kept = _globbed(shapes, words)
    single = len(kept) == 1 and int(np.prod(next(iter(kept.values())))) <= 64
    labels = [f"w{i + 1}" for i in range(int(np.prod(next(iter(kept.values())))))] if single else list(kept)
    most = 0.0
    for values in values_over(run, list(kept), sample(order.looked(run), 64)):
        masses = [
            np.abs(np.nan_to_num(values[name].astype(np.float64), posinf=0, neginf=0))
            for name in kept
            if name in values
        ]
        parts = masses[0].ravel() if single else np.array([m.sum() for m in masses])
        most = max(most, float(parts.max() / parts.sum()) if parts.sum() > 0 else 0.0)
    tones = np.zeros(len(labels), np.int64)
    if single and order.groups:  # in the colours in which the curves of the groups are drawn
        for i, members in enumerate(charts.members_of(run, order.groups, shapes).values()):
            for name in members.keys() & kept.keys():
                tones[members[name]] = i % SERIES_COUNT
    return Mass(box, measure, list(kept), labels, single, most or 1.0, tones=tones.tolist())


def _words(
    run: Run,
    order: Order,
    shapes: Mapping[str, tuple[int, ...]],
    box: Box,
    measure: Measure,
    words: str,
    _: Mapping[str, float],
) -> Panel:
    return Words(box, measure, words)


_BUILD: dict[str, Callable[..., Panel]] = {
    "scalars": _curves(charts.scalars),
    "lines": _curves(charts.lines),
    "groups": _curves(charts.groups),
    "distance": _curves(charts.distance),
    "norms": _curves(charts.norms),
    "histograms": _histograms,
    "mass": _mass,
    "text": _words,
}

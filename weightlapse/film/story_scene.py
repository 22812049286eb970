"""The picture of a story: the map at the left, the layers that change most at the right, time below."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import weightlapse.film.charts as charts
import weightlapse.film.text as glyphs
from weightlapse.film.frames import Values, all_shapes, values_over
from weightlapse.film.grown import Lineage
from weightlapse.film.limits import over_frames
from weightlapse.film.painter import Painter
from weightlapse.film.panels import Header, Legend, Moment, Panel, Weights
from weightlapse.film.placing import place
from weightlapse.film.plates import Measure, Plate, even, plates
from weightlapse.film.scene import THINNED, Order, Scene, frame_boxes, legend_ends
from weightlapse.film.story import Chapter, Story, told
from weightlapse.film.story_map import Map, letter
from weightlapse.film.story_time import Timeline, curve_of
from weightlapse.film.surface import Box
from weightlapse.picture.cells import SIGNED
from weightlapse.picture.numbers import grouped, short
from weightlapse.recording.run import Run

RINGS = 12  # odd values that are pointed out


def enlarged_in(size: tuple[int, int]) -> int:
    """How many layers a picture of this size shows enlarged."""
    return 2 if min(size) < 400 else 3 if max(size) < 1600 else 4


def story_measure(width: int, height: int) -> Measure:
    """Larger letters than where every tensor is drawn: films are watched small."""
    measure = Measure.of(width, height)
    text = max(round(15 * measure.unit), 13)
    return replace(measure, text=text, words=text, label=even(text * 3.1), narrowest=even(text * 12), lines=2)


def tell(run: Run, order: Order, fps: float) -> Story:
    """The story of a film or a still."""
    return told(run, order.names, order.frames, fps=fps, enlarged=enlarged_in(order.size), log_steps=order.log_steps)


def compose_story(run: Run, order: Order, story: Story) -> Scene:
    """The scene of ``story``."""
    width, height = order.size
    measure = story_measure(width, height)
    header, body, footer = frame_boxes(width, height, measure)
    foot = even(measure.text * 6.2)
    gap = even(measure.text * 1.4)
    x, y, wide, high = body
    time: Box = (x, y + high - foot, wide, foot)
    high = even(high - foot - gap / 2)
    if wide >= high:
        left = even(wide * 0.4)
        map_box, enlarged_box = (x, y, left, high), (x + left + gap, y, even(wide - left - gap), high)
    else:
        upper = even(high * 0.45)
        map_box, enlarged_box = (x, y, wide, upper), (x, y + upper + gap, wide, even(high - upper - gap))
    story.chapters = [
        _fitting(run, story, chapter, _room(enlarged_box, measure), measure) for chapter in story.chapters
    ]
    steps = np.asarray(run.steps)
    span = int(steps[order.frames].min()), int(steps[order.frames].max())
    names = list(dict.fromkeys(name for c in story.chapters for main, _ in c.leaders for name in _names(story, main)))
    if story.limits is None and order.scale != "step":
        story.limits = over_frames(run, names, order.looked(run))
    limits = story.limits
    if limits and order.scale == "global":
        limits = dict.fromkeys(limits, max(limits.values()))
    enlarged = Enlarged(enlarged_box, measure, story, run, limits)
    count = sum(int(np.prod(shape)) for shape in all_shapes(run, order.shown).values())
    title = order.title or run.name
    subtitle = " · ".join(filter(None, [f"{len(order.names)} tensors · {grouped(count)} weights", order.note]))
    curve = curve_of(_first_chart(run, order), story)
    panels: list[Panel] = [
        Header(header, measure, title, subtitle, span[1], line=False),
        Map(map_box, measure, story),
        enlarged,
        Timeline(time, measure, story, span, curve),
    ]
    if footer[3]:
        said = "scale: see each label" if order.scale != "global" else "one colour scale for all"
        panels.append(
            Legend(
                footer, measure, legend_ends(order.scale, limits or {}), said + (THINNED if enlarged.thinned else "")
            )
        )
    return Scene(panels, lambda frames: _values(run, story, frames))


def _first_chart(run: Run, order: Order) -> list[Any]:
    known = charts.scalar_charts(run)
    return charts.scalars(run, order, {}, known[0])[1][:1] if known else []


def _names(story: Story, main: str) -> tuple[str, ...]:
    plate = story.plate_of(main)
    return plate.names if plate else (main,)


def _values(run: Run, story: Story, frames: NDArray[np.int64]) -> Iterator[dict[str, Values]]:
    """The values of the layers that are enlarged at each frame, chapter by chapter."""
    where = [story.chapter_at(int(frame)).start for frame in frames]
    for part in np.split(np.arange(len(frames)), np.flatnonzero(np.diff(where)) + 1):
        leaders = story.chapter_at(int(frames[part[0]])).leaders
        yield from values_over(run, [name for main, _ in leaders for name in _names(story, main)], frames[part])


def _room(box: Box, measure: Measure) -> Box:
    """What is left of ``box`` below its heading."""
    x, y, wide, high = box
    head = even(measure.text * 1.8)
    return x, y + head, wide, even(high - head)


def _items(run: Run, story: Story, chapter: Chapter) -> list[Plate]:
    """The layers that a chapter enlarges, with their letters and what is said of them."""
    shapes = all_shapes(run, np.arange(chapter.frames[0], chapter.frames[1] + 1))
    wanted = {n: shapes[n] for main, _ in chapter.leaders for n in _names(story, main) if n in shapes}
    found = {plate.main: plate for plate in plates(wanted, run.wiring)}
    said: dict[str, tuple[str, ...]] = {
        name: (f"{short(100 * rate, 2)} % a step",) for name, rate in chapter.leaders if rate > 0
    }
    for caption in story.captions:
        plate = story.plate_of(caption.tensor) if caption.kind == "nonfinite" else None
        if plate and chapter.start <= caption.picture < chapter.stop:
            said[plate.main] = (f"NaN or Inf from step {grouped(caption.step)}", "NaN or Inf", "NaN")
    return [
        replace(found[main], badge=letter(i), said=said.get(main, ()))
        for i, (main, _) in enumerate(chapter.leaders)
        if main in found
    ]


def _fitting(run: Run, story: Story, chapter: Chapter, room: Box, measure: Measure) -> Chapter:
    """The chapter with as many layers as can be seen as finely as the first of them alone."""
    items = _items(run, story, chapter)

    def coarse(count: int) -> int:
        placed, missing = place(items[:count], room[2], room[3], measure, middle=False)
        return 1 << 30 if missing else max(max(p.tiles[0].thinned) for p in placed)

    alone = coarse(1)
    count = next((n for n in range(len(items), 1, -1) if coarse(n) <= alone), 1)
    return replace(chapter, leaders=chapter.leaders[:count])


@dataclass
class Enlarged:
    """The heat maps of the layers that change most, laid out anew for every chapter."""

    box: Box
    measure: Measure
    story: Story
    run: Run
    limits: Mapping[str, float] | None
    panels: dict[int, Weights] = field(init=False, default_factory=dict)
    chapter: Chapter | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.lineage = Lineage(self.run) if len(self.run.layouts) > 1 else None
        for chapter in self.story.chapters:
            self.panels[chapter.start] = self._panel(chapter)

    @property
    def thinned(self) -> bool:
        """Whether in any chapter a cell stands for more than one weight."""
        return any(panel.thinned for panel in self.panels.values())

    def _panel(self, chapter: Chapter) -> Weights:
        items = _items(self.run, self.story, chapter)
        x, y, wide, high = room = _room(self.box, self.measure)
        placed, missing = place(items, wide, high, self.measure, middle=False)
        return Weights(
            [(0, [p.moved(p.x + x, p.y + y) for p in placed])],
            self.measure,
            self.limits,
            missing,
            room,
            lineage=self.lineage,
        )

    def static(self, painter: Painter) -> None:
        """Nothing is drawn: the first moment of each chapter wipes the box and draws its heading."""
        self.chapter = None

    def draw(self, painter: Painter, moment: Moment) -> None:
        """The heat maps of the chapter that holds the moment; where it is another than the last, the box is wiped and laid out anew."""
        chapter = self.story.chapter_at(moment.frame)
        panel = self.panels[chapter.start]
        if chapter is not self.chapter:
            x, y, wide, high = self.box
            painter.fill(x - 8, y, wide + 16, high + 2, "ground")
            px, small = self.measure.text, max(self.measure.text - 2, 10)
            used = painter.text(x, y + px, "changing most", px, bold=True)
            said = f"in steps {grouped(chapter.steps[0])} to {grouped(chapter.steps[1])}"
            painter.text(x + used + px // 2, y + px, glyphs.fit(said, small, wide - used - px), small, tone="muted")
            self.chapter = chapter
            panel.stage = -1
            panel.labels.clear()
            panel.framed.clear()
            panel.static(painter)
        panel.draw(painter, moment)
        self._point_out(painter, panel, moment)

    def _point_out(self, painter: Painter, panel: Weights, moment: Moment) -> None:
        """Rings around the first few values that are no numbers, where their cells are too small to be found."""
        for tile in panel.framed.values():
            value = moment.values.get(tile.name)
            if value is None or min(tile.cell) >= 3 * SIGNED or np.isfinite(value).all():
                continue
            odd = np.argwhere(~np.isfinite(np.asarray(value)))
            if len(odd) > RINGS:
                continue
            for index in odd:
                row, column = tile.arrangement.cell([int(i) for i in index])
                row, column = row // tile.thinned[0], column // tile.thinned[1]
                painter.ring(tile, row, column, max(even(self.measure.text), 12))

"""The parts of a picture. A panel draws what never changes once, then what belongs to each moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

import weightlapse.film.text as glyphs
from weightlapse.film.frames import Values
from weightlapse.film.grown import Lineage
from weightlapse.film.painter import Painter
from weightlapse.film.plates import Measure, Placed
from weightlapse.film.sizing import SPACE, tick_size, ticks
from weightlapse.film.surface import Box
from weightlapse.film.tiles import Tile
from weightlapse.picture.arrangement import Arrangement
from weightlapse.picture.compose import alike
from weightlapse.picture.limits import limit_of
from weightlapse.picture.numbers import grouped, short
from weightlapse.picture.words import describe

_NUMBERED = 64  # tensors up to this size show their values in the cells where there is room


@dataclass(frozen=True)
class Moment:
    """What is known when a picture is drawn."""

    frame: int
    step: int
    progress: float  # 0 at the film's first picture, 1 at its last
    values: Mapping[str, Values]
    event: str = ""
    index: int = 0  # of the picture in the film
    linger: int = 1  # pictures for which words stay


class Panel(Protocol):
    """A part of the picture."""

    def static(self, painter: Painter) -> None:
        """Draw what is the same in every picture."""

    def draw(self, painter: Painter, moment: Moment) -> None:
        """Draw over the last picture what belongs to this moment."""


@dataclass
class Weights:
    """Heat maps: one tile per tensor, with frames, names and limits.

    ``stages``: (first frame, places); where layers vanish in mid-run the picture is laid out anew. ``limits`` None: every step has
    its own.
    """

    stages: Sequence[tuple[int, Sequence[Placed]]]
    measure: Measure
    limits: Mapping[str, float] | None
    missing: int = 0
    box: Box = (0, 0, 0, 0)
    heading: str = ""
    lineage: Lineage | None = None
    stage: int = -1
    labels: dict[str, str] = field(default_factory=dict)  # what stands above each plate
    framed: dict[str, Tile] = field(default_factory=dict)  # each tile as it was last drawn
    smaller: dict[tuple[str, tuple[int, ...]], Arrangement] = field(
        default_factory=dict
    )  # of tensors that have yet to grow

    def static(self, painter: Painter) -> None:
        """The heading, and how many tensors do not fit; all else can change when a layer comes or goes."""
        x, y, _, high = self.box
        if self.heading:
            px = round(self.measure.text * 1.12)
            painter.text(x, y - round(px * 0.75), glyphs.fit(self.heading, px, self.box[2], bold=True), px, bold=True)
        if self.missing:
            note = f"{self.missing} more do not fit"
            painter.text(x, y + high - 2, note, self.measure.text, tone="muted")

    def draw(self, painter: Painter, moment: Moment) -> None:
        """Every tile with its present values; where another stage begins the box is wiped first."""
        stage = max(i for i, (start, _) in enumerate(self.stages) if i == 0 or moment.frame >= start)
        if stage != self.stage:
            if self.stage >= 0:
                x, y, wide, high = self.box
                painter.fill(x - 8, y - 2, wide + 16, high + 4, "ground")
            self.stage = stage
            self.labels.clear()
            self.framed.clear()
        for plate in self.stages[stage][1]:
            self._plate(painter, plate, moment)

    def _plate(self, painter: Painter, plate: Placed, moment: Moment) -> None:
        relabel = self.limits is None
        shown: dict[str, float] = {}
        main = plate.tiles[0]
        there = moment.values.get(main.name)
        now = main if there is None else self._shaped(main, plate, there.shape)
        short_of = main.width - now.width, main.height - now.height  # a network that has yet to grow
        for tile in plate.tiles:
            value = moment.values.get(tile.name)
            if value is None:
                continue
            shaped = self._shaped(tile, plate, value.shape)
            if tile is not main:  # what stands beside or below keeps its distance
                beside = tile.name in plate.plate.beside
                shaped = shaped.at(tile.x - (short_of[0] if beside else 0), tile.y - (0 if beside else short_of[1]))
            limit = limit_of(value) if self.limits is None else self.limits[tile.name]
            shown[tile.name] = limit
            if self.framed.get(tile.name) != shaped:
                relabel = True
                self._frame(painter, shaped, moment.frame)
                if tile is main:
                    self._ticks(painter, plate, shaped)
            shaped = self.framed[tile.name]  # the one whose pixel maps are known
            if self.lineage is not None:
                value = self.lineage.arranged(tile.name, value, moment.frame)
            codes = shaped.codes(value, limit)
            painter.tile(shaped, codes)
            if shaped.thinned == (1, 1) and value.size <= _NUMBERED:
                painter.numbers(shaped, codes, value, self.measure.text)
        if relabel and plate.label and shown:
            self._label(painter, plate, shown)

    def _frame(self, painter: Painter, tile: Tile, frame: int) -> None:
        """The frame of a tile that is new or has grown; new units get a mark at their left."""
        old = self.framed.get(tile.name)
        if old is not None:
            painter.fill(old.x - 8, old.y - 1, old.width + 10, old.height + 2, "ground")
        self.framed[tile.name] = tile
        painter.outline(tile.x, tile.y, tile.width, tile.height)
        new = None if self.lineage is None else self.lineage.new_rows(tile.name, frame)
        if new is None or tile.upright or len(tile.arrangement.shape) < 2 or tile.arrangement.wrapped:
            return
        rows = np.flatnonzero(new.repeat(tile.arrangement.rows // len(new)))
        thick = max(round(3 * self.measure.unit), 2)
        for row in np.unique(rows // tile.thinned[0]):
            painter.fill(tile.x - thick - 2, tile.y + int(row) * tile.cell[1], thick, tile.cell[1], 1)

    def _ticks(self, painter: Painter, plate: Placed, tile: Tile) -> None:
        """Numbers of filters, names of gates and the like, along the left side."""
        px = tick_size(self.measure)
        for tick in ticks(plate.plate, tile, self.measure):
            middle = tile.y + (tick.first + tick.cells / 2) * tile.cell[1] / tile.thinned[0]
            painter.text(tile.x - SPACE, round(middle + px * 0.36), tick.text, px, tone="muted", anchor="right")

    def _shaped(self, tile: Tile, plate: Placed, shape: tuple[int, ...]) -> Tile:
        """The same place and cells for a tensor of another shape (before it grew)."""
        if shape == tile.arrangement.shape:
            return tile
        if (tile.name, shape) not in self.smaller:
            smaller = alike(tile.arrangement, shape)
            self.smaller[tile.name, shape] = smaller
        return replace(tile, arrangement=self.smaller[tile.name, shape])

    def _label(self, painter: Painter, plate: Placed, limits: Mapping[str, float]) -> None:
        """Name in ink, then shape, thinning and limit in grey, as much of it as there is room for."""
        px = plate.words
        small = max(px - 2, 9)
        bold = px >= self.measure.text
        wide = plate.width + (0 if bold else 2)
        tile = self.framed[plate.plate.main]
        known = [name for name in plate.plate.names if name in limits]
        shape = tile.arrangement.shape
        choices = (
            list(plate.plate.said),
            [describe(shape, plate.plate.kind), "×".join(map(str, shape)) or "scalar"],
            [f"1 of {tile.thinned[0]}×{tile.thinned[1]}, spikes kept", f"1 of {tile.thinned[0]}×{tile.thinned[1]}"]
            if tile.thinned != (1, 1)
            else [],
            [" | ".join("±" + short(limits[name], 2) for name in known), "±" + short(limits[known[0]], 2)],
        )
        two = self.measure.lines > 1 and plate.label > 0
        badge = glyphs.width(plate.plate.badge, px, bold=True) + px // 2 if plate.plate.badge else 0
        name = title(plate.plate.title, px, wide - badge, bold)
        room = wide - (0 if two else badge + glyphs.width(name, px, bold=bold))
        words: list[str] = []
        for choice in choices:
            fitting = next((word for word in choice if glyphs.width(word, small) + px * 2 // 3 <= room), "")
            if fitting:
                words.append(fitting)
                room -= glyphs.width(fitting, small) + px * 2 // 3
        line = "\0".join([name, *words])
        key = plate.plate.title
        if self.labels.get(key) == line:
            return
        if key in self.labels:
            painter.fill(plate.x, plate.y, wide, plate.label - 2, "ground")
        self.labels[key] = line
        baseline = plate.y + plate.label - max(px // 2, 5)
        first = baseline - round(small * 1.5) if two else baseline
        x = plate.x
        if badge:
            painter.text(x, first, plate.plate.badge, px, bold=True, tone=1)
            x += badge
        x += painter.text(x, first, name, px, bold=bold)
        x = plate.x if two else x + px * 2 // 3
        for word in words:
            x += painter.text(x, baseline, word, small, tone="muted") + px * 2 // 3

    @property
    def thinned(self) -> bool:
        """Whether any cell stands for more than one weight."""
        return any(tile.thinned != (1, 1) for _, placed in self.stages for plate in placed for tile in plate.tiles)


def title(name: str, px: int, room: int, bold: bool) -> str:
    """The longest of a tensor's names that fits: ``layers.0.attn.proj.weight``, its module, ``0.proj``, or the end of that."""
    parts = name.replace("/", ".").split(".")
    module = parts[:-1] if len(parts) > 1 and parts[-1] in ("weight", "kernel") else parts
    layer = next((part for part in reversed(module[:-1]) if part.isdigit()), "")
    short_name = ".".join(filter(None, [layer, module[-1].removesuffix("_weight")]))
    for candidate in (name, ".".join(module), short_name):
        if glyphs.width(candidate, px, bold) <= room:
            return candidate
    for start in range(1, len(short_name) - 1):
        if glyphs.width(glyphs.ELLIPSIS + short_name[start:], px, bold) <= room:
            return glyphs.ELLIPSIS + short_name[start:]
    return ""


@dataclass
class Header:
    """Title, what is shown, the step counter, and a line that fills as the film runs, with ticks where events happened."""

    box: Box
    measure: Measure
    title: str
    subtitle: str
    last_step: int
    ticks: Sequence[float] = ()
    done: int = 0
    said: str = ""
    line: bool = True  # whether a line below fills as the film runs, and events are said here

    @property
    def _large(self) -> int:
        return round(self.measure.text * 1.85)

    def static(self, painter: Painter) -> None:
        """Title, subtitle, and the empty line with the ticks of the events."""
        x, y, wide, high = self.box
        room = wide - glyphs.width(grouped(self.last_step), self._large, bold=True) - self.measure.text * 6
        title_px = round(self.measure.text * 1.45)
        painter.text(x, y + title_px, glyphs.fit(self.title, title_px, room, bold=True), title_px, bold=True)
        painter.text(
            x,
            y + title_px + round(self.measure.text * 1.7),
            glyphs.fit(self.subtitle, self.measure.text, room),
            self.measure.text,
            tone="muted",
        )
        if not self.line:
            return
        painter.fill(x, y + high - self._line, wide, self._line, "line")
        for tick in self.ticks:
            painter.fill(x + round(tick * (wide - 2)), y + high - 3 * self._line, 2, 3 * self._line, 1)

    @property
    def _line(self) -> int:
        return max(round(3 * self.measure.unit), 2)

    def draw(self, painter: Painter, moment: Moment) -> None:
        """The step counter, the words of an event, and as much more of the line as has passed; a moment further back wipes the line."""
        x, y, wide, high = self.box
        digits = grouped(moment.step)
        px = self._large
        space = glyphs.width(grouped(self.last_step), px, bold=True)
        top = y
        baseline = y + px
        painter.fill(x + wide - space - 2, top, space + 2, glyphs.line(px)[0] + glyphs.line(px)[1], "ground")
        painter.text(x + wide, baseline, digits, px, bold=True, anchor="right")
        self._say(painter, moment)
        until = round(moment.progress * wide) if self.line else 0
        if until < self.done:
            painter.fill(x, y + high - self._line, wide, self._line, "line")
            self.done = 0
        if until > self.done:
            painter.fill(x + self.done, y + high - self._line, until - self.done, self._line, 0)
            self.done = until

    def _say(self, painter: Painter, moment: Moment) -> None:
        """The word under the counter: "step", or what has just happened."""
        word = (moment.event if self.line else "") or "step"
        if word == self.said:
            return
        x, y, wide, _ = self.box
        px = self.measure.text
        baseline = y + self._large + round(px * 1.45)
        if self.said:
            old = glyphs.width(self.said, px) + 4
            painter.fill(x + wide - old, baseline - px, old, px + px // 3, "ground")
        shown = glyphs.fit(word, px, wide // 2)
        painter.text(x + wide, baseline, shown, px, tone="muted" if word == "step" else 1, anchor="right")
        self.said = shown


@dataclass
class Legend:
    """The colour scale and the marks, in one quiet line at the foot."""

    box: Box
    measure: Measure
    ends: tuple[str, str, str]  # words below the low end, zero, the high end
    note: str

    def static(self, painter: Painter) -> None:
        """Colours, marks and note, from left to right, as far as there is room."""
        from weightlapse.film.colours import HIGH, LOW, MINUS_INF, NAN, OVER, PLUS_INF, UNDER

        x, y, wide, high = self.box
        px = max(self.measure.text - 2, 9)
        baseline = y + high // 2 + px // 3
        bar, thick = round(150 * max(self.measure.unit, 0.6)), max(round(10 * self.measure.unit), 6)
        x += painter.text(x, baseline, self.ends[0], px, tone="muted") + px // 2
        ramp = np.rint(np.linspace(LOW, HIGH, bar)).astype(np.uint16)
        painter.paint(x, y + (high - thick) // 2, np.repeat(ramp[None, :], thick, axis=0))
        x += bar + px // 2
        x += painter.text(x, baseline, self.ends[2], px, tone="muted") + px * 2
        side = max(round(12 * self.measure.unit), 8)
        for codes, word in (((OVER, UNDER), "beyond scale"), ((NAN,), "NaN"), ((PLUS_INF, MINUS_INF), "±∞")):
            needed = len(codes) * (side + 2) + px // 2 + glyphs.width(word, px)
            if x + needed > self.box[0] + wide - glyphs.width(self.note, px) - px:
                break
            for code in codes:
                painter.signed(x, y + (high - side) // 2, code, side, side)
                x += side + 2
            x += px // 3
            x += painter.text(x, baseline, word, px, tone="muted") + px + px // 2
        room = self.box[0] + wide - x
        painter.text(self.box[0] + wide, baseline, glyphs.fit(self.note, px, room), px, tone="muted", anchor="right")

    def draw(self, painter: Painter, moment: Moment) -> None:
        """Nothing here changes."""

"""The map of a network in a film: its layers in order, as wide as they have weights, coloured by how much they change now."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

import weightlapse.film.text as glyphs
from weightlapse.film.blocks import Block, Measure, even
from weightlapse.film.colours import NAN, SERIES_LEVELS, series
from weightlapse.film.painter import Painter, ramp
from weightlapse.film.panels import Moment
from weightlapse.film.story import Story
from weightlapse.film.surface import Box
from weightlapse.picture.numbers import short

TONE = 1  # the series colour of change
MISSING = "line"  # a layer that does not move


@dataclass(frozen=True)
class Cell:
    """One layer on the map."""

    block: Block
    box: Box


@dataclass
class Map:
    """Rows of layers with their names; those that are enlarged beside it are framed and bear a letter at the end of their row."""

    box: Box
    measure: Measure
    story: Story
    cells: list[Cell] = field(init=False)
    ends: dict[int, int] = field(init=False)  # row -> where its letters begin
    shown: tuple[int, tuple[str, ...], int] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._place()
        rates = [self.story.changes.rate(cell.block.names) for cell in self.cells]
        seen = np.concatenate(rates) if rates else np.zeros(1)
        seen = seen[np.isfinite(seen) & (seen > 0)]
        self.high = float(np.quantile(seen, 0.98)) if len(seen) else 1e-2
        self.low = max(float(np.quantile(seen, 0.05)) if len(seen) else 1e-4, self.high * 1e-4, 1e-12)
        if self.high < 3 * self.low:
            self.low = self.high / 3

    @property
    def _head(self) -> int:
        return even(self.measure.text * 3.2)

    @property
    def _small(self) -> int:
        return max(self.measure.text - 2, 10)

    def _place(self) -> None:
        """Rows from the top, in as many columns as keep a row high enough for its name."""
        x, y, wide, high = self.box
        y, high = y + self._head, high - self._head
        rows = self.story.rows
        least = even(self._small * 1.25)
        columns = min(max(math.ceil(len(rows) * least / max(high, 1)), 1), 3)
        per = math.ceil(len(rows) / columns)
        self.pitch = max(min(even(high / per), even(self.measure.text * 2.2)), 4)
        self.each = even((wide - (columns - 1) * self.measure.text) / columns)
        names = max((glyphs.width(title, self._small) for title, _ in rows), default=0)
        self.names = even(min(names + self.measure.text // 2, self.each * 0.36))
        gap = 2
        room = max(self.each - self.names - 4 * self._small, 12)
        lengths = [[math.sqrt(sum(math.prod(b.shapes[n]) for n in b.names)) for b in part] for _, part in rows]
        scale = min((room - gap * len(r)) / sum(r) for r in lengths) if lengths else 1.0
        least_wide = 4
        while scale > 1e-9 and max(self._row_width(r, scale, least_wide, gap) for r in lengths) > room:
            if least_wide * max(map(len, lengths)) > room // 2 and least_wide > 2:
                least_wide = 2
                continue
            scale *= 0.9
        self.cells, self.ends, self.titles = [], {}, []
        for i, ((title, part), row) in enumerate(zip(rows, lengths)):
            left = x + (i // per) * (self.each + self.measure.text) // 2 * 2
            top = y + (i % per) * self.pitch
            self.titles.append((left, top, title))
            pen = left + self.names
            for block, length in zip(part, row):
                broad = max(even(length * scale), least_wide)
                self.cells.append(Cell(block, (pen, top, broad, max(self.pitch - (4 if self.pitch >= 12 else 2), 2))))
                pen += broad + gap
            self.ends[i] = pen
        self.row_of = {
            id(cell.block): i for i, (_, part) in enumerate(rows) for cell in self.cells if cell.block in part
        }

    @staticmethod
    def _row_width(row: Sequence[float], scale: float, least: int, gap: int) -> int:
        return sum(max(even(length * scale), least) + gap for length in row)

    def static(self, painter: Painter) -> None:
        x, y, wide, _ = self.box
        px, small = self.measure.text, self._small
        used = painter.text(x, y + px, "the network", px, bold=True)
        told = "one row per block, width √weights"
        if glyphs.width(told, small) + used + px < wide:
            painter.text(x + used + px // 2, y + px, told, small, tone="muted")
        base = y + px + round(small * 1.6)
        x += painter.text(x, base, "change per step", small, tone="muted") + small // 2
        x += painter.text(x, base, _percent(self.low), small, tone="muted") + small // 3
        bar = even(small * 6)
        levels = series(TONE) + (np.arange(bar) * SERIES_LEVELS // bar)
        painter.paint(
            x // 2 * 2, base - small + 2, np.repeat(levels[None, :].astype(np.uint16), even(small - 2), axis=0)
        )
        x += bar + small // 3
        painter.text(x, base, _percent(self.high), small, tone="muted")
        step = max(math.ceil(self._small * 1.15 / self.pitch), 1)
        for i, (left, top, title) in enumerate(self.titles):
            if i % step == 0:
                name = glyphs.fit(title, small, self.names - 4)
                painter.text(
                    left + self.names - 6,
                    top + (self.pitch + small) // 2 - 2,
                    name,
                    small,
                    tone="muted",
                    anchor="right",
                )
        self.shown = None

    def draw(self, painter: Painter, moment: Moment) -> None:
        at = self.story.changes.at(moment.frame)
        leaders = tuple(name for name, _ in self.story.chapter_at(moment.frame).leaders)
        broken = sum(moment.frame >= frame for frame in self.story.changes.broken.values())
        if self.shown == (at, leaders, broken):
            return
        for cell in self.cells:
            x, y, wide, high = cell.box
            painter.paint(x, y, np.full((high, wide), self._code(cell.block, at, moment.frame), np.uint16))
        if self.shown is None or self.shown[1] != leaders:
            self._letters(painter, leaders)
        self.shown = (at, leaders, broken)

    def _letters(self, painter: Painter, leaders: Sequence[str]) -> None:
        """Frames of the layers that are enlarged no longer go, those of the new ones come, with their letters."""
        px = self._small
        for cell in self.cells:  # first all frames away, then the new ones: neighbours share the ground between them
            self._frame(painter, cell.box, "ground")
        words: dict[int, str] = {}
        for cell in self.cells:
            if cell.block.main in leaders:
                self._frame(painter, cell.box, "ink")
                row = self.row_of[id(cell.block)]
                words[row] = words.get(row, "") + letter(leaders.index(cell.block.main))
        for row, end in self.ends.items():
            _, top, _ = self.titles[row]
            painter.fill(end, top - 2, px * 4, self.pitch, "ground")
            if row in words:
                painter.text(end + px // 3, top + (self.pitch + px) // 2 - 2, words[row], px, bold=True)

    @staticmethod
    def _frame(painter: Painter, box: Box, tone: str) -> None:
        x, y, wide, high = box
        for part in (
            (x - 2, y - 2, wide + 4, 2),
            (x - 2, y + high, wide + 4, 2),
            (x - 2, y, 2, high),
            (x + wide, y, 2, high),
        ):
            painter.fill(*part, tone)

    def _code(self, block: Block, at: int, frame: int) -> int:
        if any(frame >= self.story.changes.broken.get(name, 1 << 60) for name in block.names):
            return NAN
        rate = float(self.story.changes.rate(block.names)[at])
        if not rate > 0:
            return int(ramp(MISSING)[255])
        share = math.log(rate / self.low) / math.log(self.high / self.low)
        return series(TONE) + int(np.clip(share * SERIES_LEVELS, 0, SERIES_LEVELS - 1))


def letter(index: int) -> str:
    """A, B, C ..."""
    return chr(ord("A") + index)


def _percent(rate: float) -> str:
    return short(100 * rate, 1 if rate < 0.1 else 2) + " %"

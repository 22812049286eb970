"""The map of a network in a film: its layers in order, as wide as they have weights, coloured by how much they change now."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

import weightlapse.film.text as glyphs
from weightlapse.film.colours import NAN, SERIES_LEVELS, series
from weightlapse.film.painter import Painter, ramp
from weightlapse.film.panels import Moment
from weightlapse.film.plates import Measure, Plate, even
from weightlapse.film.story import Story
from weightlapse.film.surface import Box
from weightlapse.picture.numbers import short

TONE = 1  # the series colour of change
MISSING = "line"  # a layer that does not move
LEAST, GAP, COLUMNS = 4, 2, 3  # pixels of a cell and between cells at least; columns of rows at most


@dataclass(frozen=True)
class Cell:
    """One layer on the map, or several that share too little room."""

    plates: tuple[Plate, ...]
    box: Box

    @property
    def names(self) -> list[str]:
        """All tensors of its layers, the vectors included."""
        return [name for plate in self.plates for name in plate.names]

    def holds(self, names: Sequence[str]) -> bool:
        """Whether any of its layers is among these, named by their main tensors."""
        return any(plate.main in names for plate in self.plates)


@dataclass
class Map:
    """Rows of layers with their names; those that are enlarged beside it are framed and bear a letter at the end of their row."""

    box: Box
    measure: Measure
    story: Story
    cells: list[Cell] = field(init=False)
    ends: dict[int, int] = field(init=False)  # row -> where its letters begin
    row_of: dict[int, int] = field(init=False)  # cell -> row
    shown: tuple[int, tuple[str, ...], int] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._place()
        rates = [self.story.changes.rate(cell.names) for cell in self.cells]
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

    @property
    def _tiny(self) -> int:
        return max(self.measure.text - 4, 9)

    @property
    def _heading(self) -> int:
        """Height of a line with the names of the layers in the rows below it."""
        return even(self._tiny * 1.7)

    def _place(self) -> None:
        """Rows from the top, in as many columns as keep a row high enough for its name; neighbours share what has too little room."""
        x, y, wide, high = self.box
        y, high = y + self._head, high - self._head
        rows = _joined(self.story.rows, math.ceil(len(self.story.rows) * LEAST / (COLUMNS * max(high, LEAST))))
        columns = min(max(math.ceil(len(rows) * even(self._small * 1.25) / max(high, 1)), 1), COLUMNS)
        per = math.ceil(len(rows) / columns)
        self.each = even((wide - (columns - 1) * self.measure.text) / columns)
        broadest = max((glyphs.width(title, self._small) for title, _ in rows), default=0)
        self.names = even(min(broadest + self.measure.text // 2, self.each * 0.36))
        room = max(self.each - self.names - 4 * self._small, 3 * LEAST)
        parts = [_shared(part, room // (LEAST + GAP)) for _, part in rows]
        layers = [tuple(_layer(some[0]) if len(some) == 1 else "" for some in part) for part in parts]
        changes = [i for i, names in enumerate(layers) if len(names) > 1 and (i == 0 or names != layers[i - 1])]
        heads = changes if columns == 1 and len(changes) * self._heading <= high // 5 else []
        self.pitch = max(min(even((high - len(heads) * self._heading) / per), even(self.measure.text * 2.2)), LEAST)
        lengths = [[math.sqrt(sum(_weights(plate) for plate in some)) for some in part] for part in parts]
        scale = min(((room - GAP * len(row)) / sum(row) for row in lengths if sum(row)), default=1.0)
        while scale > 1e-9 and max(self._row_width(row, scale) for row in lengths) > room:
            scale *= 0.9
        self.cells, self.ends, self.titles, self.headings = [], {}, [], []
        self.row_of = {}
        top = y
        for i, ((title, _), part, row) in enumerate(zip(rows, parts, lengths)):
            left = x + (i // per) * (self.each + self.measure.text) // 2 * 2
            top = y if i % per == 0 else top
            top += self._heading if i in heads else 0
            self.titles.append((left, top, title))
            pen = left + self.names
            for some, length, name in zip(part, row, layers[i]):
                broad = max(even(length * scale), LEAST)
                self.row_of[len(self.cells)] = i
                self.cells.append(Cell(some, (pen, top, broad, max(self.pitch - (4 if self.pitch >= 12 else 2), 2))))
                if i in heads and glyphs.width(name, self._tiny) <= broad:
                    self.headings.append((pen, top - round(self._tiny * 0.45), name))
                pen += broad + GAP
            self.ends[i] = pen
            top += self.pitch

    @staticmethod
    def _row_width(row: Sequence[float], scale: float) -> int:
        return sum(max(even(length * scale), LEAST) + GAP for length in row)

    def static(self, painter: Painter) -> None:
        """Heading, the scale of change, and as many names of rows as do not touch."""
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
        for left, base, name in self.headings:
            painter.text(left, base, name, self._tiny, tone="muted")
        self.shown = None

    def draw(self, painter: Painter, moment: Moment) -> None:
        """Cells in the colour of their change, and the letters of those enlarged; nothing where neither has changed since the last moment."""
        at = self.story.changes.at(moment.frame)
        leaders = tuple(name for name, _ in self.story.chapter_at(moment.frame).leaders)
        broken = sum(moment.frame >= frame for frame in self.story.changes.broken.values())
        if self.shown == (at, leaders, broken):
            return
        for cell in self.cells:
            x, y, wide, high = cell.box
            painter.paint(x, y, np.full((high, wide), self._code(cell.names, at, moment.frame), np.uint16))
        if self.shown is None or self.shown[1] != leaders:
            self._letters(painter, leaders)
        self.shown = (at, leaders, broken)

    def _letters(self, painter: Painter, leaders: Sequence[str]) -> None:
        """Frames of the layers that are enlarged no longer go, those of the new ones come, with their letters."""
        px = self._small
        for cell in self.cells:  # first all frames away, then the new ones: neighbours share the ground between them
            self._frame(painter, cell.box, "ground")
        words: dict[int, str] = {}
        for i, cell in enumerate(self.cells):
            if cell.holds(leaders):
                self._frame(painter, cell.box, "ink")
                row = self.row_of[i]
                words[row] = words.get(row, "") + "".join(
                    letter(leaders.index(b.main)) for b in cell.plates if b.main in leaders
                )
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

    def _code(self, names: Sequence[str], at: int, frame: int) -> int:
        if any(frame >= self.story.changes.broken.get(name, 1 << 60) for name in names):
            return NAN
        rate = float(self.story.changes.rate(names)[at])
        if not rate > 0:
            return int(ramp(MISSING)[255])
        share = math.log(rate / self.low) / math.log(self.high / self.low)
        return series(TONE) + int(np.clip(share * SERIES_LEVELS, 0, SERIES_LEVELS - 1))


def _weights(plate: Plate) -> int:
    return sum(math.prod(plate.shapes[name]) for name in plate.names)


def _joined(rows: Sequence[tuple[str, list[Plate]]], together: int) -> list[tuple[str, list[Plate]]]:
    """``together`` neighbouring rows as one."""
    if together <= 1:
        return list(rows)
    out = []
    for i in range(0, len(rows), together):
        some = rows[i : i + together]
        title = some[0][0] if len(some) == 1 else f"{some[0][0]} – {some[-1][0]}"
        out.append((title, [plate for _, part in some for plate in part]))
    return out


def _shared(part: Sequence[Plate], most: int) -> list[tuple[Plate, ...]]:
    """The layers of a row in at most ``most`` cells, neighbours together."""
    each = math.ceil(len(part) / max(most, 1))
    return [tuple(part[i : i + each]) for i in range(0, len(part), each)]


def _layer(plate: Plate) -> str:
    """The name of a layer inside its row: "in_proj", "ln_1"."""
    pieces = [piece for piece in re.split(r"[./]", plate.main) if piece not in ("weight", "kernel", "bias")]
    last = re.sub(r"_?(weight|kernel|bias)$", "", pieces[-1]) if pieces else ""
    return last or (pieces[-2] if len(pieces) > 1 else plate.main)


def letter(index: int) -> str:
    """A, B, C ..."""
    return chr(ord("A") + index)


def _percent(rate: float) -> str:
    return short(100 * rate, 1 if rate < 0.1 else 2) + " %"

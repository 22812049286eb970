"""Curves that grow as the film runs: loss, distances, single weights, averages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import weightlapse.film.text as glyphs
from weightlapse.film.colours import GROUND, Codes
from weightlapse.film.painter import Painter, Tone, dot, ramp, stroke
from weightlapse.film.panels import Moment
from weightlapse.film.plates import Measure
from weightlapse.film.surface import Box
from weightlapse.picture.numbers import grouped, linear_ticks, log_ticks, short, spans_decades


@dataclass(frozen=True)
class Line:
    """One curve: float64 values at int64 steps; NaN leaves a gap."""

    label: str
    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    tone: Tone = 0


@dataclass
class Curves:
    """A chart of ``lines`` against the step; what lies after the moment is not drawn yet."""

    box: Box
    measure: Measure
    title: str
    lines: Sequence[Line]
    span: tuple[int, int]  # first and last step of the film
    log: bool | None = None  # None: where it helps
    log_steps: bool = False
    plot: Box = field(init=False)
    revealed: int = field(init=False, default=0)
    dots: list[tuple[int, int]] = field(init=False, default_factory=list)
    said: str = field(init=False, default="")

    def __post_init__(self) -> None:
        values = np.concatenate([line.values for line in self.lines]) if self.lines else np.zeros(1)
        finite = values[np.isfinite(values)]
        self.log = spans_decades(finite) if self.log is None else self.log and bool((finite > 0).all())
        self.low, self.high = _limits(finite, bool(self.log))
        self.first, self.last = self.span[0], max(self.span[1], self.span[0] + 1)
        px = self._px
        x, y, wide, high = self.box
        names = max((glyphs.width(self._tick_word(t), px) for t in self._ticks()), default=0)
        left = min(names + px * 2 // 3, wide // 3)
        top, bottom = round(self.measure.text * 1.9), round(px * 1.7)
        self.plot = (x + left, y + top, max(wide - left - self._radius - 1, 4), max(high - top - bottom, 4))

    @property
    def _px(self) -> int:
        return max(self.measure.text - 2, 9)

    @property
    def _radius(self) -> int:
        return max(round(3.2 * self.measure.unit), 2)

    def _ticks(self) -> list[float]:
        count = 2 + self.box[3] // max(round(90 * self.measure.unit), 40)
        return (log_ticks if self.log else linear_ticks)(self.low, self.high, count)

    def _tick_word(self, value: float) -> str:
        if self.log and math.log10(value).is_integer() and not 0.01 <= value <= 1000:
            return "1e" + short(math.log10(value))
        return short(value, 3)

    def _across(self, steps: NDArray[np.int64] | int) -> NDArray[np.float64]:
        """Pixels from the left edge of the plot."""
        at = np.asarray(steps, dtype=np.float64)
        if self.log_steps:
            first = max(self.first, 0)
            share = np.log1p(at - first) / math.log1p(self.last - first)
        else:
            share = (at - self.first) / (self.last - self.first)
        return np.asarray(share * (self.plot[2] - 1))

    def _down(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Pixels from the top edge of the plot; NaN and Inf stay NaN."""
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.log:
                share = (np.log(values) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
            else:
                share = (values - self.low) / (self.high - self.low)
        share = np.where(np.isfinite(share), np.clip(share, 0, 1), np.nan)
        return np.asarray((1 - share) * (self.plot[3] - 1))

    def static(self, painter: Painter) -> None:
        """Title, axes and their words; the curves are drawn by :meth:`draw` alone."""
        x, y, wide, _ = self.box
        px, small = self.measure.text, self._px
        title = glyphs.fit(self.title, px, wide * 2 // 3, bold=True)
        used = painter.text(x, y + px, title, px, bold=True)
        if self.log:
            painter.text(x + used + px // 2, y + px, "log", small, tone="faint")
        left, top, plot_wide, plot_high = self.plot
        for value in self._ticks():
            at = top + round(float(self._down(np.array([value]))[0]))
            painter.text(
                left - small // 2, at + small // 3, self._tick_word(value), small, tone="muted", anchor="right"
            )
        bottom = top + plot_high + round(small * 1.35)
        painter.text(left, bottom, grouped(self.first), small, tone="muted")
        painter.text(left + plot_wide, bottom, grouped(self.last), small, tone="muted", anchor="right")
        if plot_wide > 14 * small:
            painter.text(
                left + plot_wide // 2,
                bottom,
                "step, log" if self.log_steps else "step",
                small,
                tone="faint",
                anchor="middle",
            )
        self._bare = self._empty()
        self._full = self._drawn(self._bare)
        painter.paint(left, top, self._bare)
        self.revealed, self.dots = 0, []

    def _empty(self) -> Codes:
        _, _, wide, high = self.plot
        bare = np.full((high, wide + self._radius), GROUND, dtype=np.uint16)
        for value in self._ticks():
            at = round(float(self._down(np.array([value]))[0]))
            if 0 <= at < high:
                bare[at, :wide] = ramp("line")[160]
        bare[-1, :wide] = ramp("faint")[255]
        return bare

    def _thickness(self) -> float:
        return max(1.6 * self.measure.unit, 1.2) * (0.8 if len(self.lines) > 4 else 1)

    def _points(self, until: int | None = None) -> list[tuple[NDArray[np.float64], Tone]]:
        """The curves in pixels of the plot, up to a step."""
        out = []
        for line in self.lines:
            kept = len(line.steps) if until is None else int(np.searchsorted(line.steps, until, side="right"))
            points = np.stack([self._across(line.steps[:kept]), self._down(line.values[:kept])], axis=1)
            if kept:
                out.append((points, line.tone))
        return out

    def _drawn(self, bare: Codes) -> Codes:
        drawn = stroke(bare.shape[1], bare.shape[0], self._points(), self._thickness())
        return np.where(drawn == GROUND, bare, drawn).astype(np.uint16)

    def draw(self, painter: Painter, moment: Moment) -> None:
        """The curves up to the step of the moment: only the columns between the last moment and this one are painted anew, with a dot at the end of each line."""
        left, top, _, _ = self.plot
        values = [_at(line, moment.step) for line in self.lines]
        self._say(painter, values)
        if painter.keeps_curves:
            painter.curves(left, top, self._points(moment.step), self._thickness())
            return
        until = int(np.clip(round(float(self._across(moment.step))), 0, self.plot[2] - 1)) + 1
        radius = self._radius
        start = max(min([self.revealed, until, *(dx - radius for dx, _ in self.dots)]), 0)
        stop = min(
            max([self.revealed, until, *(dx + radius + 1 for dx, _ in self.dots)]) + radius + 1, self._bare.shape[1]
        )
        part = self._bare[:, start:stop].copy()
        part[:, : max(until - start, 0)] = self._full[:, start : max(until, start)]
        self.dots = []
        for line, value in zip(self.lines, values):
            if math.isfinite(value) and len(self.lines) <= 12:
                at = (until - 1, round(float(self._down(np.array([value]))[0])))
                self.dots.append(at)
                _stamp(part, at[0] - start, at[1], radius, line.tone)
        painter.paint(left + start, top, part)
        self.revealed = until

    def _say(self, painter: Painter, values: Sequence[float]) -> None:
        """Names and present values of up to three curves, in their colours, at the right of the title."""
        if not 0 < len(self.lines) <= 4:
            return
        words = [
            (f"{line.label} {short(v)}" if len(self.lines) > 1 else short(v), line.tone)
            for line, v in zip(self.lines, values)
            if not math.isnan(v)
        ]
        said = "\0".join(word for word, _ in words)
        if said == self.said:
            return
        self.said = said
        x, y, wide, _ = self.box
        px = self._px
        taken = glyphs.width(
            glyphs.fit(self.title, self.measure.text, wide * 2 // 3, bold=True), self.measure.text, bold=True
        )
        taken += glyphs.width("log", px) + self.measure.text if self.log else 0
        left = x + taken + px // 2
        painter.fill(left, y, x + wide - left, glyphs.line(px)[0] + glyphs.line(px)[1] + 2, "ground")
        pen = x + wide
        for word, tone in reversed(words):
            if pen - glyphs.width(word, px) < left:
                break
            pen -= painter.text(pen, y + self.measure.text, word, px, tone=tone, anchor="right") + px * 3 // 4


def _stamp(part: Codes, x: int, y: int, radius: int, tone: Tone) -> None:
    codes, covers = dot(radius, tone)
    high, wide = part.shape
    top, left = y - radius, x - radius
    rows = slice(max(top, 0), min(top + len(codes), high))
    columns = slice(max(left, 0), min(left + len(codes), wide))
    if rows.stop <= rows.start or columns.stop <= columns.start:
        return
    inner = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
    part[rows, columns] = np.where(covers[inner], codes[inner], part[rows, columns])


def _at(line: Line, step: int) -> float:
    """The newest value at or before ``step``; NaN when there is none."""
    stop = int(np.searchsorted(line.steps, step, side="right"))
    return float(line.values[stop - 1]) if stop else math.nan


def _limits(finite: NDArray[np.float64], log: bool) -> tuple[float, float]:
    if not len(finite):
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = float(finite.min()), float(finite.max())
    if log:
        return low / 1.15, high * 1.15
    if 0 <= low < 0.35 * high:
        low = 0.0
    margin = (high - low) * 0.04 or max(abs(high), 1.0) * 0.1
    return (low if low == 0 else low - margin), high + margin


def stacked(box: Box, count: int, gap: int) -> list[Box]:
    """``box`` cut into ``count`` boxes of equal height, ``gap`` pixels apart."""
    x, y, wide, high = box
    each = (high - gap * (count - 1)) // max(count, 1)
    return [(x, y + i * (each + gap), wide, each) for i in range(count)]

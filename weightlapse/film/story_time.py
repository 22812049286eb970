"""The foot of a story: a caption, and below it the time axis in steps with the loss, what happened where, and the present."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import weightlapse.film.text as glyphs
from weightlapse.film.colours import GROUND, Codes
from weightlapse.film.curves import Line
from weightlapse.film.painter import Painter, ramp, stroke
from weightlapse.film.panels import Moment
from weightlapse.film.plates import Measure
from weightlapse.film.story import Caption, Story
from weightlapse.film.story_map import letter
from weightlapse.film.surface import Box
from weightlapse.picture.numbers import grouped, linear_ticks, log_ticks, short, spans_decades


@dataclass
class Timeline:
    """``line``: the curve over time, None where there is none. The axis counts steps, evenly or by their logarithm."""

    box: Box
    measure: Measure
    story: Story
    span: tuple[int, int]  # first and last step
    line: Line | None
    at: int = field(init=False, default=0)  # the column of the present
    said: tuple[str, str] = field(init=False, default=("", ""))

    def __post_init__(self) -> None:
        x, y, wide, high = self.box
        top = round(self.measure.text * 1.9)
        low = round(self._small * 1.5)
        self.plot: Box = (x, (y + top) // 2 * 2, wide, max((high - top - low) // 2 * 2, 8))

    @property
    def _small(self) -> int:
        return max(self.measure.text - 2, 10)

    def _share(self, step: float) -> float:
        first, last = self.span[0], max(self.span[1], self.span[0] + 1)
        if self.story.log_steps:
            return float(np.log1p(step - first) / np.log1p(last - first))
        return (step - first) / (last - first)

    def _column(self, step: float) -> int:
        return round(min(max(self._share(step), 0.0), 1.0) * (self.plot[2] - 2)) // 2 * 2

    def _ticks(self) -> list[float]:
        first, last = self.span
        if last <= first:
            return [float(first)]
        if self.story.log_steps and last - first > 10:
            return [first + t for t in log_ticks(1, last - first, 6)]
        return [t for t in linear_ticks(first, last, 7) if float(t).is_integer()]

    def static(self, painter: Painter) -> None:
        """The axis with its steps, and the whole curve as it looks before it has passed."""
        x, y, wide, high = self.plot
        small = self._small
        base = y + high + round(small * 1.25)
        right = x - small
        word = "step, log" if self.story.log_steps else "step"
        end = x + wide - glyphs.width(word, small) - small // 2
        for tick in self._ticks():
            at = x + self._column(tick)
            text = grouped(int(tick))
            left = min(max(at - glyphs.width(text, small) // 2, x), x + wide - glyphs.width(text, small))
            painter.fill(at, y + high, 2, 4, "faint")
            if left > right + small // 2 and left + glyphs.width(text, small) < end:
                painter.text(left, base + 2, text, small, tone="muted")
                right = left + glyphs.width(text, small)
        painter.text(x + wide, base + 2, word, small, tone="faint", anchor="right")
        self.past, self.future = self._curves()
        painter.paint(x, y, self.future)
        self.at, self.said = 0, ("", "")

    def _curves(self) -> tuple[Codes, Codes]:
        """The plot as it looks before the present (in colour) and after it (faint), with a flag at each caption."""
        _, _, wide, high = self.plot
        bare = np.full((high, wide), GROUND, dtype=np.uint16)
        bare[-2:] = ramp("faint")[255]
        for caption in self.story.captions:
            at = self._column(caption.step)
            bare[:, at : at + 2] = ramp(_tone(caption))[255 if caption.severity == "error" else 150]
        if self.line is None or len(self.line.steps) < 2:
            return bare, bare
        values = np.asarray(self.line.values, dtype=np.float64)
        finite = values[np.isfinite(values)]
        if not len(finite):
            return bare, bare
        log = spans_decades(finite)
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = np.log(values) if log else values
        low, top = float(drawn[np.isfinite(drawn)].min()), float(drawn[np.isfinite(drawn)].max())
        share = (drawn - low) / (top - low) if top > low else np.full(len(drawn), 0.5)
        across = np.array([self._share(step) for step in self.line.steps]) * (wide - 2)
        points = np.stack([across, 2 + (1 - share) * (high - 7)], axis=1)
        return tuple(
            np.where((s := stroke(wide, high, [(points, tone)], 2.0)) == GROUND, bare, s).astype(np.uint16)
            for tone in (0, "faint")
        )  # type: ignore[return-value]

    def draw(self, painter: Painter, moment: Moment) -> None:
        """The line of the present, the curve before it as passed; only the columns between the last moment and this one are painted, and the caption."""
        x, y, wide, _ = self.plot
        now = self._column(moment.step)
        start, stop = max(min(self.at, now) - 4, 0), min(max(self.at, now) + 6, wide)
        part = self.future[:, start:stop].copy()
        part[:, : max(now - start, 0)] = self.past[:, start : max(now, start)]
        part[:, now - start : now - start + 2] = ramp("ink")[255]
        painter.paint(x + start, y, part)
        self.at = now
        self._say(painter, moment)

    def _say(self, painter: Painter, moment: Moment) -> None:
        """The newest caption, or what changes most; at the right the curve's present value."""
        x, y, wide, _ = self.box
        px = self.measure.text
        value = "" if self.line is None else self._newest(self.line, moment.step)
        caption = self._caption(moment)
        chapter = self.story.chapter_at(moment.frame)
        quiet = f"steps {grouped(chapter.steps[0])} to {grouped(chapter.steps[1])}: most change in "
        quiet += ", ".join(f"{letter(i)} {name}" for i, (name, _) in enumerate(chapter.leaders))
        words = quiet
        if caption:
            words = f"step {grouped(caption.step)}: {caption.text}" if caption.kind == "event" else caption.text
        if self.said == (words, value):
            return
        painter.fill(x, y, wide, round(px * 1.5), "ground")
        used = painter.text(x + wide, y + px, value, px, tone=0, anchor="right") if value else 0
        room = wide - used - 2 * px
        if caption:
            painter.fill(x, y, 4, px + 2, _tone(caption))
            painter.text(x + px, y + px, _cut(words, px, room - px, bold=True), px, tone=_tone(caption), bold=True)
        else:
            painter.text(x, y + px, _cut(words, px, room, bold=False), px, tone="muted")
        self.said = (words, value)

    def _newest(self, line: Line, step: int) -> str:
        """The newest value of the curve, and where it is from when nothing was logged for long (a loss that became NaN, say)."""
        stop = int(np.searchsorted(line.steps, step, side="right"))
        if not stop:
            return line.label
        at = int(line.steps[stop - 1])
        late = step - at > max((self.span[1] - self.span[0]) // 20, 1)
        return f"{line.label} {short(float(line.values[stop - 1]))}" + (f", last at step {grouped(at)}" if late else "")

    def _caption(self, moment: Moment) -> Caption | None:
        """An error stays until the next caption; anything else for a while."""
        past = [c for c in self.story.captions if c.picture <= moment.index]
        if not past:
            return None
        newest = past[-1]
        errors = [c for c in past if c.severity == "error"]
        if moment.index - newest.picture < moment.linger or newest.severity == "error":
            return newest
        return errors[-1] if errors else None


def _cut(words: str, px: int, room: int, bold: bool) -> str:
    """``words`` from their beginning, as far as there is room."""
    if glyphs.width(words, px, bold) <= room:
        return words
    while words and glyphs.width(words + glyphs.ELLIPSIS, px, bold) > room:
        words = words[:-1]
    return words.rstrip(" ,") + glyphs.ELLIPSIS


def _tone(caption: Caption) -> str | int:
    return {"error": 7, "warning": 1}.get(caption.severity, "ink")


def curve_of(lines: Sequence[Line], story: Story) -> Line:
    """The first logged curve, or, where nothing was logged, how fast the network changes."""
    if lines:
        return lines[0]
    rates: NDArray[np.float64] = story.changes.rate([name for plate in story.plates for name in plate.names])
    steps = story.changes.steps
    return Line("change per step", steps[1:] if len(steps) > 1 else steps, rates[: max(len(steps) - 1, 1)])

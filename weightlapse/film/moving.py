"""Panels that show the present values in another way: histograms as ridges, shares of mass as bars, words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import weightlapse.film.text as glyphs
from weightlapse.film.colours import GROUND
from weightlapse.film.frames import Values
from weightlapse.film.painter import Painter, ramp
from weightlapse.film.panels import Moment, title
from weightlapse.film.plates import Measure
from weightlapse.film.surface import Box
from weightlapse.picture.numbers import short

BINS = 61  # odd, so that zero has a bin of its own
_COUNTED = 200_000  # values of one tensor that a ridge looks at; more are strided, which no histogram shows


@dataclass
class Ridges:
    """One histogram per tensor, one above the other, each on its own ±limit; the heights keep their scale for the whole film."""

    box: Box
    measure: Measure
    limits: dict[str, float]
    tallest: dict[str, float]  # the share of weights at which a ridge reaches its full height
    title: str = "histograms"

    def _row(self, index: int) -> Box:
        x, y, wide, high = self.box
        top = y + round(self.measure.text * 1.7)
        each = (high - (top - y)) // max(len(self.limits), 1)
        return x, top + index * each, wide, each

    @property
    def _px(self) -> int:
        return max(self.measure.text - 2, 9)

    @property
    def _names_width(self) -> int:
        return min(
            max((glyphs.width(name, self._px) for name in self.limits), default=0) + self._px // 2, self.box[2] * 2 // 5
        )

    def static(self, painter: Painter) -> None:
        """Title, names, limits and base lines."""
        x, y, _, _ = self.box
        painter.text(x, y + self.measure.text, self.title, self.measure.text, bold=True)
        for index, (name, limit) in enumerate(self.limits.items()):
            rx, ry, wide, high = self._row(index)
            base = ry + high - 2
            painter.text(rx, base - 1, title(name, self._px, self._names_width - 4, False), self._px, tone="muted")
            if high > 2.6 * self._px:
                painter.text(rx, base - 1 - round(self._px * 1.25), "±" + short(limit, 2), self._px, tone="faint")
            painter.fill(rx + self._names_width, base, wide - self._names_width, 1, "faint")

    def draw(self, painter: Painter, moment: Moment) -> None:
        """A histogram of the present values of each tensor; weights beyond ±limit are left out, a tensor that is not there has an empty one."""
        for index, (name, limit) in enumerate(self.limits.items()):
            value = moment.values.get(name)
            x, y, wide, high = self._row(index)
            left, room = x + self._names_width, wide - self._names_width
            up = max(high - 4, 3)
            counts = self._heights(name, value, limit, room)
            coverage = np.clip(counts[None, :] * up - np.arange(up - 1, -1, -1)[:, None], 0, 1)
            codes = ramp(0)[np.rint(coverage * 150).astype(int)]
            edge = (coverage > 0) & (np.roll(coverage, 1, axis=0) <= 0)
            edge[0] = coverage[0] > 0
            codes[edge] = ramp(0)[255]
            middle = room // 2
            codes[:, middle] = np.where(codes[:, middle] == GROUND, ramp("line")[255], codes[:, middle])
            painter.paint(left, y + high - 2 - up, codes)

    def _heights(self, name: str, value: Values | None, limit: float, room: int) -> NDArray[np.float64]:
        if value is None:
            return np.zeros(room)
        share = density(value, limit)
        tallest = self.tallest.get(name) or float(share.max()) or 1.0
        heights = np.clip(share / tallest, 0, 1)
        return np.interp((np.arange(room) + 0.5) * BINS / room, np.arange(BINS) + 0.5, heights)


def density(value: Values, limit: float) -> NDArray[np.float64]:
    """Share of the weights in each of ``BINS`` equal bins from -limit to +limit, lightly smoothed (1, 2, 1)."""
    flat: NDArray[np.float64] = value.reshape(-1)[:: max(value.size // _COUNTED, 1)].astype(np.float64)
    at = np.floor((flat[np.isfinite(flat)] / limit + 1) * BINS / 2)
    at = at[(at >= 0) & (at <= BINS)].clip(0, BINS - 1).astype(np.int64)
    counts = np.pad(np.bincount(at, minlength=BINS) / max(flat.size, 1), 1, mode="edge")
    smooth: NDArray[np.float64] = (counts[:-2] + 2 * counts[1:-1] + counts[2:]) / 4
    return smooth


@dataclass
class Mass:
    """Bars of each weight's (or each tensor's) share of all absolute weight, |w| / Σ|w|."""

    box: Box
    measure: Measure
    names: Sequence[str]
    labels: Sequence[str]
    single: bool  # one bar per weight of the one tensor, otherwise one per tensor
    most: float  # the share at which a bar is full, the same for the whole film
    title: str = "share of mass"
    tones: Sequence[int] = ()  # the colour of each bar; one for all where none are given

    def static(self, painter: Painter) -> None:
        """Title, the share of a full bar, and labels where a bar is high enough for letters."""
        x, y, _, _ = self.box
        px, small = self.measure.text, max(self.measure.text - 2, 9)
        used = painter.text(x, y + px, self.title, px, bold=True)
        painter.text(x + used + px, y + px, f"|w| / Σ|w|, full bar {short(self.most * 100, 2)} %", small, tone="muted")
        _, top, left, each = self._place()
        painter.fill(left - 1, top, 1, each * len(self.labels), "faint")
        if each >= small * 0.9:
            for i, label in enumerate(self.labels):
                painter.text(
                    left - small // 2,
                    top + i * each + (each + small) // 2 - 2,
                    glyphs.fit(label, small, left - x - small // 2),
                    small,
                    tone="muted",
                    anchor="right",
                )

    def _place(self) -> tuple[int, int, int, int]:
        x, y, wide, high = self.box
        small = max(self.measure.text - 2, 9)
        top = y + round(self.measure.text * 1.9)
        names = max((glyphs.width(label, small) for label in self.labels), default=0) + small
        each = min((high - (top - y)) // max(len(self.labels), 1), round(26 * max(self.measure.unit, 0.5)))
        return x, top, x + min(names, wide * 2 // 5), max(each, 1)

    def draw(self, painter: Painter, moment: Moment) -> None:
        """The bars; where all weights are zero they are empty."""
        x, _, wide, _ = self.box
        _, top, left, each = self._place()
        weights = [_magnitudes(moment.values[n]) for n in self.names if n in moment.values]
        masses = weights[0] if self.single else np.array([w.sum() for w in weights])
        total = masses.sum()
        shares = masses / total if total > 0 else masses
        room = x + wide - left
        thick = max(each - max(each // 5, 1), 1)
        for i, share in enumerate(shares[: len(self.labels)]):
            full = round(min(share / self.most, 1.0) * room)
            painter.fill(left, top + i * each, full, thick, self.tones[i] if self.tones else 0)
            painter.fill(left + full, top + i * each, room - full, thick, "ground")


def _magnitudes(value: Values) -> NDArray[np.float64]:
    """|w| of every weight, flat; NaN and Inf carry no mass."""
    wide: NDArray[np.float64] = np.abs(np.nan_to_num(value.astype(np.float64), posinf=0, neginf=0)).ravel()
    return wide


@dataclass
class Words:
    """A few lines of text."""

    box: Box
    measure: Measure
    words: str

    def static(self, painter: Painter) -> None:
        """The text, one paragraph a line of it, wrapped to the box; what does not fit below is left out."""
        x, y, wide, high = self.box
        px = self.measure.text
        baseline = y + px
        for paragraph in self.words.split("\n"):
            line = ""
            for word in [*paragraph.split(" "), ""]:
                longer = f"{line} {word}".strip()
                if word and glyphs.width(longer, px) <= wide:
                    line = longer
                    continue
                if baseline > y + high:
                    return
                painter.text(x, baseline, glyphs.fit(line, px, wide), px)
                baseline += round(px * 1.5)
                line = word

    def draw(self, painter: Painter, moment: Moment) -> None:
        """Words do not change."""

"""What a film of a large network tells: its layers in order, how much each changes when, which are enlarged, and what is captioned.

Only numbers and words are found here; `story_scene` draws them, `story_file` writes them beside the film.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import WeightlapseError
from weightlapse.film.frames import all_shapes
from weightlapse.film.grown import events_of
from weightlapse.film.pace import first_at
from weightlapse.film.plates import Plate, plates
from weightlapse.measures.doctor import diagnose
from weightlapse.picture.numbers import grouped
from weightlapse.picture.sample import sample
from weightlapse.progress import track
from weightlapse.recording.polar import whole
from weightlapse.recording.recording import Recording
from weightlapse.recording.run import Run

MANY = 20  # plates (a layer with its biases) from which a film shows a map and enlarges some
MOMENTS = 64  # moments between which change is measured
CHAPTER_SECONDS, CHAPTERS = 3.0, 8
CAPTIONS = 12

Frames = NDArray[np.int64]


@dataclass(frozen=True)
class Caption:
    """Words that are shown from ``picture`` on. ``kind``: "event", or that of the finding."""

    picture: int
    frame: int
    step: int
    text: str
    kind: str
    severity: str = "note"
    tensor: str = ""


@dataclass(frozen=True)
class Chapter:
    """A stretch of pictures, ``start <= picture < stop``, and the tensors that are enlarged in it, with their change per step."""

    start: int
    stop: int
    frames: tuple[int, int]
    steps: tuple[int, int]
    leaders: tuple[tuple[str, float], ...]


@dataclass
class Changes:
    """How much each tensor moves between neighbouring moments, from a few thousand of its weights.

    ``moved``, ``size``: sums of squares by tensor, (moments - 1,), of the difference and of the larger of both ends, for the whole tensor; NaN
    where it does not exist. ``broken``: the frame at which a NaN or Inf was first seen.
    """

    frames: Frames
    steps: NDArray[np.int64]
    moved: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    size: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)
    sampled: bool = False

    def rate(self, names: Sequence[str]) -> NDArray[np.float64]:
        """Relative change per step of some tensors together, (moments - 1,)."""
        known = [name for name in names if name in self.moved]
        if not known or len(self.frames) < 2:
            return np.zeros(max(len(self.frames) - 1, 1))
        moved = np.nansum([self.moved[name] for name in known], axis=0)
        size = np.nansum([self.size[name] for name in known], axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            rate = np.where(size > 0, np.sqrt(moved / size), 0.0) / np.maximum(np.diff(self.steps), 1)
        return np.asarray(np.nan_to_num(rate, posinf=0.0))

    def at(self, frame: int) -> int:
        """Which interval of moments holds ``frame``."""
        return int(np.clip(np.searchsorted(self.frames, frame, side="left") - 1, 0, max(len(self.frames) - 2, 0)))


@dataclass
class Story:
    """Everything that the film tells."""

    plates: list[Plate]
    rows: list[tuple[str, list[Plate]]]
    changes: Changes
    chapters: list[Chapter]
    captions: list[Caption]
    log_steps: bool
    unexamined: str = ""  # why the doctor was not asked, where it was not
    limits: dict[str, float] | None = None  # of the layers that are enlarged, once they were looked for

    def chapter_at(self, frame: int) -> Chapter:
        """The first chapter that shows ``frame``."""
        return next((c for c in self.chapters if c.frames[0] <= frame <= c.frames[1]), self.chapters[-1])

    def plate_of(self, tensor: str) -> Plate | None:
        """The plate that shows a tensor, as its own or as a vector of another; None where none does."""
        return next((plate for plate in self.plates if tensor in plate.names), None)


def told(run: Run, names: Sequence[str], shown: Frames, *, fps: float, enlarged: int, log_steps: bool = False) -> Story:
    """The story of the pictures ``shown`` (the frame of each), ``enlarged`` layers in each chapter."""
    known = all_shapes(run, np.unique(shown))
    parts = plates({name: known[name] for name in names}, run.wiring)
    changes = changed(run, names, shown)
    captions, unexamined = captioned(run, names, shown)
    if unexamined and changes.broken:  # then the weights that were looked at must do
        name, frame = min(changes.broken.items(), key=lambda item: item[1])
        at = first_at(shown, frame)
        if at is not None:
            step = int(np.asarray(run.steps)[frame])
            text = f"NaN or Inf is here: {name}, step {grouped(step)}"
            captions.append(Caption(at, frame, step, text, "nonfinite", "error", name))
            captions.sort(key=lambda caption: caption.picture)
    chapters = chaptered(run, parts, changes, captions, shown, fps, enlarged)
    return Story(parts, rowed(parts), changes, chapters, captions, log_steps, unexamined)


def changed(run: Run, names: Sequence[str], shown: Frames) -> Changes:
    """How much every tensor moves over the film, looked at in at most ``MOMENTS`` of its frames."""
    picked = np.unique(shown[np.unique(np.linspace(0, len(shown) - 1, MOMENTS + 1).round().astype(int))])
    found = Changes(picked, np.asarray(run.steps)[picked])
    shapes = all_shapes(run)
    for name in track(names, "measuring change"):
        moved = np.full(max(len(picked) - 1, 1), np.nan)
        size = moved.copy()
        for at, values in sample(run, name, picked, most=1 << 30):
            finite = np.atleast_1d(np.isfinite(values).all(axis=1))
            if not finite.all():
                found.broken.setdefault(name, int(at[int(np.argmin(finite))]))
            share = math.prod(shapes[name]) / values.shape[1]
            found.sampled |= share > 1.5
            with np.errstate(invalid="ignore", over="ignore"):
                squares = share * (values**2).sum(axis=1)
                steps = share * (np.diff(values, axis=0) ** 2).sum(axis=1)
            place = np.searchsorted(picked, at)
            for i, (a, b) in enumerate(itertools.pairwise(place)):
                if b == a + 1 and finite[i] and finite[i + 1]:
                    moved[a], size[a] = steps[i], max(squares[i], squares[i + 1])
        found.moved[name], found.size[name] = moved, size
    return found


def captioned(run: Run, names: Sequence[str], shown: Frames) -> tuple[list[Caption], str]:
    """Events and findings as captions, in the order of time, and why nothing was looked for where it was not."""
    steps = np.asarray(run.steps)
    found: list[Caption] = []

    def say(step: int, text: str, kind: str, severity: str = "note", tensor: str = "") -> None:
        frame = int(np.clip(np.searchsorted(steps, step), 0, len(steps) - 1))
        picture = first_at(shown, frame)
        if picture is not None:
            found.append(Caption(picture, frame, int(step), text, kind, severity, tensor))

    for step, words in events_of(run):
        say(step, re.sub(r"^\[\w+\] ", "", words).split("\n")[0], "event")
    findings, unexamined = _findings(run)
    for step, text, kind, severity, tensor in _in_words(findings, names):
        say(step, text, kind, severity, tensor)
    if len(found) > CAPTIONS:  # what is worst, and what the user marked, before all else
        worth = {"error": 0, "event": 1, "warning": 2, "note": 3}
        ranked = sorted(found, key=lambda c: worth["event" if c.kind == "event" else c.severity])[:CAPTIONS]
        found = [caption for caption in found if caption in ranked]
    return sorted(found, key=lambda c: c.picture), unexamined


def _findings(run: Run) -> tuple[list[Any], str]:
    recording = whole(run)
    if not isinstance(recording, Recording) or len(recording.steps) < 2:
        return [], "only a recording is examined"
    try:
        return diagnose(recording), ""
    except WeightlapseError as error:
        return [], str(error)


def _in_words(findings: Sequence[Any], names: Sequence[str]) -> list[tuple[int, str, str, str, str]]:
    """(step, words, kind, severity, tensor): what begins at the same step in many tensors is said once."""
    together: dict[tuple[str, int], list[Any]] = {}
    for finding in findings:
        if finding.severity != "note" and (not finding.tensor or finding.tensor in names):
            together.setdefault((finding.kind, int(finding.first_step)), []).append(finding)
    out = []
    broken = False
    for (kind, step), group in sorted(together.items(), key=lambda item: item[0][1]):
        first = min(group, key=lambda f: list(names).index(f.tensor) if f.tensor in names else -1)
        more = f" and {len(group) - 1} more" if len(group) > 1 else ""
        if kind == "nonfinite":
            word = "NaN spreads to" if broken else "NaN begins here:"
            text, broken = f"{word} {first.tensor}{more}, step {grouped(step)}", True
        elif not first.tensor:
            text = first.text
        else:
            units = f", {len(first.units)} units" if len(first.units) > 1 and len(group) == 1 else ""
            text = f"{kind.replace('_', ' ')}: {first.tensor}{units}{more}, step {grouped(step)}"
        out.append((step, text, kind, first.severity, first.tensor or ""))
    return out


def chaptered(
    run: Run,
    parts: Sequence[Plate],
    changes: Changes,
    captions: Sequence[Caption],
    shown: Frames,
    fps: float,
    enlarged: int,
) -> list[Chapter]:
    """The film in stretches of a few seconds; a new one where something breaks and where the layout of the network changes."""
    pictures = len(shown)
    count = int(np.clip(round(pictures / fps / CHAPTER_SECONDS), 1, CHAPTERS))
    if count == 1 and pictures >= 8:
        count = 2
    starts = {round(i * pictures / count) for i in range(count)}
    forced = {c.picture for c in captions if c.severity == "error"}
    for span in list(run.layouts)[1:]:
        at = first_at(shown, int(span.start))
        forced |= {at} if at is not None else set()
    near = max(pictures // (4 * count), 1)
    kept: set[int] = set()
    for at in sorted(forced):  # a stretch too short to be looked at belongs to the one before
        if all(at - other >= near for other in kept):
            kept.add(at)
    starts = {s for s in starts if s == 0 or all(abs(s - f) >= near for f in kept)} | kept
    edges = [*sorted({s for s in starts if 0 <= s < pictures} | {0}), pictures]
    steps = np.asarray(run.steps)
    return [
        Chapter(
            start,
            stop,
            (int(shown[start:stop].min()), int(shown[start:stop].max())),
            (int(steps[shown[start:stop].min()]), int(steps[shown[start:stop].max()])),
            _leaders(run, parts, changes, captions, shown, (start, stop), enlarged),
        )
        for start, stop in itertools.pairwise(edges)
    ]


def _leaders(
    run: Run,
    parts: Sequence[Plate],
    changes: Changes,
    captions: Sequence[Caption],
    shown: Frames,
    pictures: tuple[int, int],
    enlarged: int,
) -> tuple[tuple[str, float], ...]:
    """The layers that change most in a stretch; first those that a caption of it names."""
    frames = shown[pictures[0] : pictures[1]]
    there = all_shapes(run, np.unique(frames))
    first, last = changes.at(int(frames.min()) + 1), changes.at(int(frames.max()))
    span = slice(first, max(last, first) + 1)
    rates = {}
    for plate in parts:
        if plate.main in there:
            rate = changes.rate([plate.main])[span]
            rates[plate.main] = float(np.nanmean(rate)) if len(rate) else 0.0
    named: list[str] = []
    for caption in captions:  # of what breaks, the first: it spreads to the others
        if pictures[0] <= caption.picture < pictures[1] and caption.severity == "error" and not named:
            named += [b.main for b in parts if caption.tensor in b.names and b.main in rates]
    large = [
        b.main
        for b in parts
        if b.main in rates and len(b.arrangement.shape) >= 2 and min(b.arrangement.rows, b.arrangement.cols) > 1
    ]
    ever = {name: float(changes.rate([name]).mean()) for name in rates}  # where nothing moves any more
    ranked = sorted(large or list(rates), key=lambda name: (-rates[name], -ever[name]))
    chosen = list(dict.fromkeys([*named, *ranked]))[:enlarged]
    return tuple((name, rates[name]) for name in chosen)


def rowed(parts: Sequence[Plate]) -> list[tuple[str, list[Plate]]]:
    """The layers in rows, as a reader of the network's code would write them: one row for each block of layers that is numbered.

    >>> from weightlapse.film.plates import plates
    >>> names = ["wte.weight", "h.0.attn.weight", "h.0.mlp.weight", "h.1.attn.weight"]
    >>> [title for title, _ in rowed(plates(dict.fromkeys(names, (2, 2))))]
    ['wte', 'h.0', 'h.1']
    """
    rows: list[tuple[str, list[Plate]]] = []
    for plate in parts:
        title = _row_of(plate.main)
        if rows and rows[-1][0] == title:
            rows[-1][1].append(plate)
        else:
            rows.append((title, [plate]))
    return _without_prefix(rows)


def _row_of(name: str) -> str:
    pieces = re.split(r"[./]", name)
    for i, piece in enumerate(pieces[:-1]):
        if piece.isdigit():
            return ".".join(pieces[: i + 1])
    return ".".join(pieces[:-1]) or name


def _without_prefix(rows: list[tuple[str, list[Plate]]]) -> list[tuple[str, list[Plate]]]:
    """Titles without the modules that all of them share."""
    titles = [title.split(".") for title, _ in rows]
    shared = 0
    while len(rows) > 1 and all(len(t) > shared + 1 for t in titles) and len({t[shared] for t in titles}) == 1:
        shared += 1
    return [(".".join(title.split(".")[shared:]), part) for title, part in rows]


def by_tensor(story: Story) -> Mapping[str, float]:
    """The mean change per step of every tensor over the film."""
    return {name: float(story.changes.rate([name]).mean()) for plate in story.plates for name in plate.names}


def many(run: Run, names: Sequence[str], frames: Frames) -> bool:
    """Whether a network has too many layers to show all of them in a size that can be read."""
    known = all_shapes(run, frames)
    return len(plates({name: known[name] for name in names})) > MANY

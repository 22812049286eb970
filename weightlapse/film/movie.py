"""`make_film`: a recording as a film or a still."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import weightlapse.film.colours as colours
from weightlapse.arguments import renamed
from weightlapse.errors import InvalidArgument
from weightlapse.film.encode import PALETTE, PRESETS, STILL, VIDEO, Preset, Reel, surface_for, whole_file, writer_for
from weightlapse.film.film import Film
from weightlapse.film.frames import chosen
from weightlapse.film.grown import events_of
from weightlapse.film.limits import Mode, check_scale
from weightlapse.film.pace import Pace, first_at, timeline
from weightlapse.film.panels import Moment
from weightlapse.film.scene import Order, Scene, compose
from weightlapse.film.stills import numbered, pictures, still
from weightlapse.film.story import Story, many
from weightlapse.film.story_file import beside, describe, poster_picture, write
from weightlapse.film.story_scene import compose_story, tell
from weightlapse.picture.palette import ThemeName
from weightlapse.picture.words import ordinal
from weightlapse.progress import track
from weightlapse.recording.frames import Frames, check_frames
from weightlapse.recording.polar import polar
from weightlapse.recording.recording import opened
from weightlapse.recording.run import Run
from weightlapse.store.layout import value_dtype

SUFFIXES = (*VIDEO, *PALETTE, *STILL)


@renamed("0.3", path="out")
def make_film(
    run: Run | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    tensors: str | Sequence[str] = "*",
    fps: float = 24,
    size: tuple[int, int] = (1280, 720),
    scale: Mode = "tensor",
    cmap: str = "RdBu_r",
    other: Run | str | os.PathLike[str] | None = None,
    align: bool = True,
    frames: Frames = None,
    panels: Sequence[str] | None = None,
    theme: ThemeName = "light",
    pace: Pace | int | None = None,
    seconds: float | None = None,
    hold: float = 0.0,
    groups: Mapping[str, Any] | None = None,
    faithful: bool = False,
    preset: Preset = "veryfast",
    crf: int | None = None,
    title: str = "",
    story: bool | None = None,
) -> Film:
    """Draw every weight at every step, as a film or a still, by the suffix of ``out``.

    Arguments:
        run: a recording, or the path of one.
        out: ``.mp4`` ``.webm`` ``.gif`` ``.apng``; ``.png`` ``.svg`` ``.pdf`` for the last of the chosen frames;
            ``name-%04d.png`` for one numbered picture per frame; None keeps an mp4 in memory (to be shown in a notebook).
        tensors: glob or globs; ``"*"`` are the network's own floating-point tensors.
        fps: film frames a second. size: (width, height) in pixels, both even.
        scale: colours run from -scale to +scale; one scale per ``"tensor"`` (default) or one ``"global"`` for the whole film,
            or a new one at every ``"step"``.
        cmap: a diverging map: RdBu, PuOr, BrBG, PRGn, night (each also with ``_r``), or any name Matplotlib knows.
        other: a second recording of the same network: the film then shows both, the second aligned, and the difference.
        align: whether ``other`` is also brought onto ``run`` up to the symmetries of the network.
        frames: which recorded frames: a slice, a range, an integer or a sequence of integers, in the order of the film.
        panels: any of "weights", "scalars:NAME", "loss", "lines:GLOB", "groups", "mass:GLOB", "distance", "norms",
            "histograms:GLOB", "text:WORDS", in this order; None chooses by the size of the network.
        theme: "light" or "dark".
        pace: None or "every" (every frame; beyond 3600 every n-th, and the film says so), an integer stride, "log" (more of the
            beginning), "equal change" (time runs by how much the weights move).
        seconds: length of the film; frames are left out or repeated to fit.
        hold: seconds that the film stands still at each recorded event; 0: one picture per frame, no more.
        groups: for the panel "groups" (shown when given), as in `measure`: ``{group: flat positions}`` of the only tensor, ``{group: (tensor, flat positions)}`` or
            ``{group: {tensor: flat positions}}``.
        faithful: 4:4:4 without loss: decoded colours at most 2 of 255 off. Not every player shows it.
        preset: x264's trade of speed for size, "ultrafast" to "veryslow".
        crf: quality of mp4 and webm, 0 (best) to 51; 12 (webm: 16) by default, and without loss when ``faithful``.
        title: heading; the recording's name by default.
        story: whether the film shows a map of the network, enlarges the layers that change most in each stretch, keeps time on an axis of
            steps, and captions events and findings; a poster (``x.poster.png``) and a description (``x.json``) are then written beside it.
            None: for a network of more than twenty layers, unless ``panels`` or ``other`` say otherwise. False: every tensor.

    Returns:
        A `Film`; as the last value of a notebook cell it plays.

    Raises:
        InvalidArgument: an unknown suffix, odd sizes, frames that do not exist, an unknown panel, map or theme.
        UnknownTensor: no tensor matches.
        MissingExtra: a package for this format is not installed.

    A complex tensor is two pictures, its magnitude and its phase.

    A weight too small for the picture's pixels is not averaged away: a cell then stands for several weights and shows one of them, always
    the largest where it stands out, and the label says so. NaN, Inf and values beyond the scale have marks of their own.

    >>> import numpy as np, tempfile, weightlapse as wl
    >>> with wl.watch({"w": np.eye(4)}, tempfile.mkdtemp()) as rec:
    ...     for k in range(4):
    ...         rec.step({"w": np.eye(4) * k})
    >>> film = wl.make_film(rec.path, tempfile.mkdtemp() + "/film.gif", size=(320, 240))
    >>> film.frames
    5
    """
    run = opened(run)
    if other is not None:
        from weightlapse.film.pair import Pair

        run = Pair(run, opened(other), align)
    else:
        run = polar(run)
    suffix, target = _target(out)
    width, height = _size(size, suffix)
    rate = _rate(fps)
    check_scale(scale)
    table = colours.table(theme, cmap)
    if preset not in PRESETS:
        raise InvalidArgument(f"preset must be one of {', '.join(map(repr, PRESETS))}, not {preset!r}")
    if crf is not None and not (isinstance(crf, int) and 0 <= crf <= 51):
        raise InvalidArgument(f"crf={crf!r} must be a whole number from 0 (best) to 51")
    picked = check_frames(frames, len(run.steps))
    single = suffix in STILL and target is not None and not numbered(target)
    if single:
        picked = picked[-1:]
    names = chosen(run, tensors, picked)
    if other is not None:
        _refuse_complex(run, names)
        for given, value in (("panels", panels), ("groups", groups)):
            if value:
                raise InvalidArgument(
                    f"{given}= is for the film of one recording: with other= both networks and their distance are shown; leave one of them out"
                )
    if single:
        past = np.arange(int(picked[0]) + 1)
        order = Order(names, past, (width, height), scale, panels, groups, title, still=int(picked[0]))
        shown = picked
    else:
        holds = _holds(run, hold, float(rate))
        shown = timeline(run, names, picked, pace=pace, seconds=seconds, fps=float(rate), holds=holds)
        order = Order(
            names, shown, (width, height), scale, panels, groups, title, _note(picked, shown, pace), pace == "log"
        )
    tale = _story(run, order, story, other, float(rate), np.unique(shown))
    poster, told = (None, None) if tale is None or target is None or single or numbered(target) else beside(target)
    scene = _scene(run, order) if tale is None else compose_story(run, order, tale)
    scene.signs = colours.signs(table)
    linger = round(1.5 * float(rate))
    if suffix in STILL:
        assert target is not None
        if single:
            (moment,) = moments(run, scene, picked)
            still(target, scene, moment, (width, height), table, order.title or run.name)
        else:
            pictures(target, scene, moments(run, scene, shown, linger=linger), (width, height), table)
        return Film(target, (width, height), rate, len(shown), None)

    groups_of = _runs(shown)
    steps = np.asarray(run.steps)
    comment = f"weightlapse film of {run.name}, steps {int(steps[shown].min())} to {int(steps[shown].max())}"
    reel = Reel(width, height, rate, len(groups_of), order.title or run.name, comment, faithful, preset, crf)
    surface = surface_for(suffix, reel, table, scene.series_used, cmap)

    def shoot(file: Any) -> None:
        writer = writer_for(suffix, file, reel, table, scene.series_used, cmap)
        firsts = np.array([start for start, _ in groups_of])
        for moment, (_, times) in zip(moments(run, scene, shown, firsts, linger=linger), track(groups_of, "filming")):
            scene.draw(surface, moment)
            writer.write(surface, times)
        writer.close()

    if target is None:
        memory = io.BytesIO()
        shoot(memory)
        shows = None if tale is None else describe(run, order, tale, float(rate), order.title or run.name)
        return Film(None, (width, height), rate, len(shown), memory.getvalue(), None, shows)
    with whole_file(target) as file:
        shoot(file)
    if tale is not None and poster is not None and told is not None:
        best = poster_picture(tale, len(shown))
        again = compose_story(run, order, tale)
        again.signs = scene.signs
        (moment,) = moments(run, again, shown, np.array([best]), linger=linger)
        still(poster, again, moment, (width, height), table, order.title or run.name)
        shows = describe(run, order, tale, float(rate), order.title or run.name)
        write(told, shows)
        return Film(target, (width, height), rate, len(shown), None, poster, shows)
    return Film(target, (width, height), rate, len(shown), None)


def moments(
    run: Run, scene: Scene, shown: NDArray[np.int64], at: NDArray[np.int64] | None = None, *, linger: int = 1
) -> Iterator[Moment]:
    """The moments of a film, or only its pictures ``at``, read from the recording as they come.

    The words of an event stay for ``linger`` pictures, or nobody could read them.
    """
    at = np.arange(len(shown)) if at is None else at
    steps = np.asarray(run.steps)
    words: dict[int, str] = {}
    for event_frame, text in _events(run).items():
        place = first_at(shown, event_frame)
        if place is not None:
            words[place] = f"{words[place]}, {text}" if place in words else text
    happened = np.array(sorted(words), dtype=np.int64)
    last = len(shown) - 1 if len(shown) > 1 else max(len(steps) - 1, 1)
    for index, values in zip(at, scene.read(shown[at])):
        frame = int(shown[index])
        newest = int(np.searchsorted(happened, index, side="right")) - 1
        said = newest >= 0 and index - happened[newest] < linger
        event = words[int(happened[newest])] if said else ""
        progress = float((index if len(shown) > 1 else frame) / last)
        picture = int(index) if len(shown) > 1 else frame  # a still is the last picture of all that its curves show
        yield Moment(frame, int(steps[frame]), progress, values, event, picture, linger)


def _events(run: Run) -> dict[int, str]:
    """frame -> what happened there."""
    steps = np.asarray(run.steps)
    words_at: dict[int, str] = {}
    for step, words in events_of(run):
        frame = int(np.searchsorted(steps, step))
        if frame < len(steps):
            words_at[frame] = f"{words_at[frame]}, {words}" if frame in words_at else words
    return words_at


def _scene(run: Run, order: Order) -> Scene:
    from weightlapse.film.pair import Pair, compose_pair

    return compose_pair(run, order) if isinstance(run, Pair) else compose(run, order)


def _story(
    run: Run, order: Order, wanted: bool | None, other: Any, fps: float, frames: NDArray[np.int64]
) -> Story | None:
    """The story to be told; None where all tensors are to be seen."""
    clash = (
        "other=" if other is not None else "panels=" if order.panels is not None else "groups=" if order.groups else ""
    )
    if wanted and clash:
        raise InvalidArgument(
            f"story=True shows a map and enlarged layers, and {clash} asks for something else; leave one of them out"
        )
    if wanted is False or clash or (wanted is None and not (min(order.size) >= 240 and many(run, order.names, frames))):
        return None
    return tell(run, order, fps)


def _target(path: str | os.PathLike[str] | None) -> tuple[str, Path | None]:
    if path is None:
        return ".mp4", None
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in SUFFIXES:
        raise InvalidArgument(
            f"cannot tell the format of {str(path)!r}: the suffix must be one of {', '.join(SUFFIXES)}"
        )
    return suffix, target


def _size(size: tuple[int, int], suffix: str) -> tuple[int, int]:
    try:
        width, height = (int(n) for n in size)
    except (TypeError, ValueError):
        raise InvalidArgument(f"size must be (width, height) in pixels, not {size!r}") from None
    if not (160 <= width <= 8192 and 120 <= height <= 8192):
        raise InvalidArgument(f"size={width}x{height} is out of range: 160x120 to 8192x8192 pixels")
    if suffix in VIDEO and (width % 2 or height % 2):
        raise InvalidArgument(
            f"size={width}x{height}: H.264 and VP9 need even numbers; use {width + width % 2}x{height + height % 2}"
        )
    return width, height


def _rate(fps: float) -> Fraction:
    if not (isinstance(fps, (int, float, Fraction, np.number)) and np.isfinite(float(fps)) and 0 < fps <= 240):
        raise InvalidArgument(f"fps={fps!r} must be a number above 0 and at most 240")
    return Fraction(fps).limit_denominator(1001) if fps >= 1 else Fraction(float(fps)).limit_denominator(1000)


def _holds(run: Run, hold: float, fps: float) -> dict[int, int]:
    if not (np.isfinite(hold) and hold >= 0):
        raise InvalidArgument(f"hold={hold!r} must be a number of seconds, 0 or more")
    pictures = round(hold * fps)
    return dict.fromkeys(_events(run), pictures) if pictures else {}


def _note(picked: NDArray[np.int64], shown: NDArray[np.int64], pace: str | int | None) -> str:
    """What the viewer must know about time in this film."""
    if isinstance(pace, str) and pace != "every":
        return {"log": "time runs logarithmically", "equal change": "time runs by how much the weights move"}[pace]
    distinct = len(np.unique(shown))
    if distinct == len(np.unique(picked)):
        return "every recorded step" if len(picked) > 1 else ""
    return (
        f"every {ordinal(round(len(picked) / distinct))} recorded step"
        if len(picked) / distinct >= 1.5
        else f"{distinct} of {len(picked)} recorded steps"
    )


def _refuse_complex(run: Run, names: Sequence[str]) -> None:
    for name in names:
        if value_dtype(str(run.dtypes[name])).kind == "c":
            raise InvalidArgument(
                f"{name!r} holds {run.dtypes[name]} numbers, whose difference between two recordings has no place on a scale from - to +: "
                "choose other tensors with tensors=, or film each recording by itself"
            )


def _runs(shown: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Runs of the same frame: (first picture, how often it is repeated)."""
    starts = np.flatnonzero(np.concatenate([[True], np.diff(shown) != 0]))
    lengths = np.diff(np.append(starts, len(shown)))
    return [(int(s), int(n)) for s, n in zip(starts, lengths)]


def picture(
    run: Run,
    frame: int = -1,
    *,
    size: tuple[int, int] = (640, 360),
    tensors: str | Sequence[str] = "*",
    theme: str = "light",
    cmap: str = "RdBu_r",
    panels: Sequence[str] | None = None,
    scale: str = "tensor",
    title: str = "",
) -> NDArray[np.uint8]:
    """One moment as pixels, uint8 (height, width, 3): the thumbnail of a page, by the rules of the film."""
    from weightlapse.film.encode import rgb
    from weightlapse.film.surface import Surface

    run = polar(run)
    (index,) = check_frames(int(frame), len(run.steps))
    names = chosen(run, tensors, np.array([index]))
    order = Order(names, np.arange(int(index) + 1), size, check_scale(scale), panels, None, title, still=int(index))
    scene = compose(run, order)
    table = colours.table(theme, cmap)
    surface, scene.signs = Surface(size[0], size[1], table), colours.signs(table)
    (moment,) = moments(run, scene, np.array([index]))
    scene.draw(surface, moment)
    return rgb(surface)

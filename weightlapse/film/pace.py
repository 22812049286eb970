"""Which frame is shown when: every frame, a stride, more of the beginning, or time running by how much the weights move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument
from weightlapse.film.frames import sample, values_over
from weightlapse.recording.run import Run

Pace = Literal["every", "log", "equal change"]
PACES: tuple[str, ...] = get_args(Pace)
AUTOMATIC_MOST = 3600  # pictures in a film for which no pace was asked: two and a half minutes at 24 a second


def timeline(
    run: Run,
    names: Sequence[str],
    frames: NDArray[np.int64],
    *,
    pace: str | int | None,
    seconds: float | None,
    fps: float,
    holds: Mapping[int, int],
) -> NDArray[np.int64]:
    """The frame shown in each picture of the film, int64 (pictures,).

    ``pace`` None shows every frame, or every n-th where that would make more than 3600 pictures. ``holds``: frame -> how many
    more pictures it stays.
    """
    wanted = None if seconds is None else _pictures(seconds, fps)
    if isinstance(pace, (int, np.integer)) and not isinstance(pace, bool):
        if pace < 1:
            raise InvalidArgument(f"pace={pace} as a stride must be at least 1")
        frames, pace = _strided(frames, int(pace)), "every"
    if pace is not None and pace not in PACES:
        raise InvalidArgument(f"pace must be a stride or one of {', '.join(map(repr, PACES))}, not {pace!r}")
    if pace is None and wanted is None and len(frames) > AUTOMATIC_MOST:
        frames = _strided(frames, -(-len(frames) // AUTOMATIC_MOST))
    held = sum(pictures for frame, pictures in holds.items() if frames.min() <= frame <= frames.max())
    if wanted is not None:
        wanted = max(wanted - held, 1)
    shown = (
        frames if pace in (None, "every") and wanted is None else _spread(run, names, frames, pace or "every", wanted)
    )
    extra = np.ones(len(shown), dtype=np.int64)
    for frame, pictures in holds.items():
        at = first_at(shown, frame)
        if at is not None:
            extra[at] += pictures
    return np.repeat(shown, extra)


def first_at(shown: NDArray[np.int64], frame: int) -> int | None:
    """The picture that shows ``frame``, or, where it is left out, the first later one; None when it lies outside the film."""
    if not shown.min() <= frame <= shown.max():
        return None
    if _rising(shown):
        return int(np.searchsorted(shown, frame))
    same = np.flatnonzero(shown == frame)
    return int(same[0]) if len(same) else None


def _pictures(seconds: float, fps: float) -> int:
    if not (np.isfinite(seconds) and seconds > 0):
        raise InvalidArgument(f"seconds={seconds!r} must be a positive number")
    return max(round(seconds * fps), 1)


def _strided(frames: NDArray[np.int64], stride: int) -> NDArray[np.int64]:
    picked = frames[::stride]
    return picked if picked[-1] == frames[-1] else np.append(picked, frames[-1])


def _spread(
    run: Run, names: Sequence[str], frames: NDArray[np.int64], pace: str, wanted: int | None
) -> NDArray[np.int64]:
    """``wanted`` pictures over ``frames``, each frame's share of the film given by the pace."""
    count = wanted or min(len(frames), AUTOMATIC_MOST)
    if pace == "every":
        return frames[np.rint(np.linspace(0, len(frames) - 1, count)).astype(int)]
    if pace == "log":
        position = np.geomspace(1, len(frames), count) - 1
        shown = frames[np.rint(position).astype(int)]
        return np.unique(shown) if wanted is None and _rising(frames) else shown
    return frames[_by_change(run, names, frames, count)]


def _rising(frames: NDArray[np.int64]) -> bool:
    return bool((np.diff(frames) >= 0).all())


def _by_change(run: Run, names: Sequence[str], frames: NDArray[np.int64], count: int) -> NDArray[np.intp]:
    """Positions in ``frames`` at equal distances along the path of the weights (each tensor's steps relative to its size)."""
    looked = sample(np.arange(len(frames)), 2000)
    path = np.zeros(len(looked))
    before: dict[str, NDArray[np.generic]] = {}
    for i, values in enumerate(values_over(run, names, frames[looked])):
        for name, value in values.items():
            old = before.get(name)
            if old is not None and old.shape == value.shape:
                move = np.linalg.norm(np.nan_to_num(value.astype(np.float64) - old.astype(np.float64)))
                size = np.linalg.norm(np.nan_to_num(value.astype(np.float64)))
                path[i] += move / size if size > 0 else 0.0
        before = {name: np.array(value) for name, value in values.items()}
    travelled = np.cumsum(path)
    if travelled[-1] <= 0:
        raise InvalidArgument(
            "pace='equal change' needs weights that move, and none of the chosen tensors does; use another pace"
        )
    at = np.interp(np.linspace(0, travelled[-1], count), travelled, looked)
    return np.asarray(np.rint(at).astype(np.intp))

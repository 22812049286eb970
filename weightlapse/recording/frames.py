"""Which frames of a recording are meant: one type for every function that takes ``frames``, and one check of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument, MissingStep
from weightlapse.recording.run import Run

#: frames of a recording: a slice, a range, one number or several (a list, an array of integers); negative ones count from the end, None is all of them
Frames = slice | range | int | Sequence[int] | NDArray[Any] | None


def check_frames(frames: Frames, total: int) -> NDArray[np.int64]:
    """``frames`` of a recording with ``total`` as indices of 0 and more, in the order given, int64 (n,).

    Raises InvalidArgument for what is none of the forms, for an empty selection, and for a frame that does not exist, with the nearest that does.

    >>> check_frames(slice(None, None, 2), 5).tolist(), check_frames(-1, 5).tolist(), check_frames([0, 3], 5).tolist()
    ([0, 2, 4], [4], [0, 3])
    """
    if total == 0:
        raise InvalidArgument("the recording holds no frame yet, so there is nothing to choose from")
    if frames is None:
        return np.arange(total)
    if isinstance(frames, slice):
        try:
            picked = np.arange(total)[frames]
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"frames={frames}: {error}; a slice counts frames, 0 to {total - 1}") from None
        if not len(picked):
            raise InvalidArgument(f"frames={_said(frames)} selects none of the {total} frames, 0 to {total - 1}")
        return picked
    try:
        wanted = np.atleast_1d(np.asarray(frames))
    except ValueError:
        wanted = np.empty((0, 0))
    if wanted.shape == (0,):
        raise InvalidArgument(f"frames={frames!r} selects none of the {total} frames, 0 to {total - 1}")
    if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
        raise InvalidArgument(f"frames must be a slice, a range, an integer or a sequence of integers, not {frames!r}")
    wrong = wanted[(wanted < -total) | (wanted >= total)]
    if len(wrong):
        near = 0 if wrong[0] < 0 else total - 1
        raise InvalidArgument(
            f"frame {int(wrong[0])} does not exist: the recording has frames 0 to {total - 1}; the nearest is {near}"
        )
    return np.where(wanted < 0, wanted + total, wanted).astype(np.int64)


def rising_frames(frames: Frames, total: int) -> NDArray[np.int64]:
    """`check_frames` where each is to follow the one before. Raises InvalidArgument for an order that goes back in time, or a frame named twice."""
    picked = check_frames(frames, total)
    if (np.diff(picked) <= 0).any():
        raise InvalidArgument(
            f"frames={_said(frames)}: what is looked at here is a way through time, so each frame must come after the one before; give them rising"
        )
    return picked


def frame_of_step(run: Run, step: int) -> int:
    """The frame recorded at ``step``. Raises MissingStep, naming the nearest."""
    steps = np.asarray(run.steps)
    at = int(np.searchsorted(steps, step))
    if at < len(steps) and int(steps[at]) == step:
        return at
    near = ", ".join(str(int(s)) for s in steps[max(at - 1, 0) : at + 1])
    raise MissingStep(f"step {step} was not recorded; the nearest that were: {near}")


def _said(frames: Frames) -> str:
    if isinstance(frames, slice):
        return ":".join("" if n is None else str(n) for n in (frames.start, frames.stop, frames.step))
    return repr(frames)

"""The limit of the colour scale of every tensor: one for the whole film, so that a colour keeps its meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument
from weightlapse.picture.sample import limit
from weightlapse.progress import track
from weightlapse.recording.run import Run

Mode = Literal["tensor", "global", "step"]
MODES: tuple[str, ...] = get_args(Mode)


def check_scale(scale: str) -> str:
    """``scale`` itself; raises :class:`InvalidArgument` where it is none of the modes."""
    if scale not in MODES:
        raise InvalidArgument(f"scale must be one of {', '.join(map(repr, MODES))}, not {scale!r}")
    return scale


def over_frames(run: Run, names: Sequence[str], frames: NDArray[np.int64]) -> dict[str, float]:
    """Where the scale of each tensor ends over ``frames``, by the rule of `weightlapse.picture.limits`."""
    return {name: limit(run, name, frames) for name in track(names, "finding the colour scales")}

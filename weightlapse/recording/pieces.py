"""A recording as a flat list of arrays over time, for formats that know one layout alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.recording.names import piece_name
from weightlapse.recording.track import Track

if TYPE_CHECKING:
    from weightlapse.recording.recording import Recording

_CHUNK_NBYTES = 32 << 20  # about as much is held in memory while exporting


@dataclass(frozen=True)
class Piece:
    """One tensor over the frames ``[start, start + T)``. ``whole`` is False when it changes within the run; ``name`` says so, see ``names.py``."""

    track: Track
    start: int
    whole: bool

    @property
    def name(self) -> str:
        """The name it bears in a flat format: the tensor's own, with the first frame behind it where the tensor changes within the run."""
        return piece_name(self.track.name, None if self.whole else self.start)

    def chunks(self) -> Iterator[tuple[slice, NDArray[Any]]]:
        """The values piece by piece: (frames of the track, array), in bounded memory."""
        frame = max(1, int(np.prod(self.track.shape[1:])) * self.track.dtype.itemsize)
        stride = max(1, _CHUNK_NBYTES // frame)
        for first in range(0, len(self.track), stride):
            part = slice(first, min(first + stride, len(self.track)))
            yield part, self.track[part]


def pieces(run: Recording) -> list[Piece]:
    """Every tensor once; one that changes its shape or dtype, appears or goes, once per layout."""
    spans = [span for span in run.layouts if len(span)]
    found = []
    for name in run.names:
        kinds = {(e.spec(name).shape, e.spec(name).dtype) if name in e else None for e in spans}
        if len(kinds) == 1:
            found.append(Piece(run[name], 0, True))
        else:
            found += [Piece(e[name], e.start, False) for e in spans if name in e]
    return found

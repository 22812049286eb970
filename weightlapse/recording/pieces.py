"""A recording as a flat list of arrays over time, for formats that know no layout epochs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from weightlapse.recording.track import Track

if TYPE_CHECKING:
    from weightlapse.recording.recording import Recording

_CHUNK_NBYTES = 32 << 20  # about as much is held in memory while exporting


@dataclass(frozen=True)
class Piece:
    """One tensor over the frames ``[start, start + T)``. ``name`` has "@START" behind it when the tensor changes within the run."""

    name: str
    track: Track
    start: int

    def chunks(self) -> Iterator[tuple[slice, NDArray[Any]]]:
        """The values piece by piece: (frames of the track, array), in bounded memory."""
        frame = max(1, int(np.prod(self.track.shape[1:])) * self.track.dtype.itemsize)
        stride = max(1, _CHUNK_NBYTES // frame)
        for first in range(0, len(self.track), stride):
            part = slice(first, min(first + stride, len(self.track)))
            yield part, self.track[part]


def pieces(run: Recording) -> list[Piece]:
    """Every tensor once; one that changes its shape or dtype, appears or goes, once per epoch."""
    epochs = [epoch for epoch in run.epochs if len(epoch)]
    found = []
    for name in run.names:
        kinds = {(e.spec(name).shape, e.spec(name).dtype) if name in e else None for e in epochs}
        if len(kinds) == 1:
            found.append(Piece(name, run[name], 0))
        else:
            found += [Piece(f"{name}@{e.start}", e[name], e.start) for e in epochs if name in e]
    return found


def file_name(name: str) -> str:
    """A tensor's name as a name that any file system takes: no separators, no leading dot, at most 200 characters.

    >>> file_name("net/fc1.weight"), file_name("../x")
    ('net%2Ffc1.weight', '%2E.%2Fx')
    """
    quoted = quote(name, safe="@:+=,-_ ")
    if quoted.startswith("."):
        quoted = "%2E" + quoted[1:]
    if len(quoted) > 200:  # cut short, and told apart by a hash of the whole
        quoted = f"{quoted[:180]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return quoted

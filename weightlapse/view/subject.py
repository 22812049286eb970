"""One recording as the page sees it: tensors in pieces of constant shape, read one slab at a time."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument, UnknownTensor, closest
from weightlapse.film.grown import Lineage
from weightlapse.recording.polar import polar, whole
from weightlapse.recording.recording import Recording, load
from weightlapse.view.plane import Plane
from weightlapse.view.pyramid import scale_limit

SAMPLED_CELLS = 24_576  # cells of a tensor that stand for all of them in scales and sparklines
SAMPLED_BANDS = 4
SAMPLED_FRAMES = 48


@dataclass(frozen=True)
class Piece:
    """The frames ``start <= frame < stop`` in which a tensor keeps one shape; ``epoch`` is None for a run of one layout."""

    start: int
    stop: int
    shape: tuple[int, ...]
    epoch: int | None


class Subject:
    """A recording, opened for reading from several threads (one read at a time).

    ``run`` is anything with the face of a Recording; complex tensors become two, their magnitude and their phase. ``name`` is what the page calls it.
    """

    def __init__(self, run: Any, name: str) -> None:
        self.run = polar(run)
        self.name = name
        self.lock = threading.RLock()
        self._pieces: dict[str, list[Piece]] = {}
        self._known = (-1, -1)
        self._lineage: tuple[int, Lineage] | None = None

    def reopened(self, memory: int | None = None) -> Any:
        """The recording once more, for work so long that nobody should wait for its lock; ``memory`` bounds what it keeps unpacked.

        Where it cannot be opened again (a stand-in, an aligned run) it is the same one.
        """
        run = whole(self.run)
        if not isinstance(run, Recording):
            return run
        again = load(run.path)
        cache = getattr(again._store, "cache", None)  # recordings of several processes have one for each
        if memory is not None and cache is not None:
            cache.limit = memory
        return again

    @property
    def frames(self) -> int:
        return len(self.run.steps)

    def names(self) -> list[str]:
        """Every tensor of the recording, those of all layouts included, in the order of the network."""
        seen = dict.fromkeys(self.run.names)
        for epoch in self.run.epochs:
            seen.update(dict.fromkeys(epoch.names))
        return list(seen)

    def pieces(self, name: str) -> list[Piece]:
        """The stretches of frames in which ``name`` exists, in order; remembered until frames or layouts are added."""
        with self.lock:
            epochs = self.run.epochs
            if self._known != (self.frames, len(epochs)):
                self._known = (self.frames, len(epochs))
                self._pieces.clear()
            if name not in self._pieces:
                self._pieces[name] = self._find_pieces(name, list(epochs))
            return self._pieces[name]

    def _find_pieces(self, name: str, epochs: list[Any]) -> list[Piece]:
        if len(epochs) <= 1:
            if name not in self.run.shapes:
                raise UnknownTensor(
                    f"the recording {self.name} has no tensor {name!r}; {closest(name, self.run.names)}"
                )
            return [Piece(0, self.frames, tuple(self.run.shapes[name]), None)]
        found = []
        for number, epoch in enumerate(epochs):
            stop = self.frames if number == len(epochs) - 1 else epoch.stop
            if name in epoch.shapes and stop > epoch.start:
                found.append(Piece(epoch.start, stop, tuple(epoch.shapes[name]), number))
        if not found:
            raise UnknownTensor(f"the recording {self.name} has no tensor {name!r}; {closest(name, self.names())}")
        return found

    def piece(self, name: str, frame: int) -> Piece:
        """The piece that holds ``frame``; InvalidArgument where the tensor does not exist then."""
        for piece in self.pieces(name):
            if piece.start <= frame < piece.stop:
                return piece
        raise InvalidArgument(f"{name!r} does not exist at frame {frame} of {self.name}")

    def track(self, name: str, piece: Piece) -> Any:
        return self.run[name] if piece.epoch is None else self.run.epochs[piece.epoch][name]

    def lineage(self) -> Lineage:
        """Which unit came from which, for a network that grew in mid-run."""
        with self.lock:
            layouts = len(self.run.epochs)
            if self._lineage is None or self._lineage[0] != layouts:
                self._lineage = (layouts, Lineage(self.run))
            return self._lineage[1]

    def dtype(self, name: str) -> str:
        dtype = self.run.dtypes.get(name)
        if dtype is None:
            piece = self.pieces(name)[0]
            dtype = self.track(name, piece).dtype
        return dtype if isinstance(dtype, str) else np.dtype(dtype).name

    def picture(self, name: str, frame: int, rows: slice | None = None, cols: slice | None = None) -> NDArray[Any]:
        """The cells ``rows`` x ``cols`` (all by default) of one frame, in the tensor's own dtype."""
        piece = self.piece(name, frame)
        plane = Plane(piece.shape)
        with self.lock:
            return plane.read(
                self.track(name, piece), frame - piece.start, rows or slice(0, plane.rows), cols or slice(0, plane.cols)
            )

    def pictures(self, name: str, frames: range, rows: slice, cols: slice) -> NDArray[Any]:
        """The cells of several frames of one piece, (frames, rows, columns), in one read.

        The store unpacks forwards in time: whoever takes frames one by one, in turn with another reader, makes it begin anew each time.
        """
        piece = self.piece(name, frames.start)
        at = slice(frames.start - piece.start, frames[-1] + 1 - piece.start, frames.step)
        with self.lock:
            return Plane(piece.shape).read_many(self.track(name, piece), at, rows, cols)

    def trajectory(self, name: str, index: Sequence[int], start: int, stop: int, step: int = 1) -> NDArray[Any]:
        """One weight at the frames ``start:stop:step``, all within one piece."""
        piece = self.piece(name, start)
        if stop > piece.stop:
            raise InvalidArgument(
                f"{name!r} changes its shape at frame {piece.stop} of {self.name}; ask for each part by itself"
            )
        with self.lock:
            track = self.track(name, piece)
            return np.asarray(track[(slice(start - piece.start, stop - piece.start, step), *map(int, index))])

    def bound(self, name: str, frame: int) -> float:
        """Largest absolute error that the recording itself may have made in this tensor at this frame (0: exact)."""
        if self.run.tolerance is None:
            return 0.0
        with self.lock:
            return float(self.run.bound(name, frame))

    def sample(
        self, name: str, frames: int = SAMPLED_FRAMES
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """(frames, values of a few thousand cells at them) per piece: what scales and sparklines are made from.

        Bands of neighbouring cells are read rather than scattered ones, because the store keeps neighbours together.
        """
        pieces = [p for p in self.pieces(name) if math.prod(p.shape)]
        total = sum(p.stop - p.start for p in pieces)
        for piece in pieces:
            length = piece.stop - piece.start
            stride = max(1, math.ceil(total / frames))
            at = np.arange(0, length, stride)
            if at[-1] != length - 1:
                at = np.append(at, length - 1)
            with self.lock:
                track = self.track(name, piece)
                parts = [_strided(track, at, where) for where in bands(piece.shape)]
            yield at + piece.start, np.concatenate(parts, axis=1)

    def some(self, name: str, piece: Piece, frame: int) -> NDArray[Any]:
        """The cells of one frame that stand for the tensor in estimates, in its own dtype."""
        with self.lock:
            track = self.track(name, piece)
            return np.concatenate(
                [np.asarray(track[(frame - piece.start, *where)]).ravel() for where in bands(piece.shape)]
            )

    def updates(self, name: str, places: int = 8) -> NDArray[np.float64]:
        """What a few hundred cells moved by between neighbouring frames, at ``places`` places of the run."""
        found = [np.zeros(1)]
        for piece in self.pieces(name):
            length = piece.stop - piece.start
            if not math.prod(piece.shape):
                continue
            with self.lock:
                track = self.track(name, piece)
                where = bands(piece.shape)
                middle = where[len(where) // 2]
                for at in sorted({int(f) for f in np.linspace(0, max(0, length - 2), places)}):
                    pair = np.asarray(track[(slice(at, at + 2), *middle)], np.float64)
                    with np.errstate(invalid="ignore", over="ignore"):
                        found.append((pair[-1] - pair[0]).ravel())
        return np.concatenate(found)

    def limit(self, name: str) -> float:
        return scale_limit(np.concatenate([values.ravel() for _, values in self.sample(name)]))


def open_subjects(runs: Sequence[Any]) -> list[Subject]:
    """Recordings, or paths to them, as the viewer shows them; equal names get a number."""
    subjects: list[Subject] = []
    for run in runs:
        recording = load(run) if isinstance(run, str | Path) else run
        name = Path(str(recording.path)).name or "recording"
        taken = sum(s.name == name or s.name.startswith(f"{name} (") for s in subjects)
        subjects.append(Subject(recording, f"{name} ({taken + 1})" if taken else name))
    return subjects


def _strided(track: Any, frames: NDArray[np.int64], where: tuple[slice, ...]) -> NDArray[np.float64]:
    """``frames`` are evenly spaced but for the last: one strided read and one more frame."""
    stride = int(frames[1] - frames[0]) if len(frames) > 1 else 1
    even = len(frames) < 2 or bool((np.diff(frames) == stride).all())
    stop = int(frames[-1]) + 1 if even else int(frames[-2]) + 1
    values = [np.asarray(track[(slice(int(frames[0]), stop, stride), *where)], np.float64)]
    if not even:
        values.append(np.asarray(track[(slice(int(frames[-1]), int(frames[-1]) + 1), *where)], np.float64))
    return np.concatenate([v.reshape(v.shape[0], -1) for v in values])


def bands(shape: tuple[int, ...], cells: int = SAMPLED_CELLS) -> list[tuple[slice, ...]]:
    """Slices that hold at most ``cells`` cells of a tensor, spread over its first axis."""
    if math.prod(shape) <= cells:
        return [tuple(slice(0, n) for n in shape)]
    budget = cells // SAMPLED_BANDS
    tail = []
    for n in reversed(shape[1:]):  # innermost first: neighbours in memory
        take = min(n, max(1, budget))
        tail.append(slice(0, take))
        budget //= take
    height = min(shape[0], max(1, budget))
    starts = np.linspace(0, shape[0] - height, min(SAMPLED_BANDS, shape[0] // height)).astype(int)
    return [(slice(int(s), int(s) + height), *reversed(tail)) for s in starts]

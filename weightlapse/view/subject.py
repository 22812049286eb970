"""One recording as the page sees it: tensors in pieces of constant shape, read one slab at a time."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument, UnknownTensor, closest
from weightlapse.film.grown import Lineage
from weightlapse.picture.arrangement import Arrangement
from weightlapse.picture.compose import arrangement
from weightlapse.picture.kinds import Kind, kinds
from weightlapse.picture.limits import limit_over
from weightlapse.picture.sample import Piece, bands, pieces, sample
from weightlapse.picture.strips import Side, strips
from weightlapse.recording.kept import Curve, curves
from weightlapse.recording.polar import polar, whole
from weightlapse.recording.recording import Recording, load, opened
from weightlapse.recording.run import Run, TensorHistory

_AT_ONCE = 1 << 16  # values of a tensor up to which all its frames are read at once


class Subject:
    """A recording, opened for reading from several threads (one read at a time).

    ``run`` is anything with the face of a Recording; complex tensors become two, their magnitude and their phase. ``name`` is what the page calls it.
    """

    def __init__(self, run: Run, name: str) -> None:
        self.run = polar(run)
        self.name = name
        self.lock = threading.RLock()  # held while values are read
        self._known_lock = (
            threading.RLock()
        )  # of what is known without reading: nobody waits for a picture to learn a shape
        self._pieces: dict[str, list[Piece]] = {}
        self._kinds: dict[int | None, dict[str, Kind]] = {}
        self._arrangements: dict[tuple[str, tuple[int, ...], tuple[int, ...]], Arrangement] = {}
        self._known = (-1, -1)
        self._lineage: tuple[int, Lineage] | None = None
        self._curves: tuple[int, dict[str, Curve] | None] = (-1, None)  # of how many frames

    def reopened(self, memory: int | None = None) -> Run:
        """The recording once more, for work so long that nobody should wait for its lock; ``memory`` bounds what it keeps unpacked.

        Where it cannot be opened again (a stand-in, an aligned run) it is the same one.
        """
        run = whole(self.run)
        if not isinstance(run, Recording):
            return run
        again = load(run.path)
        if run.branch is not None:
            again = again.branches[run.branch]
        cache = getattr(again._store, "cache", None)  # recordings of several processes have one for each
        if memory is not None and cache is not None:
            cache.limit = memory
        return again

    def curves(self) -> dict[str, Curve] | None:
        """What the recording keeps of its tensors over time; None where it keeps nothing, or is seen in parts or in another order."""
        run = whole(self.run)
        if run is not self.run or not isinstance(run, Recording):
            return None
        with self.lock:
            if self._curves[0] != self.frames:
                self._curves = self.frames, curves(run._store)
            return self._curves[1]

    @property
    def frames(self) -> int:
        """How many frames there are now; rises while a recording that is being written is refreshed."""
        return len(self.run.steps)

    def names(self) -> list[str]:
        """Every tensor of the recording, those of all layouts included, in the order of the network."""
        seen = dict.fromkeys(self.run.names)
        for span in self.run.layouts:
            seen.update(dict.fromkeys(span.names))
        return list(seen)

    def pieces(self, name: str) -> list[Piece]:
        """The stretches of frames in which ``name`` exists, in order; remembered until frames or layouts are added."""
        with self._known_lock:
            spans = self.run.layouts
            if self._known != (self.frames, len(spans)):
                self._known = (self.frames, len(spans))
                self._pieces.clear()
            if name not in self._pieces:
                try:
                    self._pieces[name] = pieces(self.run, name)
                except UnknownTensor:
                    raise UnknownTensor(
                        f"the recording {self.name} has no tensor {name!r}; {closest(name, self.names())}"
                    ) from None
            return self._pieces[name]

    def piece(self, name: str, frame: int) -> Piece:
        """The piece that holds ``frame``; InvalidArgument where the tensor does not exist then."""
        for piece in self.pieces(name):
            if piece.start <= frame < piece.stop:
                return piece
        raise InvalidArgument(f"{name!r} does not exist at frame {frame} of {self.name}")

    def track(self, name: str, piece: Piece) -> TensorHistory:
        """The tensor over the frames of one piece alone, counted from its start; reading it is left to the caller, who holds ``lock``."""
        return piece.track(self.run, name)

    def kind(self, name: str, piece: Piece | None = None) -> Kind:
        """What the tensor is, from its name, its neighbours and the wiring."""
        piece = piece or self.pieces(name)[-1]
        with self._known_lock:
            if piece.span not in self._kinds:
                shapes = self.run.shapes if piece.span is None else self.run.layouts[piece.span].shapes
                self._kinds[piece.span] = kinds({n: tuple(s) for n, s in shapes.items()}, self.run.wiring)
            return self._kinds[piece.span][name]

    def strips_of(self) -> dict[str, tuple[str, Side]]:
        """Which vectors stand beside which tensor, by their shapes at the end."""
        shapes = {name: self.pieces(name)[-1].shape for name in self.names()}
        return strips(shapes, {name: self.kind(name) for name in shapes})

    def arrangement(self, name: str, piece: Piece, shape: tuple[int, ...] | None = None) -> Arrangement:
        """Where each weight is drawn; ``shape``: of a thinned copy, which is laid out in the same way."""
        wanted = piece.shape if shape is None else tuple(shape)
        key = (name, piece.shape, wanted)
        with self._known_lock:
            if key not in self._arrangements:
                self._arrangements[key] = arrangement(wanted, self.kind(name, piece))
            return self._arrangements[key]

    def lineage(self) -> Lineage:
        """Which unit came from which, for a network that grew in mid-run."""
        with self._known_lock:
            layouts = len(self.run.layouts)
            if self._lineage is None or self._lineage[0] != layouts:
                self._lineage = (layouts, Lineage(self.run))
            return self._lineage[1]

    def dtype(self, name: str) -> str:
        """The dtype as recorded; where the run names none, that of the arrays which it gives."""
        known = self.run.dtypes.get(name)
        return known if known is not None else self.track(name, self.pieces(name)[0]).dtype.name

    def picture(self, name: str, frame: int, rows: slice | None = None, cols: slice | None = None) -> NDArray[Any]:
        """The cells ``rows`` x ``cols`` (all by default) of one frame, in the tensor's own dtype."""
        piece = self.piece(name, frame)
        plane = self.arrangement(name, piece)
        with self.lock:
            return plane.read(
                self.track(name, piece), frame - piece.start, rows or slice(0, plane.rows), cols or slice(0, plane.cols)
            )

    def values(self, name: str, frame: int) -> NDArray[Any]:
        """The tensor at one frame, as it was stored."""
        piece = self.piece(name, frame)
        with self.lock:
            return np.asarray(self.track(name, piece)[frame - piece.start])

    def pictures(self, name: str, frames: range, rows: slice, cols: slice) -> NDArray[Any]:
        """The cells of several frames of one piece, (frames, rows, columns), in one read.

        The store unpacks forwards in time: whoever takes frames one by one, in turn with another reader, makes it begin anew each time.
        """
        piece = self.piece(name, frames.start)
        at = slice(frames.start - piece.start, frames[-1] + 1 - piece.start, frames.step)
        with self.lock:
            return self.arrangement(name, piece).read_many(self.track(name, piece), at, rows, cols)

    def stretches(self) -> list[int]:
        """The frames with which another stretch begins that the store has packed together: reading a part of one costs what precedes it there."""
        store = getattr(whole(self.run), "_store", None)
        segments = getattr(store, "segments", [])
        return sorted({segment.first + first for segment in segments for first in segment.bound_changes()} | {0})

    def strips(self, name: str, piece: Piece, cells: int) -> list[slice]:
        """The rows of a picture in parts of about so many cells, cut where the store cuts the tensor, so that nothing is unpacked twice."""
        plane = self.arrangement(name, piece)
        if not isinstance(whole(self.run), Recording):  # moved or made up: a part of it costs as much as all
            return [slice(0, plane.rows)]
        least = max(1, cells // max(1, plane.cols))
        edges = list(range(0, plane.rows, least))
        if [level.axis for level in (*plane.down, *plane.across)] == [0, 1]:
            store = getattr(whole(self.run), "_store", None)
            segment = next(
                (s for s in getattr(store, "segments", []) if s.first <= piece.start < s.first + s.count), None
            )
            known = getattr(segment, "edges", None)
            cuts = known(name) if known is not None else []
            ends = sorted({-(-cut // plane.cols) for cut in cuts} | {0})
            if len(ends) > 1:
                edges = [0]
                for here, after in zip(ends[1:], [*ends[2:], plane.rows], strict=True):
                    if after - edges[-1] > least and here > edges[-1]:
                        edges.append(here)
        return [slice(a, b) for a, b in zip(edges, [*edges[1:], plane.rows], strict=True)]

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

    def sample(self, name: str) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """(frames, values of a few thousand cells at them) per piece: what scales and sparklines are made from."""
        with self.lock:
            yield from list(sample(self.run, name, parts=self.pieces(name)))

    def updates(self, name: str, places: int = 8) -> NDArray[np.float64]:
        """What a few hundred cells moved by between neighbouring frames, at ``places`` places of the run."""
        found = [np.zeros(1)]
        for piece in self.pieces(name):
            length = piece.stop - piece.start
            if not math.prod(piece.shape):
                continue
            with self.lock:
                track = self.track(name, piece)
                parts = bands(piece.shape)
                band = parts[len(parts) // 2]
                small = length * math.prod(piece.shape) <= _AT_ONCE  # then one read costs less than the calls of many
                every = track[(slice(None), *band)] if small else None
                for at in sorted({int(f) for f in np.linspace(0, max(0, length - 2), places)}):
                    read = track[(slice(at, at + 2), *band)] if every is None else every[at : at + 2]
                    pair = np.asarray(read, np.float64)
                    with np.errstate(invalid="ignore", over="ignore"):
                        found.append((pair[-1] - pair[0]).ravel())
        return np.concatenate(found)

    def limit(self, name: str) -> float:
        """The end of the symmetric scale, in units of the weights, from a sample of all frames and pieces."""
        return limit_over([values for _, values in self.sample(name)])


def open_subjects(runs: Sequence[Run | str | os.PathLike[str]]) -> list[Subject]:
    """Recordings, or paths to them, as the viewer shows them; equal names get a number."""
    subjects: list[Subject] = []
    for run in runs:
        recording = opened(run)
        name = recording.name
        taken = sum(s.name == name or s.name.startswith(f"{name} (") for s in subjects)
        subjects.append(Subject(recording, f"{name} ({taken + 1})" if taken else name))
    return subjects

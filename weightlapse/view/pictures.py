"""Pictures of frames: exact, reduced, or in eight bits for playing, less another frame, with units in another order."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import weightlapse.view.extras as extras
from weightlapse.errors import InvalidArgument
from weightlapse.picture.codes import codes
from weightlapse.picture.limits import limit_of
from weightlapse.picture.reduce import MODES, reduce_to
from weightlapse.store.cache import Cache
from weightlapse.store.codecs.decode import compiled
from weightlapse.view.previews import Key, Make, Previews, Strip
from weightlapse.view.subject import Subject
from weightlapse.view.wire import BINARY, Cancel, Cancelled, Query, factors, little, message, number, scale_end, span

CLIP_FRAMES = 512  # most frames in one answer
CLIP_BYTES = 8_000_000  # an answer stops after this much, or after so long a time; the page asks for the rest
CLIP_SECONDS = 0.25
PATIENCE = 20.0  # seconds that a playing page waits for the previews of a large tensor
BAND_CELLS = 4_000_000  # a larger picture is read and reduced in bands of rows
BAND_ROWS = 64  # bands are as high as a multiple of this, where so many rows are not too large
BATCH_CELLS = 12_000_000  # cells that one read of several frames may bring
STRIP_VALUES = 12_000_000  # values that one read for previews may bring; of a large tensor twice as many, which are two parts and so work for two threads
CALM = 0.1  # seconds after an answer before previews are made
CACHE_BYTES = 128_000_000
PREVIEW_MEMORY = 64_000_000
PREVIEWED = 100_000  # cells from which on a tensor has previews: smaller ones are read faster than they are looked up


@dataclass(frozen=True)
class Look:
    """How a picture is asked for: tiles of (rows, columns), what a tile shows, the end of the scale (None: its own), a reference, an order of units."""

    factors: tuple[int, int] = (1, 1)
    mode: str = "typical"
    limit: float | None = None
    reference: str = ""
    order: str = ""

    @property
    def plain(self) -> bool:
        """Whether stored weights are drawn in their stored order on a scale that is given."""
        return not self.reference and not self.order and self.limit is not None

    def reduced(self, values: NDArray[Any]) -> tuple[NDArray[np.float32], float]:
        """The tiles of ``values``, and the end of their scale; one that a picture has to itself is that of its extremes."""
        if self.limit is not None:
            return reduce_to(values, *self.factors, self.mode, self.limit), self.limit
        if self.mode not in ("typical", "extreme"):
            tiles = reduce_to(values, *self.factors, self.mode)
            return tiles, limit_of(tiles)
        extreme = reduce_to(values, *self.factors, "extreme")
        own = limit_of(extreme)
        return (extreme if self.mode == "extreme" else reduce_to(values, *self.factors, self.mode, own)), own


def look(query: Query) -> Look:
    """The look that a question asks for."""
    mode = query.get("mode", "typical")
    if mode not in MODES:
        raise InvalidArgument(f"mode={mode!r} is none of {', '.join(MODES)}")
    limit = query.get("limit", "step")
    end = None if limit == "step" else scale_end(limit)
    return Look(factors(query), mode, end, query.get("ref", ""), query.get("order", ""))


class Pictures:
    """Draws frames of ``subjects``."""

    def __init__(self, subjects: list[Subject]) -> None:
        self.subjects = subjects
        self.cache = Cache(CACHE_BYTES)
        self.previews = Previews(self._busy)
        self._waiting = 0  # questions that read the recording now
        self._awaited = 0  # questions that wait for previews
        self._asked = 0.0  # when the last one was answered
        self._count = threading.Lock()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While somebody waits for values of the recording, no previews are made."""
        with self._count:
            self._waiting += 1
        try:
            yield
        finally:
            with self._count:
                self._waiting -= 1
                self._asked = time.monotonic()

    def _busy(self) -> bool:
        if self._awaited:  # a playing page: the previews are what is waited for
            return False
        return self._waiting > 0 or time.monotonic() - self._asked < CALM

    def subject(self, query: Query, key: str = "run") -> Subject:
        """The recording that a question is about, by its number under ``key``, 0 where none is given. Raises InvalidArgument for one that is not shown."""
        which = number(query, key, 0)
        if not 0 <= which < len(self.subjects):
            raise InvalidArgument(
                f"{key}={which}, but the viewer shows {len(self.subjects)} recordings, counted from 0"
            )
        return self.subjects[which]

    def frame(self, subject: Subject, query: Query) -> int:
        """The frame that a question is about, counted from 0. Raises InvalidArgument where it is not there, negative ones included."""
        frame = number(query, "frame")
        if not 0 <= frame < subject.frames:
            raise InvalidArgument(f"frame {frame} lies outside 0..{subject.frames - 1}")
        return frame

    def _cells(
        self, subject: Subject, name: str, frame: int, rows: slice, cols: slice, reference: str, order: str
    ) -> NDArray[Any]:
        """The cells in the order asked for, less the reference (None: as stored, in the tensor's own dtype)."""
        if order:
            down, across = extras.unit_order(subject, name, frame, order)
            whole = self._cells(subject, name, frame, slice(0, len(down)), slice(0, len(across)), reference, "")
            return whole[np.ix_(down[rows], across[cols])]
        values = subject.picture(name, frame, rows, cols)
        if not reference:
            return values
        other, at = self._reference(subject, name, frame, reference)
        against = other.picture(name, at, rows, cols)
        if against.shape != values.shape:
            raise InvalidArgument(f"{name!r} has another shape in the frame it is compared with")
        with np.errstate(invalid="ignore", over="ignore"):
            return (values.astype(np.float64) - against.astype(np.float64)).astype(np.float32)

    def _reference(self, subject: Subject, name: str, frame: int, reference: str) -> tuple[Subject, int]:
        """The frame that a difference refers to: ``first``, ``prev``, ``frame:N``, or ``run:K`` (the frame of nearest step)."""
        kind, _, which = reference.partition(":")
        piece = subject.piece(name, frame)
        if kind == "first":
            return subject, piece.start
        if kind == "prev":
            return subject, max(piece.start, frame - 1)
        if kind == "frame":
            at = number({"ref": which}, "ref")
            return subject, min(max(at, piece.start), piece.stop - 1)
        if kind == "run":
            other = self.subject({"run": which})
            return other, nearest(other.run.steps, int(subject.run.steps[frame]))
        raise InvalidArgument(f"ref={reference!r} is none of first, prev, frame:N, run:K")

    def _region(self, subject: Subject, query: Query, frame: int) -> tuple[str, slice, slice]:
        name = query.get("tensor", "")
        plane = subject.arrangement(name, subject.piece(name, frame))
        rows = span(query["r"], plane.rows, "r") if "r" in query else slice(0, plane.rows)
        cols = span(query["c"], plane.cols, "c") if "c" in query else slice(0, plane.cols)
        return name, rows, cols

    def plane(self, query: Query, cancel: Cancel) -> tuple[str, bytes]:
        """One frame: every value (``f=1,1``), or one number for each of its tiles."""
        subject = self.subject(query)
        frame = self.frame(subject, query)
        name, rows, cols = self._region(subject, query, frame)
        asked = look(query)
        header = {"frame": frame, "r": [rows.start, rows.stop], "c": [cols.start, cols.stop], "f": list(asked.factors)}
        if asked.factors == (1, 1):
            if (rows.stop - rows.start) * (cols.stop - cols.start) > 4 * BAND_CELLS:
                raise InvalidArgument("so large a picture comes reduced only: ask with f=2,2 or more")
            values = little(self._cells(subject, name, frame, rows, cols, asked.reference, asked.order))
            header |= {"dtype": values.dtype.name, "bound": subject.bound(name, frame)}
            return BINARY, message(header, values.tobytes())
        tiles, end = self._tiles(subject, name, frame, rows, cols, asked, cancel)
        return BINARY, message(header | {"dtype": "float32", "bound": None, "limit": end}, tiles.tobytes())

    def _tiles(
        self, subject: Subject, name: str, frame: int, rows: slice, cols: slice, asked: Look, cancel: Cancel
    ) -> tuple[NDArray[np.float32], float]:
        """(h, w) tiles of ``rows`` x ``cols`` and the end of their scale, read in bands so that memory stays bounded.

        An own scale is that of the extremes of all tiles, so it takes a second look at the bands.
        """
        if asked.limit is None and (rows.stop - rows.start) * (cols.stop - cols.start) > BAND_CELLS:
            extreme = "extreme" if asked.mode == "typical" else asked.mode
            bare = Look(asked.factors, extreme, 1.0, asked.reference, asked.order)
            first = self._tiles(subject, name, frame, rows, cols, bare, cancel)[0]
            end = limit_of(first)
            if asked.mode == extreme:
                return first, end
            return self._tiles(subject, name, frame, rows, cols, replace(asked, limit=end), cancel)
        fr = asked.factors[0]
        wide = max(1, cols.stop - cols.start)
        grain = max(fr, BAND_ROWS) if wide * BAND_ROWS <= BAND_CELLS else fr
        height = max(1, BAND_CELLS // (wide * grain)) * grain
        if asked.order:
            height = rows.stop - rows.start  # an order needs the whole tensor at once; it is refused for large ones
        bands, end = [], asked.limit or 1.0
        # cut at the same rows whatever the tiles, so that the finer picture finds what was read for the coarser
        cuts = (
            range(height * (rows.start // height + 1) + rows.start % fr, rows.stop, height) if not asked.order else ()
        )
        for band in (slice(a, b) for a, b in itertools.pairwise((rows.start, *cuts, rows.stop))):
            if cancel.is_set():
                raise Cancelled
            tiles, end = asked.reduced(self._band(subject, name, frame, band, cols, asked))
            bands.append(tiles)
        return (bands[0] if len(bands) == 1 else np.concatenate(bands)), end

    def _band(self, subject: Subject, name: str, frame: int, rows: slice, cols: slice, asked: Look) -> NDArray[Any]:
        """Some rows of cells. They are kept for a moment: after the picture in eight bits that of all digits is asked for."""
        key = (id(subject), name, frame, rows.start, rows.stop, cols.start, cols.stop, asked.reference, asked.order)
        return self.cache.get_apart(
            key, lambda: self._cells(subject, name, frame, rows, cols, asked.reference, asked.order)
        )

    def clip(self, query: Query, cancel: Cancel) -> tuple[str, bytes]:
        """Consecutive frames in eight bits at display resolution: what a playing page needs.

        ``limit`` is the end of the colour scale, or ``step`` for one per frame. The answer may hold fewer frames than asked for.
        """
        subject = self.subject(query)
        try:
            start, stop, step = (int(part) for part in query.get("frames", "").split(":"))
        except ValueError:
            raise InvalidArgument(f"frames={query.get('frames')!r} is not of the form 'start:stop:step'") from None
        if not (0 <= start < stop <= subject.frames and step >= 1):
            raise InvalidArgument(f"frames={query['frames']!r} lies outside 0:{subject.frames}")
        asked = look(query)
        name, rows, cols = self._region(subject, query, start)
        frames = range(start, min(stop, subject.piece(name, start).stop), step)
        shown: list[int] = []
        pictures: list[bytes] = []
        limits: list[float] = []
        with (
            self.reading() if len(frames) == 1 else nullcontext()
        ):  # somebody has jumped: the previews that are begun for it wait
            for frame, picture, end in self._playing(subject, name, frames, rows, cols, asked, cancel):
                shown.append(frame)
                limits.append(end)
                pictures.append(picture.tobytes())
                if len(shown) >= CLIP_FRAMES or len(shown) * picture.size >= CLIP_BYTES:
                    break
        height, width = (-(-(s.stop - s.start) // f) for s, f in zip((rows, cols), asked.factors, strict=True))
        about = {"r": [rows.start, rows.stop], "c": [cols.start, cols.stop], "f": list(asked.factors)}
        header = {"frames": shown, "limits": limits, "h": height, "w": width, **about}
        return BINARY, message(header, b"".join(pictures))

    def _playing(
        self, subject: Subject, name: str, frames: range, rows: slice, cols: slice, asked: Look, cancel: Cancel
    ) -> Iterator[tuple[int, NDArray[np.uint8], float]]:
        """(frame, codes, end of the scale) one after the other: those that are made already, the others several at a time where they are not too large."""
        key = self._previewed(subject, name, frames, rows, cols, asked)

        def ready(frame: int) -> tuple[NDArray[np.uint8], bool] | None:
            return None if key is None else self.previews.get(key, frame)

        fr = asked.factors[0]
        cells = (rows.stop - rows.start) * (cols.stop - cols.start)
        simple = not asked.order and cells <= BAND_CELLS and asked.reference in ("", "first", "prev")
        together = max(1, BATCH_CELLS // max(1, cells)) if simple else 1
        asked_at = time.monotonic()
        for begin in range(0, len(frames), together):
            if begin and time.monotonic() - asked_at > CLIP_SECONDS:
                return
            batch = frames[begin : begin + together]
            if len(frames) > 1 and key is not None:
                self._wait(key, batch.start, cancel)
            made = [ready(frame) for frame in batch]
            if all(found is not None and found[1] for found in made):
                for frame, found in zip(batch, made, strict=True):
                    yield frame, found[0], asked.limit or 1.0  # type: ignore[index]
                continue
            if cancel.is_set():
                raise Cancelled
            with self.reading():
                if simple:
                    values = self._batch(subject, name, batch, rows, cols, asked.reference)
                    drawn = [asked.reduced(one) for one in values]
                else:
                    upper = made[0][0] if made[0] is not None else np.empty((0, 0), np.uint8)
                    rest = slice(rows.start + len(upper) * fr, rows.stop)
                    drawn = [self._tiles(subject, name, batch.start, rest, cols, asked, cancel)]
            for frame, (tiles, end) in zip(batch, drawn, strict=True):
                picture = codes(tiles, end)
                if not simple and len(upper):
                    picture = np.concatenate([upper, picture])
                yield frame, picture, end

    def _batch(
        self, subject: Subject, name: str, batch: range, rows: slice, cols: slice, reference: str
    ) -> NDArray[Any]:
        if not reference:
            return subject.pictures(name, batch, rows, cols)
        first = subject.piece(name, batch.start).start
        if reference == "prev":  # the frame before each, in the same read
            begin = max(first, batch.start - 1)
            run = subject.pictures(name, range(begin, batch[-1] + 1), rows, cols).astype(np.float64)
            now = np.array([frame - begin for frame in batch])
            with np.errstate(invalid="ignore", over="ignore"):
                return (run[now] - run[np.maximum(now - 1, 0)]).astype(np.float32)
        key = (id(subject), name, "first", first, rows.start, rows.stop, cols.start, cols.stop)
        origin = self.cache.get_apart(key, lambda: subject.picture(name, first, rows, cols).astype(np.float64))
        with np.errstate(invalid="ignore", over="ignore"):
            return (subject.pictures(name, batch, rows, cols) - origin).astype(np.float32)

    # -- made beforehand -----------------------------------------------------------------------------------------------

    def _previewed(
        self, subject: Subject, name: str, frames: range, rows: slice, cols: slice, asked: Look
    ) -> Key | None:
        """Under which name such pictures are kept that are made already; the others are made from now on, as far as memory allows. None: of these none are."""
        piece = subject.piece(name, frames.start)
        plane = subject.arrangement(name, piece)
        cells = plane.rows * plane.cols
        if not asked.plain or (rows, cols) != (slice(0, plane.rows), slice(0, plane.cols)) or cells < PREVIEWED:
            return None
        size = (-(-plane.rows // asked.factors[0]), -(-plane.cols // asked.factors[1]))
        if size[0] * size[1] > BAND_CELLS:
            return None
        until = (
            piece.stop if subject.run.closed else piece.stop.bit_length()
        )  # while it grows they are made anew now and then
        key: Key = (id(subject), name, piece.start, until, asked)
        starts = sorted({*(f for f in subject.stretches() if piece.start < f < piece.stop), piece.start})
        parts = [range(a, b) for a, b in itertools.pairwise([*starts, piece.stop])]

        def opened() -> Make:
            own = Subject(subject.reopened(PREVIEW_MEMORY), subject.name)
            compiled(cells * (piece.stop - piece.start))
            return lambda stretch: _strips(own, name, stretch, asked)

        self.previews.want(key, frames.start, parts, size, opened)
        return key

    def _wait(self, key: Key, frame: int, cancel: Cancel) -> None:
        """Until the picture is made, where it is being made: all frames of a stretch take little longer than a few by themselves."""
        until = time.monotonic() + PATIENCE
        with self._count:
            self._awaited += 1
        try:
            while self.previews.coming(key, frame) and time.monotonic() < until:
                found = self.previews.get(key, frame)
                if found is not None and found[1]:
                    return
                if cancel.is_set():
                    raise Cancelled
                time.sleep(0.01)
        finally:
            with self._count:
                self._awaited -= 1


def _strips(own: Subject, name: str, frames: range, asked: Look) -> Iterator[Strip]:
    """The pictures of ``frames``, some rows of all of them at a time, from the top."""
    piece = own.piece(name, frames.start)
    plane = own.arrangement(name, piece)
    fr = asked.factors[0]
    left: NDArray[Any] | None = None  # rows of a tile that is not whole yet
    large = plane.rows * plane.cols > BAND_CELLS
    for rows in own.strips(name, piece, (2 if large else 1) * STRIP_VALUES // len(frames)):
        values = own.pictures(name, frames, rows, slice(0, plane.cols))
        first = 0 if left is None else min(fr - left.shape[1], values.shape[1])  # rows that this tile still needs
        tiles: list[Strip] = []
        if left is not None:
            left = np.concatenate([left, values[:, :first]], axis=1)
            if left.shape[1] == fr or rows.stop == plane.rows:
                tiles, left = [_drawn(left, asked)], None
        if left is None:
            rest = (values.shape[1] - first) % fr if rows.stop < plane.rows else 0
            last = values.shape[1] - rest
            if first < last:
                tiles.append(_drawn(values[:, first:last], asked))
            left = values[:, last:].copy() if rest else None
        if tiles:
            yield tiles[0] if len(tiles) == 1 else np.concatenate(tiles, axis=1)


def _drawn(values: NDArray[Any], asked: Look) -> NDArray[np.uint8]:
    """Codes of the tiles of several frames (frames, rows, columns), one after the other: what is worked on stays in the processor's cache."""
    return np.stack([codes(*asked.reduced(one)) for one in values])


def nearest(steps: NDArray[np.int64], step: int) -> int:
    """The frame whose step is nearest to ``step``."""
    after = int(np.searchsorted(steps, step))
    if after == 0 or (after < len(steps) and steps[after] - step < step - steps[after - 1]):
        return after
    return after - 1

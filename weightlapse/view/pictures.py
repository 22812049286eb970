"""Pictures of frames: exact, reduced, or in eight bits for playing, less another frame, with units in another order."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import weightlapse.view.extras as extras
from weightlapse.errors import InvalidArgument
from weightlapse.picture.codes import codes
from weightlapse.picture.reduce import MODES, pool, reduce_to
from weightlapse.picture.scale import limit_of
from weightlapse.view.previews import Previews
from weightlapse.view.subject import Subject
from weightlapse.view.wire import BINARY, Cancel, Cancelled, Query, factors, little, message, number, scale_end, span

CLIP_FRAMES = 512  # most frames in one answer
CLIP_BYTES = 8_000_000  # an answer stops after this much; the page asks for the rest
BAND_CELLS = 4_000_000  # a larger picture is read and reduced in bands of rows
BATCH_CELLS = 12_000_000  # cells that one read of several frames may bring
CACHE_BYTES = 96_000_000
PREVIEW_MEMORY = 64_000_000


class _Cache:
    """The pyramids of the frames looked at last, within a budget of bytes."""

    def __init__(self, nbytes: int) -> None:
        self.budget, self.used = nbytes, 0
        self.kept: OrderedDict[Any, NDArray[Any]] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, key: Any, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        with self.lock:
            if key in self.kept:
                self.kept.move_to_end(key)
                return self.kept[key]
        value = make()
        with self.lock:
            if key not in self.kept and value.nbytes <= self.budget // 2:
                self.kept[key] = value
                self.used += value.nbytes
                while self.used > self.budget:
                    self.used -= self.kept.popitem(last=False)[1].nbytes
        return value


class Pictures:
    """Draws frames of ``subjects``. ``busy`` tells when a question was last asked: previews are made in between."""

    def __init__(self, subjects: list[Subject], busy: Callable[[], float]) -> None:
        self.subjects = subjects
        self.cache = _Cache(CACHE_BYTES)
        self.previews = Previews(busy)

    def subject(self, query: Query, key: str = "run") -> Subject:
        which = number(query, key, 0)
        if not 0 <= which < len(self.subjects):
            raise InvalidArgument(
                f"{key}={which}, but the viewer shows {len(self.subjects)} recordings, counted from 0"
            )
        return self.subjects[which]

    def frame(self, subject: Subject, query: Query) -> int:
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
        plane = subject.layout(name, subject.piece(name, frame))
        rows = span(query["r"], plane.rows, "r") if "r" in query else slice(0, plane.rows)
        cols = span(query["c"], plane.cols, "c") if "c" in query else slice(0, plane.cols)
        return name, rows, cols

    def plane(self, query: Query, cancel: Cancel) -> tuple[str, bytes]:
        """One frame exactly (``f=1,1``), or its tiles by min, mean and max."""
        subject = self.subject(query)
        frame = self.frame(subject, query)
        name, rows, cols = self._region(subject, query, frame)
        fr, fc = factors(query)
        reference, order = query.get("ref", ""), query.get("order", "")
        header = {"frame": frame, "r": [rows.start, rows.stop], "c": [cols.start, cols.stop], "f": [fr, fc]}
        if fr == fc == 1:
            if (rows.stop - rows.start) * (cols.stop - cols.start) > 4 * BAND_CELLS:
                raise InvalidArgument("so large a picture comes reduced only: ask with f=2,2 or more")
            values = little(self._cells(subject, name, frame, rows, cols, reference, order))
            header |= {"dtype": values.dtype.name, "bound": subject.bound(name, frame)}
            return BINARY, message(header, values.tobytes())
        three = self._tiles(subject, name, frame, rows, cols, fr, fc, reference, order, cancel)
        return BINARY, message(header | {"dtype": "float32", "bound": None}, three.tobytes())

    def _tiles(
        self,
        subject: Subject,
        name: str,
        frame: int,
        rows: slice,
        cols: slice,
        fr: int,
        fc: int,
        reference: str,
        order: str,
        cancel: Cancel,
    ) -> NDArray[np.float32]:
        """(3, h, w): min, mean, max of the tiles of ``rows`` x ``cols``, read in bands so that memory stays bounded."""

        def make() -> NDArray[np.float32]:
            width = cols.stop - cols.start
            height = max(1, BAND_CELLS // max(1, width * fr)) * fr
            if order:
                height = rows.stop - rows.start
            bands = []
            for top in range(rows.start, rows.stop, height):
                if cancel.is_set():
                    raise Cancelled
                band = slice(top, min(top + height, rows.stop))
                tiles = pool(self._cells(subject, name, frame, band, cols, reference, order), fr, fc)
                bands.append(np.stack([tiles.low, tiles.mean(), tiles.high]))
            return np.concatenate(bands, axis=1)

        key = (id(subject), name, frame, rows.start, rows.stop, cols.start, cols.stop, fr, fc, reference, order)
        return self.cache.get(key, make)

    def _playing(
        self,
        subject: Subject,
        name: str,
        frames: range,
        rows: slice,
        cols: slice,
        factors: tuple[int, int],
        mode: str,
        reference: str,
        order: str,
        cancel: Cancel,
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(frame, reduced picture) one after the other; frames of moderate size are read several at a time."""
        cells = (rows.stop - rows.start) * (cols.stop - cols.start)
        together = max(1, BATCH_CELLS // max(1, cells))
        if order or cells > BAND_CELLS or reference not in ("", "first", "prev"):
            for frame in frames:
                yield frame, self._reduced(subject, name, frame, rows, cols, factors, mode, reference, order, cancel)
            return
        for begin in range(0, len(frames), together):
            if cancel.is_set():
                raise Cancelled
            batch = frames[begin : begin + together]
            for frame, values in zip(batch, self._batch(subject, name, batch, rows, cols, reference), strict=True):
                yield frame, reduce_to(values, *factors, mode)

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
        origin = self.cache.get(key, lambda: subject.picture(name, first, rows, cols).astype(np.float64))
        with np.errstate(invalid="ignore", over="ignore"):
            return (subject.pictures(name, batch, rows, cols) - origin).astype(np.float32)

    def _reduced(
        self,
        subject: Subject,
        name: str,
        frame: int,
        rows: slice,
        cols: slice,
        factors: tuple[int, int],
        mode: str,
        reference: str,
        order: str,
        cancel: Cancel,
    ) -> NDArray[np.float32]:
        """One number per tile, read in bands of rows so that memory stays bounded."""
        height = max(1, BAND_CELLS // max(1, (cols.stop - cols.start) * factors[0])) * factors[0]
        if order:
            height = rows.stop - rows.start  # an order needs the whole tensor at once; it is refused for large ones
        bands = []
        for top in range(rows.start, rows.stop, height):
            if cancel.is_set():
                raise Cancelled
            band = slice(top, min(top + height, rows.stop))
            bands.append(reduce_to(self._cells(subject, name, frame, band, cols, reference, order), *factors, mode))
        return bands[0] if len(bands) == 1 else np.concatenate(bands)

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
        mode = query.get("mode", "extreme")
        if mode not in MODES:
            raise InvalidArgument(f"mode={mode!r} is none of {', '.join(MODES)}")
        fr, fc = factors(query)
        name, rows, cols = self._region(subject, query, start)
        stop = min(stop, subject.piece(name, start).stop)
        limit = query.get("limit", "step")
        reference, order = query.get("ref", ""), query.get("order", "")
        whole = subject.layout(name, subject.piece(name, start))
        about = {"r": [rows.start, rows.stop], "c": [cols.start, cols.stop], "f": [fr, fc]}
        simple = not reference and not order and limit != "step" and (rows.stop, cols.stop) == (whole.rows, whole.cols)
        if stop - start == 1 and simple and fr * fc > 1 and rows.start == cols.start == 0:
            ready = self._preview(subject, name, start, fr, fc, mode, scale_end(limit))
            if ready is not None:
                size = {"h": -(-whole.rows // fr), "w": -(-whole.cols // fc)}
                return BINARY, message({"frames": [start], "limits": [scale_end(limit)], **size, **about}, ready)
        pictures: list[bytes] = []
        frames: list[int] = []
        limits: list[float] = []
        for frame, reduced in self._playing(
            subject, name, range(start, stop, step), rows, cols, (fr, fc), mode, reference, order, cancel
        ):
            end = limit_of(reduced) if limit == "step" else scale_end(limit)
            picture = codes(reduced, end)
            pictures.append(picture.tobytes())
            frames.append(frame)
            limits.append(end)
            if len(frames) >= CLIP_FRAMES or len(frames) * picture.size >= CLIP_BYTES:
                break
        header = {
            "frames": frames,
            "limits": limits,
            "h": int(picture.shape[0]),
            "w": int(picture.shape[1]),
            **about,
        }
        return BINARY, message(header, b"".join(pictures))

    def _preview(
        self, subject: Subject, name: str, frame: int, fr: int, fc: int, mode: str, limit: float
    ) -> bytes | None:
        """A picture made beforehand, or None; either way the others are made from now on, as far as memory allows."""
        key = (id(subject), name, fr, fc, mode, limit)
        piece = subject.piece(name, frame)

        def open_pictures() -> Callable[[int], bytes]:
            own = Subject(subject.reopened(PREVIEW_MEMORY), subject.name)
            never = threading.Event()

            def picture(number: int) -> bytes:
                at = own.piece(name, number)
                if at.shape != piece.shape:
                    return b""
                plane = own.layout(name, at)
                whole = (slice(0, plane.rows), slice(0, plane.cols))
                return codes(self._reduced(own, name, number, *whole, (fr, fc), mode, "", "", never), limit).tobytes()

            return picture

        ready = self.previews.get(key, frame)
        if len(subject.pieces(name)) == 1:
            self.previews.want(key, open_pictures, subject.frames)
        return ready or None


def nearest(steps: NDArray[np.int64], step: int) -> int:
    """The frame whose step is nearest to ``step``."""
    after = int(np.searchsorted(steps, step))
    if after == 0 or (after < len(steps) and steps[after] - step < step - steps[after - 1]):
        return after
    return after - 1

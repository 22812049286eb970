"""Every question that the page can ask, answered from the recordings: the same over HTTP and in a notebook.

A question is a word and a flat mapping of strings; an answer is bytes. ``Answers.reply`` knows all words. Nothing here reads more
of a recording than the question needs, and long answers look at ``cancel`` between frames, so that a closed page stops the work.

Arrays travel in a small frame of their own: the length of a JSON header (uint32, little endian), the header padded to a multiple
of eight, and the raw little-endian values.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument, UnknownTensor
from weightlapse.view import extras
from weightlapse.view.aligned import pair
from weightlapse.view.manifest import additions, manifest, numbers
from weightlapse.view.plane import Plane
from weightlapse.view.previews import Previews
from weightlapse.view.pyramid import MODES, codes, pool, reduce_to, scale_limit
from weightlapse.view.subject import Subject

JSON, BINARY = "application/json", "application/octet-stream"
CLIP_FRAMES = 512  # most frames in one answer
CLIP_BYTES = 8_000_000  # an answer stops after this much; the page asks for the rest
BAND_CELLS = 4_000_000  # a larger picture is read and reduced in bands of rows
CACHE_BYTES = 96_000_000
PREVIEW_MEMORY = 64_000_000


class Cancel(Protocol):
    def is_set(self) -> bool: ...


class Cancelled(Exception):
    """The page no longer wants the answer."""


def message(header: Mapping[str, Any], payload: bytes) -> bytes:
    head = json.dumps(header, allow_nan=False).encode()
    head += b" " * (-(len(head) + 4) % 8)
    return len(head).to_bytes(4, "little") + head + payload


def _little(array: NDArray[Any]) -> NDArray[Any]:
    """In a form that a browser has an array type for, without loss: little endian, half floats widened, booleans as bytes."""
    if array.dtype.kind not in "fiub":
        raise InvalidArgument(f"values of type {array.dtype} cannot be drawn")
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8)
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def _span(text: str, most: int, what: str) -> slice:
    """``"a:b"`` as a slice within 0..most."""
    try:
        start, stop = (int(part) for part in text.split(":"))
    except ValueError:
        raise InvalidArgument(f"{what}={text!r} is not of the form 'start:stop'") from None
    if not 0 <= start < stop <= most:
        raise InvalidArgument(f"{what}={text!r} lies outside 0:{most}")
    return slice(start, stop)


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


class Answers:
    """Answers questions about ``subjects``; safe to ask from several threads."""

    def __init__(self, subjects: list[Subject]) -> None:
        self.subjects = subjects
        self.cache = _Cache(CACHE_BYTES)
        self._asked = time.monotonic()
        self.previews = Previews(lambda: self._asked)
        self._pairing = threading.Lock()
        self._paired: dict[str, Any] | None = None
        self.words: dict[str, Callable[[Mapping[str, str], Cancel], tuple[str, bytes]]] = {
            "manifest": self._manifest,
            "live": self._live,
            "stats": self._stats,
            "plane": self._plane,
            "clip": self._clip,
            "series": self._series,
            "order": self._order,
            "curve": self._curve,
            "neuron": self._neuron,
            "findings": self._findings,
            "pair": self._pair,
        }

    def reply(self, word: str, query: Mapping[str, str], cancel: Cancel | None = None) -> tuple[str, bytes]:
        """The answer to ``word`` as (media type, bytes); InvalidArgument or UnknownTensor for questions without one."""
        if word not in self.words:
            raise UnknownTensor(f"the viewer knows no question {word!r}")
        self._asked = time.monotonic()
        try:
            return self.words[word](query, cancel or threading.Event())
        finally:
            self._asked = time.monotonic()

    # -- what every question names ------------------------------------------------------------------------------------
    def _number(self, query: Mapping[str, str], key: str, default: int | None = None) -> int:
        text = query.get(key)
        if text is None and default is not None:
            return default
        try:
            return int(text or "")
        except ValueError:
            raise InvalidArgument(f"{key}={text!r} is not a whole number") from None

    def _subject(self, query: Mapping[str, str], key: str = "run") -> Subject:
        number = self._number(query, key, 0)
        if not 0 <= number < len(self.subjects):
            raise InvalidArgument(
                f"{key}={number}, but the viewer shows {len(self.subjects)} recordings, counted from 0"
            )
        return self.subjects[number]

    def _frame(self, subject: Subject, query: Mapping[str, str]) -> int:
        frame = self._number(query, "frame")
        if not 0 <= frame < subject.frames:
            raise InvalidArgument(f"frame {frame} lies outside 0..{subject.frames - 1}")
        return frame

    def _factors(self, query: Mapping[str, str]) -> tuple[int, int]:
        try:
            fr, fc = (int(part) for part in query.get("f", "1,1").split(","))
        except ValueError:
            raise InvalidArgument(f"f={query.get('f')!r} is not of the form 'rows,columns'") from None
        for factor in (fr, fc):
            if factor < 1 or factor & (factor - 1) or factor > 1 << 24:
                raise InvalidArgument(f"a picture is reduced by powers of two, not by {factor}")
        return fr, fc

    # -- descriptions -------------------------------------------------------------------------------------------------
    def _json(self, value: Any) -> tuple[str, bytes]:
        return JSON, json.dumps(value, allow_nan=False).encode()

    def _manifest(self, query: Mapping[str, str], cancel: Cancel) -> tuple[str, bytes]:
        return self._json({"version": 1, "source": "live", "runs": [manifest(s) for s in self.subjects]})

    def _live(self, query: Mapping[str, str], cancel: Cancel) -> tuple[str, bytes]:
        subject = self._subject(query)
        with subject.lock:
            subject.run.refresh()
            layouts = len(list(subject.run.epochs))
        if layouts != self._number(query, "epochs", layouts):
            return self._json({"manifest": manifest(subject)})
        return self._json(additions(subject, max(0, min(self._number(query, "since"), subject.frames))))

    def _stats(self, query: Mapping[str, str], cancel: Cancel) -> tuple[str, bytes]:
        """Where the colour scale of a tensor ends, and its root mean square over time, from a sample of its cells."""
        subject, name = self._subject(query), query.get("tensor", "")
        frames: list[int] = []
        rms: list[float | None] = []
        pieces = []
        for at, values in subject.sample(name):
            pieces.append(values)
            frames += at.tolist()
            with np.errstate(all="ignore"):
                rms += numbers(np.sqrt(np.mean(values**2, axis=1)))
        if not pieces:  # a tensor without cells
            return self._json({"limit": 1.0, "moved": 1.0, "stirred": 1.0, "frames": [], "rms": []})
        limit = scale_limit(np.concatenate([v.ravel() for v in pieces]))
        with np.errstate(all="ignore"):
            moved = scale_limit(np.concatenate([(v - v[0]).ravel() for v in pieces]))
        stirred = scale_limit(subject.updates(name))
        return self._json({"limit": limit, "moved": moved, "stirred": stirred, "frames": frames, "rms": rms})

    # -- pictures -----------------------------------------------------------------------------------------------------
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
        kind, _, number = reference.partition(":")
        piece = subject.piece(name, frame)
        if kind == "first":
            return subject, piece.start
        if kind == "prev":
            return subject, max(piece.start, frame - 1)
        if kind == "frame":
            at = self._number({"ref": number}, "ref")
            return subject, min(max(at, piece.start), piece.stop - 1)
        if kind == "run":
            other = self._subject({"run": number})
            return other, nearest(other.run.steps, int(subject.run.steps[frame]))
        raise InvalidArgument(f"ref={reference!r} is none of first, prev, frame:N, run:K")

    def _region(self, subject: Subject, query: Mapping[str, str], frame: int) -> tuple[str, slice, slice]:
        name = query.get("tensor", "")
        plane = Plane(subject.piece(name, frame).shape)
        rows = _span(query["r"], plane.rows, "r") if "r" in query else slice(0, plane.rows)
        cols = _span(query["c"], plane.cols, "c") if "c" in query else slice(0, plane.cols)
        return name, rows, cols

    def _plane(self, query: Mapping[str, str], cancel: Cancel) -> tuple[str, bytes]:
        """One frame exactly (``f=1,1``), or its tiles by min, mean and max."""
        subject = self._subject(query)
        frame = self._frame(subject, query)
        name, rows, cols = self._region(subject, query, frame)
        fr, fc = self._factors(query)
        reference, order = query.get("ref", ""), query.get("order", "")
        header = {"frame": frame, "r": [rows.start, rows.stop], "c": [cols.start, cols.stop], "f": [fr, fc]}
        if fr == fc == 1:
            if (rows.stop - rows.start) * (cols.stop - cols.start) > 4 * BAND_CELLS:
                raise InvalidArgument("so large a picture comes reduced only: ask with f=2,2 or more")
            values = _little(self._cells(subject, name, frame, rows, cols, reference, order))
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

    def _clip(self, query: Mapping[str, str], cancel: Cancel) -> tuple[str, bytes]:
        """Consecutive frames in eight bits at display resolution: what a playing page needs.

        ``limit`` is the end of the colour scale, or ``step`` for one per frame. The answer may hold fewer frames than asked for.
        """
        subject = self._subject(query)
        try:
            start, stop, step = (int(part) for part in query.get("frames", "").split(":"))
        except ValueError:
            raise InvalidArgument(f"frames={query.get('frames')!r} is not of the form 'start:stop:step'") from None
        if not (0 <= start < stop <= subject.frames and step >= 1):
            raise InvalidArgument(f"frames={query['frames']!r} lies outside 0:{subject.frames}")
        mode = query.get("mode", "extreme")
        if mode not in MODES:
            raise InvalidArgument(f"mode={mode!r} is none of {', '.join(MODES)}")
        fr, fc = self._factors(query)
        name, rows, cols = self._region(subject, query, start)
        stop = min(stop, subject.piece(name, start).stop)
        limit = query.get("limit", "step")
        reference, order = query.get("ref", ""), query.get("order", "")
        whole = Plane(subject.piece(name, start).shape)
        about = {"r": [rows.start, rows.stop], "c": [cols.start, cols.stop], "f": [fr, fc]}
        simple = not reference and not order and limit != "step" and (rows.stop, cols.stop) == (whole.rows, whole.cols)
        if stop - start == 1 and simple and fr * fc > 1 and rows.start == cols.start == 0:
            ready = self._preview(subject, name, start, fr, fc, mode, self._limit(limit))
            if ready is not None:
                size = {"h": -(-whole.rows // fr), "w": -(-whole.cols // fc)}
                return BINARY, message({"frames": [start], "limits": [self._limit(limit)], **size, **about}, ready)
        pictures: list[bytes] = []
        frames: list[int] = []
        limits: list[float] = []
        large = (rows.stop - rows.start) * (cols.stop - cols.start) > BAND_CELLS
        for frame in range(start, stop, step):
            if cancel.is_set():
                raise Cancelled
            if large and fr * fc > 1:
                low, mean, high = self._tiles(subject, name, frame, rows, cols, fr, fc, reference, order, cancel)
                with np.errstate(invalid="ignore"):
                    reduced = {"mean": mean, "min": low, "max": high}.get(mode, np.where(high >= -low, high, low))
            else:
                cells = self._cells(subject, name, frame, rows, cols, reference, order)
                reduced = reduce_to(cells, fr, fc, mode)
            end = scale_limit(reduced) if limit == "step" else self._limit(limit)
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
                plane = Plane(at.shape)
                rows, cols = slice(0, plane.rows), slice(0, plane.cols)
                if plane.rows * plane.cols <= BAND_CELLS:
                    return codes(reduce_to(own.picture(name, number), fr, fc, mode), limit).tobytes()
                low, mean, high = self._tiles(own, name, number, rows, cols, fr, fc, "", "", never)
                with np.errstate(invalid="ignore"):
                    chosen = {"mean": mean, "min": low, "max": high}.get(mode, np.where(high >= -low, high, low))
                return codes(chosen, limit).tobytes()

            return picture

        ready = self.previews.get(key, frame)
        if len(subject.pieces(name)) == 1:
            self.previews.want(key, open_pictures, subject.frames)
        return ready or None

    def _limit(self, text: str) -> float:
        try:
            limit = float(text)
        except ValueError:
            limit = -1.0
        if not 0 < limit < float("inf"):
            raise InvalidArgument(f"limit={text!r} is no positive number")
        return limit

    # -- numbers ------------------------------------------------------------------------------------------------------
    def _series(self, query: Mapping[str, str], cancel: Cancel) -> tuple[str, bytes]:
        """Chosen weights at the frames ``start:stop:step``: exact values, in the tensor's own dtype."""
        subject, name = self._subject(query), query.get("tensor", "")
        step = max(1, self._number(query, "step", 1))
        span = _span(query.get("frames", f"0:{subject.frames}"), subject.frames, "frames")
        piece = subject.piece(name, span.start)
        stop = min(span.stop, piece.stop)
        plane = Plane(piece.shape)
        rows = []
        for text in query.get("cells", "").split(";")[:256]:
            try:
                row, col = (int(part) for part in text.split(","))
            except ValueError:
                raise InvalidArgument(f"cells={text!r} is not of the form 'row,column'") from None
            if not (0 <= row < plane.rows and 0 <= col < plane.cols):
                raise InvalidArgument(f"the cell {text} lies outside {plane.rows} x {plane.cols}")
            if cancel.is_set():
                raise Cancelled
            rows.append(subject.trajectory(name, plane.index(row, col), span.start, stop, step))
        values = _little(np.stack(rows))
        frames = list(range(span.start, stop, step))
        header = {"dtype": values.dtype.name, "start": span.start, "step": step, "count": len(frames)}
        exact = subject.run.tolerance is None
        header["bounds"] = None if exact else [subject.bound(name, f) for f in frames[:4096]]
        return BINARY, message(header, values.tobytes())

    def _order(self, query: Mapping[str, str], cancel: Cancel) -> tuple[str, bytes]:
        subject = self._subject(query)
        frame = self._frame(subject, query)
        down, across = extras.unit_order(subject, query.get("tensor", ""), frame, query.get("order", "norm"))
        return self._json({"rows": down.tolist(), "cols": across.tolist()})

    def _curve(self, query: Mapping[str, str], cancel: Cancel) -> tuple[str, bytes]:
        return self._json(
            extras.curve(self._subject(query), query.get("tensor", ""), query.get("kind", "norm"), cancel.is_set)
        )

    def _neuron(self, query: Mapping[str, str], cancel: Cancel) -> tuple[str, bytes]:
        return self._json(extras.neuron(self._subject(query), query.get("group", ""), self._number(query, "unit")))

    def _findings(self, query: Mapping[str, str], cancel: Cancel) -> tuple[str, bytes]:
        return self._json(extras.findings(self._subject(query)))

    def _pair(self, query: Mapping[str, str], cancel: Cancel) -> tuple[str, bytes]:
        """The two runs compared; the aligned one becomes a run of its own, under the number that the answer gives."""
        with self._pairing:
            if self._paired is None:
                report, aligned = pair(self.subjects)
                if aligned is not None:
                    self.subjects.append(aligned)
                self._paired = report | {"run": None if aligned is None else manifest(aligned)}
        return self._json(self._paired)


def nearest(steps: NDArray[np.int64], step: int) -> int:
    """The frame whose step is nearest to ``step``."""
    after = int(np.searchsorted(steps, step))
    if after == 0 or (after < len(steps) and steps[after] - step < step - steps[after - 1]):
        return after
    return after - 1

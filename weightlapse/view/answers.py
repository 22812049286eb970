"""Every question that the page can ask, answered from the recordings: the same over HTTP and in a notebook.

A question is a word and a flat mapping of strings; an answer is bytes. ``Answers.reply`` knows all words. Nothing here reads more
of a recording than the question needs, and long answers look at ``cancel`` between frames, so that a closed page stops the work.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

import weightlapse.view.distributions as distributions
import weightlapse.view.extras as extras
from weightlapse.errors import InvalidArgument, UnknownTensor, WeightlapseError
from weightlapse.picture.sample import Piece
from weightlapse.view.aligned import pair
from weightlapse.view.manifest import additions, manifest
from weightlapse.view.overview import overview
from weightlapse.view.pictures import Pictures
from weightlapse.view.subject import Subject
from weightlapse.view.trends import sampled, trend
from weightlapse.view.wire import BINARY, JSON, Cancel, Cancelled, Query, little, message, number, span

# questions during which previews may be made: they cost nothing, say for themselves when they read, come behind a preview, or take so long that nobody waits
UNHURRIED = ("manifest", "live", "clip", "plane", "findings", "pair")


QUICK = 4_000_000  # the twin of `QUICK` in viewer/src/address.ts


def opening(subject: Subject) -> tuple[str, Piece]:
    """The tensor that a page opens with, and its first piece: the first matrix that is not too large, else the first matrix, else the first of all."""
    first = [(name, subject.pieces(name)[0]) for name in subject.names()]
    matrices = [(name, piece) for name, piece in first if len(piece.shape) > 1]
    quick = [(name, piece) for name, piece in matrices if math.prod(piece.shape) <= QUICK]
    return (quick or matrices or first)[0]


class Answers:
    """Answers questions about ``subjects``; safe to ask from several threads."""

    def __init__(self, subjects: list[Subject]) -> None:
        self.subjects = subjects
        self._named = len(
            subjects
        )  # an aligned run comes after those that the page was opened with, and with the answer to "pair"
        self.pictures = Pictures(subjects)
        self._scaling = threading.Lock()
        self._scales: dict[
            tuple[int, str], tuple[int, dict[str, Any]]
        ] = {}  # how many frames it was made from, and what came out
        self._pairing = threading.Lock()
        self._paired: dict[bool, dict[str, Any]] = {}  # by whether units are followed
        self.words: dict[str, Callable[[Query, Cancel], tuple[str, bytes]]] = {
            "manifest": self._manifest,
            "live": self._live,
            "stats": self._stats,
            "trend": self._trend,
            "plane": self.pictures.plane,
            "clip": self.pictures.clip,
            "series": self._series,
            "order": self._order,
            "curve": self._curve,
            "neuron": self._neuron,
            "findings": self._findings,
            "overview": self._overview,
            "distribution": self._distribution,
            "units": self._units,
            "spectrum": self._spectrum,
            "pair": self._pair,
        }

    def reply(self, word: str, query: Query, cancel: Cancel | None = None) -> tuple[str, bytes]:
        """The answer to ``word`` as (media type, bytes); InvalidArgument or UnknownTensor for questions without one."""
        if word not in self.words:
            raise UnknownTensor(f"the viewer knows no question {word!r}")
        if word in UNHURRIED:
            return self.words[word](query, cancel or threading.Event())
        with self.pictures.reading():
            return self.words[word](query, cancel or threading.Event())

    def warm(self) -> None:
        """Read beforehand what a page that opens without an address asks for first; a failure is told to whoever asks."""
        with contextlib.suppress(WeightlapseError):
            subject = self.subjects[0]
            name, piece = opening(subject)
            self.reply("stats", {"run": "0", "tensor": name})
            if math.prod(piece.shape) <= QUICK:
                with self.pictures.reading():
                    subject.picture(name, piece.start if subject.run.closed else subject.frames - 1)

    # -- descriptions -------------------------------------------------------------------------------------------------
    def _json(self, value: Any) -> tuple[str, bytes]:
        return JSON, json.dumps(value, allow_nan=False).encode()

    def _manifest(self, query: Query, cancel: Cancel) -> tuple[str, bytes]:
        return self._json({"version": 1, "source": "live", "runs": [manifest(s) for s in self.subjects[: self._named]]})

    def _live(self, query: Query, cancel: Cancel) -> tuple[str, bytes]:
        subject = self.pictures.subject(query)
        with subject.lock:
            subject.run.refresh()
            layouts = len(list(subject.run.layouts))
        if layouts != number(query, "epochs", layouts):
            return self._json({"manifest": manifest(subject)})
        return self._json(additions(subject, max(0, min(number(query, "since"), subject.frames))))

    def _stats(self, query: Query, cancel: Cancel) -> tuple[str, bytes]:
        """Where the colour scale of a tensor ends, and its root mean square over time, from a sample of its cells."""
        return self._json(self._scaled(self.pictures.subject(query), query.get("tensor", "")))

    def _trend(self, query: Query, cancel: Cancel) -> tuple[str, bytes]:
        """The root mean square of a tensor over time: of all values where the recording keeps it, else of the sample."""
        subject, name = self.pictures.subject(query), query.get("tensor", "")
        return self._json(trend(subject, name) or {key: self._scaled(subject, name)[key] for key in ("frames", "rms")})

    def _scaled(self, subject: Subject, name: str) -> dict[str, Any]:
        with self._scaling:  # whoever comes while it is worked out waits for it
            frames, found = self._scales.get((id(subject), name), (-1, {}))
            if frames != subject.frames:
                frames, (at, found) = subject.frames, sampled(subject, name)
                found["frames"] = at.tolist()
                self._scales[id(subject), name] = (frames, found)
            return found

    # -- numbers ------------------------------------------------------------------------------------------------------
    def _series(self, query: Query, cancel: Cancel) -> tuple[str, bytes]:
        """Chosen weights at the frames ``start:stop:step``: exact values, in the tensor's own dtype."""
        subject, name = self.pictures.subject(query), query.get("tensor", "")
        step = max(1, number(query, "step", 1))
        frames = span(query.get("frames", f"0:{subject.frames}"), subject.frames, "frames")
        piece = subject.piece(name, frames.start)
        stop = min(frames.stop, piece.stop)
        arrangement = subject.arrangement(name, piece)
        rows = []
        for text in query.get("cells", "").split(";")[:256]:
            try:
                row, col = (int(part) for part in text.split(","))
            except ValueError:
                raise InvalidArgument(f"cells={text!r} is not of the form 'row,column'") from None
            index = arrangement.index(row, col) if 0 <= row < arrangement.rows and 0 <= col < arrangement.cols else None
            if index is None:
                raise InvalidArgument(
                    f"the cell {text} lies outside {arrangement.rows} x {arrangement.cols}, or holds no weight"
                )
            if cancel.is_set():
                raise Cancelled
            rows.append(subject.trajectory(name, index, frames.start, stop, step))
        values = little(np.stack(rows))
        shown = list(range(frames.start, stop, step))
        header = {"dtype": values.dtype.name, "start": frames.start, "step": step, "count": len(shown)}
        exact = subject.run.tolerance is None
        header["bounds"] = None if exact else [subject.bound(name, f) for f in shown[:4096]]
        return BINARY, message(header, values.tobytes())

    def _order(self, query: Query, cancel: Cancel) -> tuple[str, bytes]:
        subject = self.pictures.subject(query)
        frame = self.pictures.frame(subject, query)
        down, across = extras.unit_order(subject, query.get("tensor", ""), frame, query.get("order", "norm"))
        return self._json({"rows": down.tolist(), "cols": across.tolist()})

    def _curve(self, query: Query, cancel: Cancel) -> tuple[str, bytes]:
        return self._json(
            extras.curve(
                self.pictures.subject(query), query.get("tensor", ""), query.get("kind", "norm"), cancel.is_set
            )
        )

    def _neuron(self, query: Query, cancel: Cancel) -> tuple[str, bytes]:
        return self._json(extras.neuron(self.pictures.subject(query), query.get("group", ""), number(query, "unit")))

    def _findings(self, query: Query, cancel: Cancel) -> tuple[str, bytes]:
        return self._json(extras.findings(self.pictures.subject(query)))

    def _overview(self, query: Query, cancel: Cancel) -> tuple[str, bytes]:
        return self._json(overview(self.pictures.subject(query), number(query, "since", 0), cancel.is_set))

    def _distribution(self, query: Query, cancel: Cancel) -> tuple[str, bytes]:
        subject, unit = self.pictures.subject(query), number(query, "unit", -1)
        name, kind = query.get("tensor", ""), query.get("of", "weights")
        names = distributions.layer_of(subject, name) if query.get("scope") == "layer" else [name]
        return self._json(distributions.distribution(subject, names, kind, None if unit < 0 else unit, cancel.is_set))

    def _units(self, query: Query, cancel: Cancel) -> tuple[str, bytes]:
        return self._json(
            distributions.unit_norms(self.pictures.subject(query), query.get("tensor", ""), cancel.is_set)
        )

    def _spectrum(self, query: Query, cancel: Cancel) -> tuple[str, bytes]:
        return self._json(distributions.spectrum(self.pictures.subject(query), query.get("tensor", ""), cancel.is_set))

    def _pair(self, query: Query, cancel: Cancel) -> tuple[str, bytes]:
        """The two runs compared; the aligned one becomes a run of its own, under the number that the answer gives."""
        with self._pairing:
            follow = query.get("follow", "") == "1"
            if follow not in self._paired:
                report, aligned = pair(self.subjects[: self._named], follow)
                number = len(self.subjects)
                if aligned is not None:
                    self.subjects.append(aligned)
                self._paired[follow] = report | {
                    "run": None if aligned is None else manifest(aligned),
                    "number": number,
                }
        return self._json(self._paired[follow])

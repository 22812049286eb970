"""The journal: everything of a recording that is not a frame, in the order in which it happened.

kind  number              payload
LAYT  first frame         JSON {"tensors": [...], "note": text, "lineage": any}: a layout epoch begins
NAME  id                  UTF-8: the scalar name that this id stands for
SCAL  0                   array of (frame int64, id int64, value float64)
EVNT  step                UTF-8 text
GAP_  first missing step  JSON {"last": step, "reason": text}
WIRE  0                   UTF-8 text spec of the wiring
STOP  step                UTF-8: the reason why the recorder had to stop
OPEN  frames so far       JSON, a writer takes up the recording (again)
CLOS  frames              empty: the writer closed the recording in order
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import DamagedRecording
from weightlapse.store.layout import Layout
from weightlapse.store.log import Record, encode, next_record, records

NAME = "journal.log"
SCALAR = np.dtype([("frame", "<i8"), ("id", "<i8"), ("value", "<f8")])
LAYOUT, SCALAR_NAME, SCALARS, EVENT = b"LAYT", b"NAME", b"SCAL", b"EVNT"
GAP, WIRING, STOP, OPEN, CLOSE = b"GAP_", b"WIRE", b"STOP", b"OPEN", b"CLOS"


@dataclass(frozen=True)
class LayoutEpoch:
    """From frame ``start`` on, frames have this layout; ``lineage`` says which unit came from which, where that is known."""

    start: int
    layout: Layout
    note: str = ""
    lineage: Any = None
    crc: int = 0  # of the record's payload: segments name the layout that they were written in by it


@dataclass
class Journal:
    """What the journal says up to byte ``end``; :meth:`read_on` takes up what was appended since."""

    epochs: list[LayoutEpoch] = field(default_factory=list)
    events: list[tuple[int, str]] = field(default_factory=list)
    gaps: list[tuple[int, int, str]] = field(default_factory=list)
    wiring_spec: str | None = None
    stopped: str | None = None
    closed_at: int | None = None  # frames at the last orderly close, None while open
    damaged: list[tuple[int, int]] = field(
        default_factory=list
    )  # byte ranges that hold no whole record though some follow
    end: int = 0
    scalar_ids: dict[str, int] = field(default_factory=dict)
    _scalars: list[NDArray[Any]] = field(default_factory=list)

    def read_on(self, data: NDArray[np.uint8]) -> None:
        while True:
            for record in records(data, self.end):
                self._take(record)
                self.end = record.end
            after = next_record(data, self.end)
            if after is None:
                return
            self.damaged.append((self.end, after))
            self.end = after

    def _take(self, record: Record) -> None:
        kind, payload = record.kind, record.payload
        self.closed_at = None
        if kind == SCALARS:
            usable = payload[: len(payload) // SCALAR.itemsize * SCALAR.itemsize]
            self._scalars.append(usable.view(SCALAR))
        elif kind == SCALAR_NAME:
            self.scalar_ids[_text(payload)] = record.number
        elif kind == EVENT:
            self.events.append((record.number, _text(payload)))
        elif kind == LAYOUT:
            self._begin_epoch(record.number, _json(payload), zlib.crc32(payload.tobytes()))
        elif kind == GAP:
            gap = _json(payload)
            self.gaps.append((record.number, int(gap["last"]), str(gap["reason"])))
        elif kind == WIRING:
            self.wiring_spec = _text(payload)
        elif kind == STOP:
            self.stopped = _text(payload)
            self.events.append((record.number, f"recorder stopped: {self.stopped}"))
        elif kind == OPEN:
            self.stopped = None
            self._forget_scalars_from(record.number)
        elif kind == CLOSE:
            self.closed_at = record.number
        # a kind from a newer minor version is skipped: its record is framed like all others

    def _begin_epoch(self, start: int, description: dict[str, Any], crc: int) -> None:
        epoch = LayoutEpoch(
            start,
            Layout.from_json(description.get("tensors")),
            str(description.get("note", "")),
            description.get("lineage"),
            crc,
        )
        if self.epochs and start <= self.epochs[-1].start:
            if start < self.epochs[-1].start:
                raise DamagedRecording(
                    f"the journal lets frame {start} begin a layout after frame {self.epochs[-1].start} did"
                )
            self.epochs.pop()  # no frame was written in between
        self.epochs.append(epoch)

    def _forget_scalars_from(self, frame: int) -> None:
        """A writer resumed at ``frame``: what the one before it logged for frames that never reached the disk is void."""
        self._scalars = [batch[batch["frame"] < frame] for batch in self._scalars]

    def scalars(self, frames: int) -> dict[str, NDArray[np.float64]]:
        """Columns of length ``frames``, NaN where nothing was logged; the last value logged for a frame counts."""
        rows = np.concatenate(self._scalars) if self._scalars else np.empty(0, SCALAR)
        rows = rows[(rows["frame"] >= 0) & (rows["frame"] < frames)]
        columns = {}
        for name, number in self.scalar_ids.items():
            mine = rows[rows["id"] == number]
            column = np.full(frames, np.nan)
            column[mine["frame"]] = mine["value"]
            columns[name] = column
        return columns


def layout_record(start: int, layout: Layout, note: str, lineage: Any) -> bytes:
    description = {"tensors": layout.to_json(), "note": note, "lineage": lineage}
    return encode(LAYOUT, json.dumps(description, ensure_ascii=False).encode(), start)


def _text(payload: NDArray[np.uint8]) -> str:
    return payload.tobytes().decode("utf-8", "replace")


def _json(payload: NDArray[np.uint8]) -> dict[str, Any]:
    try:
        value = json.loads(payload.tobytes())
    except (ValueError, RecursionError) as error:
        raise DamagedRecording(f"a record of the journal is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise DamagedRecording("a record of the journal is not a JSON object")
    return value

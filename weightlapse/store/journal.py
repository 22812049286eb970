"""The journal: everything of a recording that is not a frame, in the order in which it happened.

kind  number              payload
HEAD  0                   the manifest
LAYT  first frame         JSON {"tensors": [...], "note": text, "lineage": any}: a layout epoch begins
NAME  id                  UTF-8: the scalar name that this id stands for
SCAL  0                   array of (frame int64, id int64, value float64)
EVNT  step                UTF-8 text
OBSV  step                JSON object: what was seen of the network at this step besides its frame
GAP_  first missing step  JSON {"last": step, "reason": text}
WIRE  0                   UTF-8 text spec of the wiring
STOP  step                UTF-8: the reason why the recorder had to stop
FORK  first frame         JSON {"keep": frames, "step": step, "name": text}: the recording was rewound (see ``lines.py``)
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
from weightlapse.store.files import File
from weightlapse.store.layout import Layout
from weightlapse.store.lines import Fork, Ranges, lines_of, positions
from weightlapse.store.log import (
    HEAD,
    HEADER_NBYTES,
    MAGIC,
    UNSEALED,
    Record,
    Seal,
    decode_header,
    next_record,
    records,
)
from weightlapse.store.scalars import Scalars, columns

SCALAR = np.dtype([("frame", "<i8"), ("id", "<i8"), ("value", "<f8")])
LAYOUT, SCALAR_NAME, SCALARS, EVENT = b"LAYT", b"NAME", b"SCAL", b"EVNT"
GAP, WIRING, STOP, FORK, OPEN, CLOSE = b"GAP_", b"WIRE", b"STOP", b"FORK", b"OPEN", b"CLOS"
OBSERVED = b"OBSV"

Event = tuple[int, str]
Observation = tuple[int, dict[str, Any]]
Gap = tuple[int, int, str]


@dataclass(frozen=True)
class LayoutEpoch:
    """From frame ``start`` on, frames have this layout; ``lineage`` says which unit came from which, where that is known."""

    start: int
    layout: Layout
    note: str = ""
    lineage: Any = None
    crc: int = 0  # of the record's payload: segments name the layout that they were written in by it

    @classmethod
    def from_payload(cls, start: int, payload: bytes) -> LayoutEpoch:
        """From the payload of a LAYT record, whose CRC-32 it keeps. Raises what `Layout.from_json` raises for damaged ones."""
        entry = _json(payload)
        layout = Layout.from_json(entry.get("tensors"))
        return cls(start, layout, str(entry.get("note", "")), entry.get("lineage"), zlib.crc32(payload))


@dataclass
class Journal:
    """What the journal says up to byte ``end``; :meth:`read_on` takes up what was appended since."""

    seal: Seal = UNSEALED  # of files of version 2; a journal that begins with HEAD is one
    epochs: list[LayoutEpoch] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)  # of the main line
    gaps: list[Gap] = field(default_factory=list)
    observed: list[Observation] = field(default_factory=list)  # of the main line
    observed_of: dict[str, list[Observation]] = field(default_factory=dict)  # of each branch
    told: dict[str, tuple[list[Event], list[Gap]]] = field(default_factory=dict)  # events and gaps of each branch
    wiring_spec: str | None = None
    stopped: str | None = None
    closed_at: int | None = None  # frames at the last orderly close, None while open
    damaged: list[tuple[int, int]] = field(
        default_factory=list
    )  # byte ranges without a whole record though some follow
    cut_short: bool = True  # whether what follows ``end`` can be a write that was cut short (else it is damage)
    end: int = 0
    head: bytes | None = None  # the manifest's copy
    has_layout: bool = False  # of its own: the layouts of ``epochs`` may come from segments
    scalar_ids: dict[str, int] = field(default_factory=dict)
    forks: dict[int, Fork] = field(default_factory=dict)
    _scalars: list[NDArray[Any]] = field(default_factory=list)
    sealed: Seal = UNSEALED  # what its own records are sealed with: not at all in a journal of version 1

    def read_on(self, file: File) -> None:
        """Take up the records from byte ``end`` of ``file`` on; bytes between them that are no record are noted in ``damaged`` and passed over."""
        base = self.end
        data = file.read(base, file.size)
        if base == 0:
            begun = next(records(data), None)
            self.sealed = self.seal if begun is None or begun.kind == HEAD else UNSEALED
            if begun is None and data[4:8] == LAYOUT:  # a journal of version 1 whose first record is damaged
                self.sealed = UNSEALED
        while True:
            for record in records(data, self.end, self.sealed, base):
                self._take(record)
                self.end = record.end
            after = next_record(data, self.end, self.sealed, base)
            if after is None:
                break
            self.damaged.append((self.end, after))
            self.end = after
        self.cut_short = is_cut_short(data[self.end - base :])

    def _take(self, record: Record) -> None:
        kind, payload = record.kind, record.payload
        self.closed_at = None
        if kind == SCALARS:
            self._scalars.append(np.frombuffer(payload[: len(payload) // SCALAR.itemsize * SCALAR.itemsize], SCALAR))
        elif kind == SCALAR_NAME:
            self.scalar_ids[_text(payload)] = record.number
        elif kind == EVENT:
            self.events.append((record.number, _text(payload)))
        elif kind == LAYOUT:
            self.has_layout = True
            self.add_epoch(LayoutEpoch.from_payload(record.number, payload))
        elif kind == GAP:
            self.gaps.append(_gap(record.number, _json(payload)))
        elif kind == OBSERVED:
            self.observed.append((record.number, _json(payload)))
        elif kind == WIRING:
            self.wiring_spec = _text(payload)
        elif kind == STOP:
            self.stopped = _text(payload)
            self.events.append((record.number, f"recorder stopped: {self.stopped}"))
        elif kind == FORK:
            self.add_fork(record.number, payload)
        elif kind == OPEN:
            self.stopped = None
            self._forget_scalars_from(record.number)
        elif kind == CLOSE:
            self.closed_at = record.number
        elif kind == HEAD:
            self.head = payload
        # a kind from a newer minor version is skipped: its record is framed like all others

    def add_epoch(self, epoch: LayoutEpoch) -> None:
        """Let a layout begin; it replaces one that begins at the same frame. Raises DamagedRecording for one that begins before the last."""
        if self.epochs and epoch.start <= self.epochs[-1].start:
            if epoch.start < self.epochs[-1].start:
                raise DamagedRecording(
                    f"the journal lets frame {epoch.start} begin a layout after frame {self.epochs[-1].start} did"
                )
            self.epochs.pop()  # no frame was written in between
        self.epochs.append(epoch)

    def restore_epoch(self, epoch: LayoutEpoch) -> None:
        """Take up an epoch whose record here is damaged, from the copy in a segment."""
        if all(known.crc != epoch.crc for known in self.epochs):
            self.epochs = sorted([*(e for e in self.epochs if e.start != epoch.start), epoch], key=lambda e: e.start)

    def add_fork(self, first: int, payload: bytes) -> None:
        """The main line was cut: what is told of later steps goes with the branch. A copy in a segment says the same once more."""
        if first in self.forks:
            return
        try:
            fork = Fork.from_json(first, _json(payload))
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedRecording(f"a rewind in the journal cannot be meant ({error})") from None
        self.forks[first] = fork
        self.told[fork.name] = (
            [e for e in self.events if e[0] > fork.step],
            [g for g in self.gaps if g[1] > fork.step],
        )
        self.events = [e for e in self.events if e[0] <= fork.step]
        self.observed_of[fork.name] = [o for o in self.observed if o[0] > fork.step]
        self.observed = [o for o in self.observed if o[0] <= fork.step]
        self.gaps = [g for g in self.gaps if g[1] <= fork.step]

    def lines(self) -> tuple[Ranges, dict[str, Ranges]]:
        """Frame ranges of the main line, and of each branch by its name, in the order of writing."""
        return lines_of([self.forks[first] for first in sorted(self.forks)])

    def _forget_scalars_from(self, frame: int) -> None:
        """A writer resumed at ``frame``: what the one before it logged for frames that never reached the disk is void."""
        self._scalars = [batch[batch["frame"] < frame] for batch in self._scalars]

    def scalars(self, frames: int, line: Ranges | None = None) -> Scalars:
        """Columns over the first ``frames`` frames of a line (of all that was written where it is None)."""
        rows = np.concatenate(self._scalars) if self._scalars else np.empty(0, SCALAR)
        numbers = rows["frame"].astype(np.int64)
        where = numbers if line is None else positions(line, numbers)
        return columns(self.scalar_ids, rows["id"].astype(np.int64), where, rows["value"].astype(np.float64), frames)


def layout_payload(layout: Layout, note: str, lineage: Any) -> bytes:
    """The payload of a ``LAYT`` record."""
    description = {"tensors": layout.to_json(), "note": note, "lineage": lineage}
    return json.dumps(description, ensure_ascii=False).encode()


def is_cut_short(tail: bytes) -> bool:
    """Whether these bytes can be the beginning of a record: a write that was cut short leaves no wrong byte, only fewer."""
    if len(tail) < HEADER_NBYTES:
        return True
    header = decode_header(tail[:HEADER_NBYTES])
    return header is not None and header[1] > len(tail) - HEADER_NBYTES and not _holds_a_header(tail, HEADER_NBYTES)


def _holds_a_header(data: bytes, at: int) -> bool:
    """Whether another record begins behind ``at``: then bytes are missing in the middle, and no write was cut short."""
    while (at := data.find(MAGIC, at)) >= 0:
        if decode_header(data[at : at + HEADER_NBYTES]) is not None:
            return True
        at += 1
    return False


def _gap(first: int, entry: dict[str, Any]) -> Gap:
    last, reason = entry.get("last"), entry.get("reason")
    if type(last) is not int or not isinstance(reason, str):
        raise DamagedRecording(f"a gap in the journal cannot be meant: {str(entry)[:80]}")
    return first, last, reason


def _text(payload: bytes) -> str:
    return payload.decode("utf-8", "replace")


def _json(payload: bytes) -> dict[str, Any]:
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise DamagedRecording(f"a record of the journal is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise DamagedRecording("a record of the journal is not a JSON object")
    return value

"""Whether a file belongs to the recording that it lies in, and which layout it is written in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from weightlapse.errors import DamagedRecording
from weightlapse.store.files import File
from weightlapse.store.journal import FORK, LAYOUT, Journal, LayoutEpoch
from weightlapse.store.layout import Layout
from weightlapse.store.log import Seal, read_place, read_record

_MOST_COPIES = 4096  # records before the first frame: a layout, and as many rewinds as anybody makes


class Foreign(DamagedRecording):
    """A file of another recording."""


class Leftover(DamagedRecording):
    """A file of the recording that this one has replaced: to be removed by the next writer."""


@dataclass
class Belonging:
    """The recording as its files see it. ``journal`` is completed from the copies in the files where its own records are damaged."""

    id: bytes
    seal: Seal
    journal: Journal
    unsealed: bool  # whether files of version 1, which name no recording, can be its own
    replaced: str | None = None  # the id of the recording that this one overwrote, "" for one of version 1
    first_number: int = 0  # of its first segment: those before are of the recording that it overwrote

    def check(self, file: str, number: int, claimed: int, own: bytes | None) -> Seal:
        """The seal of a file that says it is number ``claimed`` of the recording ``own`` (None in version 1). Raises when it is not ours."""
        if own is None:
            if not self.unsealed:
                if self.replaced == "" or number < self.first_number:
                    raise Leftover(f"{file} is left from the recording that this one replaced")
                raise Foreign(f"{file} is of format version 1 and names no recording: it was put here by somebody else")
        elif own != self.id:
            if own.hex() == self.replaced:
                raise Leftover(f"{file} is left from the recording that this one replaced")
            raise Foreign(f"{file} belongs to the recording {own.hex()}, not to this one ({self.id.hex()})")
        if claimed != number:
            raise Foreign(f"{file} says it is number {claimed}: it was renamed or copied")
        return Seal(None) if own is None else self.seal

    def layout(self, epoch: int, row_nbytes: int, crc: int) -> Layout | None:
        """The layout that a file names, looked up by checksum: an epoch that is lost in the journal must not shift the others."""
        epochs = self.journal.epochs
        found = epochs[epoch] if epoch < len(epochs) and epochs[epoch].crc == crc else None
        found = found or next((e for e in epochs if e.crc == crc), None)
        return found.layout if found is not None and found.layout.row_nbytes == row_nbytes else None

    def take_copies(self, copies: Iterable[tuple[bytes, int, bytes]], *, layout: bool) -> None:
        """Complete the journal from the records (kind, number, payload) that a file repeats; of layouts only where ``layout``."""
        for kind, number, payload in copies:
            if kind == LAYOUT and layout:
                self.journal.restore_epoch(LayoutEpoch.from_payload(number, payload))
            elif kind == FORK:
                self.journal.add_fork(number, payload)


def read_copies(file: File, start: int, seal: Seal) -> tuple[list[tuple[bytes, int, bytes]], int]:
    """The LAYT and FORK records from ``start`` on, and where they end."""
    found: list[tuple[bytes, int, bytes]] = []
    while len(found) < _MOST_COPIES:
        place = read_place(file, start)
        record = read_record(file, start, seal) if place is not None and place.kind in (LAYOUT, FORK) else None
        if record is None:
            break
        found.append((record.kind, record.number, record.payload))
        start = record.end
    return found, start

"""The file of a recording's statistics: ``stats-XXXXXXXX.log``, one record for each segment, after the name of the recording (the first digits of its id).

It grows while segments are compressed. What is damaged in it is made anew from the values; a program that does not know it loses nothing.
"""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from weightlapse.errors import DamagedRecording
from weightlapse.store.files import File
from weightlapse.store.folder import Folder, LocalFolder
from weightlapse.store.journal import is_cut_short
from weightlapse.store.log import HEAD, Place, RecordFile, Seal, read_record, scan
from weightlapse.store.portable import replace
from weightlapse.store.remove import remove_own
from weightlapse.store.segment import Damage
from weightlapse.store.statistics import Statistics

STATISTICS = b"STAT"


def file_name(identity: bytes) -> str:
    """``identity``: the 16 bytes of the recording's id, of which the first eight hex digits go into the name."""
    return f"stats-{identity.hex()[:8]}.log"


def seal_for(identity: bytes) -> Seal:
    """Always sealed, in recordings of version 1 too."""
    return Seal(zlib.crc32(identity))


def is_of(file: File, identity: bytes) -> bool:
    """Whether a file begins as the statistics of this recording do."""
    try:
        head = read_record(file, 0, seal_for(identity))
    except DamagedRecording:
        return False
    return head is not None and head.kind == HEAD and head.payload == identity


def statistics_of(folder: Folder, identity: str) -> list[str]:
    """The file of the recording of this id in a folder, where there is one."""
    if not re.fullmatch(r"[0-9a-f]{32}", identity):
        return []
    name = file_name(bytes.fromhex(identity))
    try:
        return [name] if is_of(folder.open(name), bytes.fromhex(identity)) else []
    except (FileNotFoundError, DamagedRecording):
        return []


class StatisticsFile:
    """The statistics that a recording has, by number of the segment; each is read when it is asked for."""

    def __init__(self, folder: Folder, identity: bytes) -> None:
        self.name = file_name(identity)
        self._folder, self._identity, self._seal = folder, identity, seal_for(identity)
        self._file: File | None = None
        self._places: dict[int, Place] = {}
        self._read: dict[int, tuple[Place, Statistics | None]] = {}
        self.nbytes_read = 0

    def look(self) -> None:
        """Take up what was written since."""
        try:
            file = self._folder.open(self.name)
        except (FileNotFoundError, DamagedRecording):
            self._file, self._places = None, {}
            return
        if self._file is not None and (file.key, file.size) == (self._file.key, self._file.size):
            return
        self._file, self._places = file, {}
        if is_of(file, self._identity):
            self._places = {place.number: place for place in scan(file) if place.kind == STATISTICS}

    @property
    def numbers(self) -> list[int]:
        """The segments of which there is a record."""
        return list(self._places)

    def get(self, number: int) -> Statistics | None:
        """Of the segment ``number``; None where there are none, or none that can be trusted."""
        place = self._places.get(number)
        if place is None or self._file is None:
            return None
        known = self._read.get(number)
        if known is None or known[0] != place:
            known = self._read[number] = (place, self._at(self._file, place))
        return known[1]

    def _at(self, file: File, place: Place) -> Statistics | None:
        self.nbytes_read += place.nbytes
        with contextlib.suppress(DamagedRecording, FileNotFoundError):
            record = read_record(file, place.start, self._seal)
            return None if record is None else Statistics.unpack(record.payload)
        return None

    def damages(self, *, closed: bool = True) -> list[Damage]:
        """What of the file is no record. ``closed``: no writer can have been killed amid a write."""
        again = "; the values are whole, and `weightlapse compact` makes it anew"
        file = self._file
        if file is None or (not file.size and not closed):
            return []
        if not is_of(file, self._identity):
            return [Damage(self.name, f"it does not begin as the statistics of this recording{again}")]
        found, end = [], 0
        for place in scan(file):
            if place.start != end:
                found.append(
                    Damage(self.name, f"bytes {end} to {place.start - 1} are no record that can be read{again}")
                )
            elif read_record(file, place.start, self._seal) is None or any(
                file.read(place.payload + place.nbytes, min(place.end, file.size))
            ):
                found.append(Damage(self.name, f"the statistics of segment {place.number} fail their checksum{again}"))
            elif (
                place.kind == STATISTICS and self._places.get(place.number) == place and self.get(place.number) is None
            ):
                found.append(Damage(self.name, f"the statistics of segment {place.number} cannot be meant{again}"))
            end = place.end
        tail = file.read(end, file.size)
        if tail and (closed or not is_cut_short(tail)):
            found.append(Damage(self.name, f"the last {len(tail)} bytes are no record that can be read{again}"))
        return found


class StatisticsLog:
    """Appends to the file. A failure costs the statistics of a segment and nothing else."""

    def __init__(self, folder: Path, identity: bytes) -> None:
        self._path, self._name, self._identity = folder / file_name(identity), file_name(identity), identity
        self._folder = folder
        self._log: RecordFile | None = None

    def put(self, number: int, statistics: Statistics) -> bool:
        """Whether it is written."""
        try:
            if self._log is None:
                self._log = self._opened()
            self._log.put((STATISTICS, statistics.pack(), number))
        except OSError:
            return False
        return True

    def _opened(self) -> RecordFile:
        keep: int | None = None  # a new file
        if self._path.exists():
            file = LocalFolder(self._folder).open(self._name)
            if file.size and not is_of(file, self._identity):
                replace(self._path, self._path.with_name(f"{self._name}.damaged"))
            else:
                keep = max((place.end for place in whole(file, seal_for(self._identity))), default=0)
        log = RecordFile(self._path, seal_for(self._identity), keep=keep)
        if not keep:
            log.put((HEAD, self._identity, 0))
        return log

    def sync(self) -> None:
        """Have what was appended reach the disk; a failure is passed over, since statistics can be made anew."""
        if self._log is not None:
            with contextlib.suppress(OSError):
                self._log.sync()

    def close(self) -> None:
        """Close the file, if one was opened; a later append opens it again."""
        if self._log is not None:
            self._log.close()
            self._log = None


def whole(file: File, seal: Seal) -> Iterator[Place]:
    """The records that are right."""
    return (place for place in scan(file) if read_record(file, place.start, seal) is not None)


def put_in_order(folder: Path, identity: bytes) -> None:
    """Write the file anew without what is damaged in it, where something is."""
    kept = StatisticsFile(LocalFolder(folder), identity)
    kept.look()
    if not kept.damages() or not statistics_of(LocalFolder(folder), identity.hex()):
        return
    building = folder / f"{kept.name}.tmp"
    remove_own(building)
    file = RecordFile(building, seal_for(identity))
    try:
        file.put((HEAD, identity, 0))
        for number in sorted(kept.numbers):
            if (held := kept.get(number)) is not None:
                file.put((STATISTICS, held.pack(), number))
        file.sync()
        file.rename(folder / kept.name)
    finally:
        file.close()

"""Writing a recording: frames into log segments, everything else into the journal.

After each call returns, what it wrote is with the operating system: ``kill -9`` loses none of it. Only a power cut can, and how much is
the ``fsync`` policy: "never", "close" (once, at the end) or "flush" (at every :meth:`Writer.flush`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import weightlapse.store.journal as journal
import weightlapse.store.manifest as manifest
import weightlapse.store.place as place
from weightlapse.errors import CannotRecord, DamagedRecording, InvalidArgument
from weightlapse.store.background import Compactor
from weightlapse.store.belonging import Belonging
from weightlapse.store.compact import block_frames, sync_path
from weightlapse.store.folder import LocalFolder
from weightlapse.store.journal import Journal, LayoutEpoch, layout_payload
from weightlapse.store.layout import Layout
from weightlapse.store.lines import Fork, take
from weightlapse.store.lock import Lock
from weightlapse.store.log import AppendFile, RecordFile
from weightlapse.store.packed import PackedFrame
from weightlapse.store.packed_segment import as_key, open_segment
from weightlapse.store.passing import patiently
from weightlapse.store.raw import (
    PACKED_PAGES,
    Opening,
    RawSegment,
    frame_parts,
    opening_records,
    page_of,
    segment_name,
)
from weightlapse.store.reader import Store
from weightlapse.store.remove import remove_proved
from weightlapse.store.repair import tidy

Compact = Literal[
    "auto", "live", "after", "never", "spare"
]  # "spare": as "auto", but before the end only where the disk would else be full
Fsync = Literal["close", "flush", "never"]

_SEGMENT_NBYTES = 64 << 20
_LARGEST_NBYTES = 2 << 30  # a segment may grow so far to hold a whole time block of a large model
_SEGMENT_FRAMES = (16, 1 << 16)  # fewest and most frames of a segment
MOST_PACKED = 1 << 16  # packed frames of a segment: their device says where the next one begins


@dataclass(frozen=True)
class Start:
    """What a writer goes on from."""

    ours: Belonging
    tolerance: float | None
    version: int = manifest.UNPACKED
    written: int = 0
    branched: int = 0
    last_step: int = -1
    last_segment: int = -1

    @classmethod
    def of(cls, store: Store) -> Start:
        """Where the recording stands that ``store`` shows on its main line: frames of branches count among those written, the last step is the main line's."""
        branched, last = store.written - len(store.steps), int(store.steps.max(initial=-1))
        numbers = (store.written, branched, last, store.last_segment_number)
        return cls(store.ours, store.tolerance, store.version, *numbers)


class Writer:
    """Appends to one recording, from one thread. Make one with :meth:`create` or :meth:`resume`."""

    numbers_first = False  # whether scalars are wanted before the frames that they belong to

    def __init__(
        self,
        path: Path,
        start: Start,
        *,
        lock: Lock,
        log: RecordFile,
        fsync: Fsync,
        compact: Compact,
        memory: int,
    ) -> None:
        self.path = path
        self.frames = start.written  # that were ever written, on all lines
        self.branched = start.branched  # of them those that lie on branches
        self.last_step = start.last_step
        self._lock = lock
        self._journal = log
        self._fsync = fsync
        self._ours = ours = start.ours
        self._id = ours.id if start.version > 1 else None  # a recording of version 1 goes on as one
        self.takes_packed = start.version > manifest.UNPACKED
        last = ours.journal.epochs[-1]
        self.layout = last.layout
        self._epoch, self._epoch_start, self._layout_crc = len(ours.journal.epochs) - 1, last.start, last.crc
        self._layout_payload = layout_payload(last.layout, last.note, last.lineage)
        self._forks = [ours.journal.forks[first] for first in sorted(ours.journal.forks)]
        self._scalar_ids = dict(ours.journal.scalar_ids)
        self._segment: AppendFile | None = None
        self._segment_number = start.last_segment
        self._segment_first = 0
        self._segment_room = 0
        self._page = 0
        self._packed = False
        self._packed_in = -1  # the segment of the last frame, where that is packed
        self._tolerance = start.tolerance
        self._takeover: place.Takeover | None = None
        self._compactor = Compactor(path, ours, start.tolerance, compact, sync=fsync != "never", memory=memory)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        layout: Layout,
        *,
        meta: Mapping[str, Any] | None = None,
        tolerance: float | None = None,
        memory: int = 256 << 20,
        compact: Compact = "auto",
        overwrite: bool = False,
        fsync: Fsync = "close",
        packed: bool = False,
    ) -> Writer:
        """A new recording at ``path``. Raises :class:`InvalidArgument` when something is there that must not be replaced.

        ``packed``: its frames may be packed ones; readers of older versions then refuse it.

        With ``overwrite`` it takes the place of the recording there, in one step, and of nothing else in that folder. The old one's files are
        removed when the first frame of the new one is written; a recording that ends without any gives the place back.
        """
        target = Path(path)
        head = manifest.make(dict(meta or {}), tolerance, packed=packed)
        payload = layout_payload(layout, "", None)
        place_of = place.found(target, head, (journal.LAYOUT, payload, 0), overwrite=overwrite)
        seal = manifest.seal_of(head)
        begun = Journal(seal, epochs=[LayoutEpoch.from_payload(0, payload)])
        ours = Belonging(manifest.identity(head), seal, begun, unsealed=False)
        start = Start(ours, tolerance, head["version"], last_segment=place_of.first_segment - 1)
        writer = cls(target, start, lock=place_of.lock, log=place_of.log, fsync=fsync, compact=compact, memory=memory)
        writer._takeover = place_of.takeover
        return writer

    @classmethod
    def resume(
        cls,
        path: str | os.PathLike[str],
        layout: Layout,
        *,
        rewind_to: int | None = None,
        note: str = "resumed",
        memory: int = 256 << 20,
        compact: Compact = "auto",
        fsync: Fsync = "close",
    ) -> Writer:
        """Go on with the recording at ``path`` after its last whole frame; another layout begins a new epoch.

        ``rewind_to`` goes on after that step instead: the frames of later steps, with their scalars and events, become a branch that stays
        readable. Raises :class:`InvalidArgument` when no frame is that early.
        """
        target = Path(path)
        manifest.read(LocalFolder(target))  # says what is wrong when this is no recording, before a lock is made in it
        lock = Lock(Path(LocalFolder(target).location))
        log = None
        try:
            place.check_folders(target)
            told = tidy(target)
            store = Store.open(target)
            keep = len(store.steps)
            if rewind_to is not None and (store.steps > rewind_to).any():
                keep = int(np.argmax(store.steps > rewind_to))
            if keep and store.steps[keep - 1] < 0:
                raise DamagedRecording(
                    f"{target}: the frames that recording would go on from cannot be read, so their steps are unknown; try again when the "
                    "disk answers, see `weightlapse verify`, or rewind to a step before them"
                )
            if rewind_to is not None and keep == 0 and len(store.steps):
                raise InvalidArgument(
                    f"{target} holds no frame of step {rewind_to} or before (its first is step {store.steps[0]}): there is nothing to go on from"
                )
            if keep < len(store.steps) and store.version == 1:  # its readers know no branches
                place.upgrade(target)
                store = Store.open(target)
            log = RecordFile(target / store.journal_name, store.journal.sealed, keep=store.journal.end)
            writer = cls(target, Start.of(store), lock=lock, log=log, fsync=fsync, compact=compact, memory=memory)
            for raw in store.raw_segments:
                writer._compactor.add(raw.number, partial(_itself, raw))
            log.put((journal.OPEN, json.dumps({"note": note}).encode(), writer.frames))
            for text in told:
                writer.event(max(writer.last_step, 0), text)
            if keep < len(store.steps):
                assert rewind_to is not None
                writer._rewind(store, keep, rewind_to)
            if layout != writer.layout:
                writer.relayout(layout, note)
        except BaseException:
            if log is not None:
                log.close()
            lock.release()
            raise
        return writer

    def _rewind(self, store: Store, keep: int, step: int) -> None:
        """Cut the line after its first ``keep`` frames; what follows them becomes a branch."""
        names = {fork.name for fork in self._forks}
        name = next(n for n in (f"after-{step}", *(f"after-{step}-{k}" for k in range(2, 1 << 20))) if n not in names)
        fork = Fork(self.frames, keep, step, name)
        self._journal.put((journal.FORK, json.dumps(fork.to_json()).encode(), fork.first))
        self._forks.append(fork)
        self.branched = self.frames - keep
        self.last_step = int(store.steps[keep - 1]) if keep else -1
        kept = take(store.line, keep)[-1][1] - 1  # the frame that training goes on from
        epoch = next(e for e in reversed(store.journal.epochs) if e.start <= kept)
        if epoch.layout != self.layout:
            self.relayout(epoch.layout, f"rewound to step {step}", None)

    @property
    def recorded(self) -> int:
        """Frames that are in the recording, on all lines."""
        return self.frames

    @property
    def identity(self) -> bytes:
        """The id of the recording that is being written."""
        return self._ours.id

    # ---- what happens during training ------------------------------------------------------------------------------

    def append(self, steps: NDArray[np.int64], rows: NDArray[np.uint8] | Sequence[PackedFrame]) -> None:
        """Add frames: ``steps`` (K,) and ``rows`` (K, layout.row_nbytes) uint8, or K packed frames, which lie in segments of their own.

        A packed frame that has keys alone begins a segment; others need the frame that was given before them.

        When the disk takes no more, as many frames as it does take are there (``frames`` counts them) when the error is raised; the call may
        be made again with the others.
        """
        done = 0
        while done < len(steps):
            packed = isinstance(rows[done], PackedFrame)
            if packed and self._segment_room == 0 and not rows[done].key:
                rows = [*rows[:done], self._as_key(rows[done]), *rows[done + 1 :]]
            if self._segment_room == 0 or packed != self._packed or (packed and rows[done].key):
                self._begin_segment(packed=packed)
            count = 1 if packed else min(self._segment_room, len(steps) - done)
            try:
                self._write_frames(steps[done : done + count], rows[done : done + count])
                written = count
            except OSError:
                if count == 1 or self._segment is None:
                    raise
                self._write_frames(
                    steps[done : done + 1], rows[done : done + 1]
                )  # one by one, up to the one that fails by itself
                written = 1
            self._segment_room -= written
            self.last_step = int(steps[done + written - 1])
            self.frames += written
            self._packed_in = self._segment_number if packed else -1
            done += written
            if self._takeover is not None:
                takeover, self._takeover = self._takeover, None
                takeover.finish()

    def _write_frames(self, steps: NDArray[np.int64], rows: Any) -> None:
        assert self._segment is not None
        seal, first = self._ours.seal, self.frames
        parts = [
            part
            for k, step in enumerate(steps.tolist())
            for part in self._parts_of(step, rows[k], first + k, seal.at(b"FRAM", first + k))
        ]
        try:
            self._segment.write(parts)
        except OSError:
            if (
                self._segment.torn
            ):  # what was written of it cannot be taken back: the file is left, and the next one begins
                self._end_segment(torn=True)
            raise

    def _as_key(self, frame: PackedFrame) -> PackedFrame:
        """A frame that must begin a segment, because the one before it could not be gone on with."""
        try:
            before = self._opened(self._packed_in)
            return as_key(frame, self.layout, before)
        except (DamagedRecording, FileNotFoundError) as error:
            raise OSError(errno.EIO, f"the frame before cannot be read back: {error}") from error

    def _opened(self, number: int) -> RawSegment:
        """A segment of the present layout as it is on disk."""
        known = Journal(self._ours.seal, epochs=[LayoutEpoch(0, self.layout, crc=self._layout_crc)])
        ours = Belonging(self._ours.id, self._ours.seal, known, unsealed=self._ours.unsealed)
        return open_segment(number, LocalFolder(self.path).open(segment_name(number)), ours, is_last=True)

    def _parts_of(self, step: int, row: Any, frame: int, seed: int) -> list[Any]:
        if isinstance(row, PackedFrame):
            return row.parts(step, frame - self._segment_first, seed)
        return frame_parts(step, row, self._page, seed)

    def _begin_segment(self, *, packed: bool = False) -> None:
        self._check_folder()
        self._end_segment()
        row, number = self.layout.row_nbytes, self._segment_number + 1
        self._page = PACKED_PAGES if packed else page_of(row) if self._id is not None else 0
        self._packed = packed
        opening = Opening(number, self._epoch, row, self._layout_crc, page=self._page, id=self._id)
        copies = [(journal.LAYOUT, self._epoch_start, self._layout_payload)]
        copies += [(journal.FORK, fork.first, json.dumps(fork.to_json()).encode()) for fork in self._forks]
        self._segment_number = number  # also when it fails: a file of this number may be there
        (self.path / "log").mkdir(exist_ok=True)  # copies of a recording without empty folders lack it
        segment = AppendFile(self.path / segment_name(number))
        try:
            segment.write([opening_records(opening, self.frames, copies, self._ours.seal)])
        except OSError:
            segment.close()
            raise
        self._segment, self._segment_first = segment, self.frames
        self._segment_room = MOST_PACKED if packed else segment_frames(row, self._tolerance)

    def _end_segment(self, *, torn: bool = False) -> None:
        """Close the segment and have it compressed; a torn one stays as it is."""
        if self._segment is not None:
            if self._fsync == "flush" and not torn:
                self._segment.sync()
            self._segment.close()
            if not torn:
                self._give_to_compactor(self._segment_number, self.frames - self._segment_first)
        self._segment, self._segment_room = None, 0

    def _give_to_compactor(self, number: int, frames: int) -> None:
        folder, name = LocalFolder(self.path), segment_name(number)
        known = Journal(self._ours.seal, epochs=[LayoutEpoch(0, self.layout, crc=self._layout_crc)])
        ours = Belonging(self._ours.id, self._ours.seal, known, unsealed=self._ours.unsealed)

        def opened() -> RawSegment:
            segment = open_segment(number, folder.open(name), ours, is_last=True)
            if segment.count != frames:
                raise DamagedRecording(f"{name} holds {segment.count} whole frames, not the {frames} that were written")
            return segment

        self._compactor.add(number, opened)

    def scalars(self, frames: NDArray[np.int64], names: list[str], values: NDArray[np.float64]) -> None:
        """Log numbers: entry k says that scalar ``names[k]`` has ``values[k]`` at frame ``frames[k]``."""
        new = {name: 0 for name in names if name not in self._scalar_ids}
        following = max(self._scalar_ids.values(), default=-1) + 1
        ids = self._scalar_ids | {name: following + k for k, name in enumerate(new)}
        entries = [(journal.SCALAR_NAME, name.encode(), ids[name]) for name in new]
        batch = np.empty(len(names), journal.SCALAR)
        batch["frame"], batch["value"] = frames, values
        batch["id"] = [ids[name] for name in names]
        self._journal.put(*entries, (journal.SCALARS, batch.tobytes(), 0))
        self._scalar_ids = ids  # only now: a name that did not reach the disk must be written again

    def event(self, step: int, text: str) -> None:
        """Written at once. What is not Unicode (lone surrogates) becomes "?"."""
        self._journal.put((journal.EVENT, text.encode("utf-8", "replace"), step))

    def observed(self, step: int, seen: dict[str, Any]) -> None:
        """What was seen of the network at this step besides its frame, as a JSON object."""
        self._journal.put((journal.OBSERVED, json.dumps(seen, ensure_ascii=False).encode(), step))

    def gap(self, first_step: int, last_step: int, reason: str) -> None:
        """Say that the steps from ``first_step`` to ``last_step`` are missing although they should be here, and why."""
        payload = json.dumps({"last": last_step, "reason": reason}, ensure_ascii=False).encode()
        self._journal.put((journal.GAP, payload, first_step))

    def relayout(self, layout: Layout, note: str, lineage: Any = None) -> None:
        """From the next frame on, frames have another layout."""
        self._end_segment()
        payload = layout_payload(layout, note, lineage)
        self._journal.put((journal.LAYOUT, payload, self.frames))
        self.layout = layout
        self._layout_crc, self._layout_payload = zlib.crc32(payload), payload
        if self.frames != self._epoch_start:  # an epoch without a frame is replaced, not followed, by the next
            self._epoch, self._epoch_start = self._epoch + 1, self.frames

    def set_wiring(self, spec: str) -> None:
        """The text of the wiring, for the whole recording; the last one counts."""
        self._journal.put((journal.WIRING, spec.encode(), 0))

    def stopped(self, step: int, reason: str) -> None:
        """Say that recording ended before training did, and why."""
        self._journal.put((journal.STOP, reason.encode("utf-8", "replace"), step))

    def _check_folder(self) -> None:
        """Raise when the folder is no longer ours: what is made at its path would fall into the recording of another."""
        if not self._lock.is_in(self.path):
            raise CannotRecord(
                f"{self.path} was removed, moved or made anew while it was being recorded to: nothing more of this training can be kept there "
                "(close a recorder before its folder is removed; overwrite=True does both)"
            )

    def flush(self) -> None:
        """Have everything reach the disk where the policy is "flush"; else only see that the folder is still ours. Raises CannotRecord where it is not."""
        self._check_folder()
        if self._fsync == "flush":
            self._sync()

    def _sync(self) -> None:
        if self._segment is not None:
            self._segment.sync()
        self._journal.sync()

    def close(self, *, in_order: bool = True, patience: float = 0.0) -> None:
        """End the recording; ``in_order=False`` leaves it marked as open, as a crash would. ``patience``: seconds to wait for a fault that passes."""
        try:
            if self._takeover is not None:  # not one frame: the old recording is worth more than an empty one
                self._give_back(self._takeover)
                return
            self._check_folder()
            if in_order:
                patiently(lambda: self._journal.put((journal.CLOSE, b"", self.frames)), patience)
                self._end_segment()
                self._compactor.finish()
                if self._compactor.failure is not None:
                    self._tell_uncompacted(self._compactor.failure, patience)
            if self._fsync != "never":
                self._sync()
                for log in patiently(
                    lambda: list((self.path / "log").glob("*.seg")), patience
                ):  # blocks are on the device before their log is deleted
                    sync_path(log)
        finally:
            self._compactor.stop()
            if self._segment is not None:
                self._segment.close()
            self._journal.close()
            self._lock.release()

    @property
    def uncompressed(self) -> int:
        """Segments of the log that are still to be compressed."""
        return self._compactor.waiting

    def _give_back(self, takeover: place.Takeover) -> None:
        if self._segment is not None:  # begun, and without a frame
            remove_proved(self._segment.path)
        takeover.undo()

    def _tell_uncompacted(self, error: BaseException, patience: float) -> None:
        """Say in the recording that it is larger than it need be: every frame is there all the same, and so is its end."""
        reason = f"not all frames could be compressed ({error}); `weightlapse compact` does it later"
        warnings.warn(f"{self.path}: {reason}", stacklevel=2)
        told = (journal.EVENT, reason.encode(), max(self.last_step, 0)), (journal.CLOSE, b"", self.frames)
        with contextlib.suppress(OSError):  # on a disk that stays full it goes unsaid there
            patiently(lambda: self._journal.put(*told), patience)


def _itself(segment: RawSegment) -> RawSegment:
    return segment


def segment_frames(row_nbytes: int, tolerance: float | None) -> int:
    """Frames of a log segment: 64 MiB of them in whole time blocks, or one time block of a large model as far as 2 GiB hold it."""
    fewest, most = _SEGMENT_FRAMES
    height = block_frames(tolerance, row_nbytes)
    row = max(row_nbytes, 1)
    if _SEGMENT_NBYTES // row < height:
        return max(fewest, min(height, _LARGEST_NBYTES // row))
    frames = min(most, _SEGMENT_NBYTES // row)
    return max(frames // height * height, fewest)

"""Writing a recording: frames into log segments, everything else into the journal.

After each call returns, what it wrote is with the operating system: ``kill -9`` loses none of it. Only a power cut can, and how much is
the ``fsync`` policy: "never", "close" (once, at the end) or "flush" (at every :meth:`Writer.flush`).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import weightlapse.store.journal as journal
import weightlapse.store.manifest as manifest
from weightlapse.errors import CannotRecord, InvalidArgument, NotARecording
from weightlapse.store.background import Compactor
from weightlapse.store.compact import block_frames, sync_path
from weightlapse.store.folder import LocalFolder
from weightlapse.store.journal import Journal, LayoutEpoch, layout_record
from weightlapse.store.layout import Layout
from weightlapse.store.lock import Lock
from weightlapse.store.log import AppendFile, encode, payload_crc
from weightlapse.store.reader import Store
from weightlapse.store.segment import RawSegment, frame_parts, opening, segment_name

Compact = Literal["auto", "live", "after", "never"]
Fsync = Literal["close", "flush", "never"]

_SEGMENT_NBYTES = 64 << 20
_LARGEST_NBYTES = 2 << 30  # a segment may grow so far to hold a whole time block of a large model
_SEGMENT_FRAMES = (16, 4096)  # fewest and most frames of a segment


class Writer:
    """Appends to one recording, from one thread. Make one with :meth:`create` or :meth:`resume`."""

    def __init__(
        self,
        path: Path,
        layout: Layout,
        *,
        lock: Lock,
        log: AppendFile,
        state: Journal,
        fsync: Fsync,
        tolerance: float | None,
        compact: Compact,
        memory: int,
    ) -> None:
        self.path = path
        self.layout = layout
        self.frames = 0
        self._lock = lock
        self._journal = log
        self._fsync = fsync
        self._epoch = len(state.epochs) - 1
        self._epoch_start = state.epochs[-1].start
        self._scalar_ids = dict(state.scalar_ids)
        self._segment: AppendFile | None = None
        self._segment_number = -1
        self._segment_room = 0
        self._last_step = 0
        self._layout_crc = state.epochs[-1].crc
        self._tolerance = tolerance
        self._compactor = Compactor(path, tolerance, compact, sync=fsync != "never", memory=memory)

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
    ) -> Writer:
        """A new recording at ``path``. Raises :class:`InvalidArgument` when something is there that must not be replaced."""
        target = Path(path)
        head = manifest.encode(manifest.make(dict(meta or {}), tolerance))
        _check_target(target, overwrite=overwrite)
        made = _make_parents(target.parent)
        try:
            # built beside its place and renamed into it: a recording is never half there
            building = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
            try:
                building.chmod(0o777 & ~_umask())
                (building / "log").mkdir()
                manifest.write(building, head)
                log = AppendFile(building / journal.NAME)
                log.write([layout_record(0, layout, "", None)])
                lock = Lock(building)
                _move_into_place(building, target)
            except BaseException:
                shutil.rmtree(building, ignore_errors=True)
                raise
        except BaseException:
            for folder in made:
                folder.rmdir()
            raise
        state = Journal()
        state.read_on(LocalFolder(target).data(journal.NAME))
        return cls(
            target,
            layout,
            lock=lock,
            log=log,
            state=state,
            fsync=fsync,
            tolerance=tolerance,
            compact=compact,
            memory=memory,
        )

    @classmethod
    def resume(
        cls,
        path: str | os.PathLike[str],
        layout: Layout,
        *,
        note: str = "resumed",
        memory: int = 256 << 20,
        compact: Compact = "auto",
        fsync: Fsync = "close",
    ) -> Writer:
        """Go on with the recording at ``path`` after its last whole frame; another layout begins a new epoch."""
        target = Path(path)
        lock = Lock(Path(LocalFolder(target).location)) if manifest.read(LocalFolder(target)) else None
        assert lock is not None
        try:
            tidy(target)
            store = Store.open(target)
            tail = store.segments[-1] if store.segments else None
            if isinstance(
                tail, RawSegment
            ):  # cut off a write that was cut short, so that the file ends after a whole frame
                AppendFile(target / tail.file, keep=tail.end).close()
            log = AppendFile(target / journal.NAME, keep=store.journal.end)
            writer = cls(
                target,
                store.layouts[-1][1],
                lock=lock,
                log=log,
                state=store.journal,
                fsync=fsync,
                tolerance=store.tolerance,
                compact=compact,
                memory=memory,
            )
            for segment in store.segments:
                if isinstance(segment, RawSegment) and segment.count:
                    writer._give_to_compactor(segment.number, segment.file)
            writer.frames = len(store.steps)
            writer._segment_number = store.last_segment_number
            log.write([encode(journal.OPEN, json.dumps({"note": note}).encode(), writer.frames)])
            if layout != writer.layout:
                writer.relayout(layout, note)
        except BaseException:
            lock.release()
            raise
        return writer

    # ---- what happens during training ------------------------------------------------------------------------------

    def append(self, steps: NDArray[np.int64], rows: NDArray[np.uint8]) -> None:
        """Add frames: ``steps`` (K,) and ``rows`` (K, layout.row_nbytes) uint8.

        When the disk takes no more, as many frames as it does take are there (``frames`` counts them) when the error is raised.
        """
        done = 0
        while done < len(steps):
            if self._segment_room == 0:
                self._begin_segment()
            assert self._segment is not None
            count = min(self._segment_room, len(steps) - done)
            records = [frame_parts(int(steps[k]), rows[k]) for k in range(done, done + count)]
            try:
                self._segment.write([part for record in records for part in record])
                written = count
            except OSError:
                if count == 1:
                    raise
                self._segment.write(records[0])  # one by one, up to the frame that fails by itself
                written = 1
            self._segment_room -= written
            self._last_step = int(steps[done + written - 1])
            self.frames += written
            done += written

    def _begin_segment(self) -> None:
        self._end_segment()
        row = self.layout.row_nbytes
        number = self._segment_number + 1
        segment = AppendFile(self.path / segment_name(number))
        segment.write([opening(number, self.frames, self._epoch, row, self._layout_crc)])
        self._segment, self._segment_number = segment, number
        self._segment_room = segment_frames(row, self._tolerance)

    def _end_segment(self) -> None:
        if self._segment is not None:
            if self._fsync == "flush":
                self._segment.sync()
            self._segment.close()
            self._give_to_compactor(self._segment_number, segment_name(self._segment_number))
        self._segment, self._segment_room = None, 0

    def _give_to_compactor(self, number: int, file: str) -> None:
        folder = LocalFolder(self.path)
        epoch = LayoutEpoch(0, self.layout, crc=self._layout_crc)
        self._compactor.add(number, lambda: RawSegment(file, folder.data(file), [epoch], is_last=True))

    def scalars(self, frames: NDArray[np.int64], names: list[str], values: NDArray[np.float64]) -> None:
        """Log numbers: entry k says that scalar ``names[k]`` has ``values[k]`` at frame ``frames[k]``."""
        parts = []
        for name in names:
            if name not in self._scalar_ids:
                number = max(self._scalar_ids.values(), default=-1) + 1
                parts.append(encode(journal.SCALAR_NAME, name.encode(), number))
                self._scalar_ids[name] = number
        batch = np.empty(len(names), journal.SCALAR)
        batch["frame"], batch["value"] = frames, values
        batch["id"] = [self._scalar_ids[name] for name in names]
        self._journal.write([*parts, encode(journal.SCALARS, batch.tobytes())])

    def event(self, step: int, text: str) -> None:
        self._journal.write([encode(journal.EVENT, text.encode("utf-8", "replace"), step)])

    def gap(self, first_step: int, last_step: int, reason: str) -> None:
        """Say that the steps from ``first_step`` to ``last_step`` are missing although they should be here, and why."""
        payload = json.dumps({"last": last_step, "reason": reason}, ensure_ascii=False).encode()
        self._journal.write([encode(journal.GAP, payload, first_step)])

    def relayout(self, layout: Layout, note: str, lineage: Any = None) -> None:
        """From the next frame on, frames have another layout."""
        self._end_segment()
        record = layout_record(self.frames, layout, note, lineage)
        self._journal.write([record])
        self.layout = layout
        self._layout_crc = payload_crc(record)
        if self.frames != self._epoch_start:  # an epoch without a frame is replaced, not followed, by the next
            self._epoch, self._epoch_start = self._epoch + 1, self.frames

    def set_wiring(self, spec: str) -> None:
        self._journal.write([encode(journal.WIRING, spec.encode())])

    def stopped(self, step: int, reason: str) -> None:
        """Say that recording ended before training did, and why."""
        self._journal.write([encode(journal.STOP, reason.encode("utf-8", "replace"), step)])

    def flush(self) -> None:
        if self._fsync == "flush":
            self._sync()

    def _sync(self) -> None:
        if self._segment is not None:
            self._segment.sync()
        self._journal.sync()

    def close(self, *, in_order: bool = True) -> None:
        """End the recording; ``in_order=False`` leaves it marked as open, as a crash would."""
        try:
            if in_order:
                self._journal.write([encode(journal.CLOSE, b"", self.frames)])
                self._end_segment()
                self._compactor.finish()
                if self._compactor.failure is not None:
                    self._tell_uncompacted(self._compactor.failure)
            if self._fsync != "never":
                self._sync()
                for log in (self.path / "log").glob("*.seg"):  # blocks are on the device before their log is deleted
                    sync_path(log)
        finally:
            self._compactor.stop()
            if self._segment is not None:
                self._segment.close()
            self._journal.close()
            self._lock.release()

    def _tell_uncompacted(self, error: BaseException) -> None:
        """Say in the recording that it is larger than it need be: every frame is there all the same."""
        reason = f"not all frames could be compressed ({error}); `weightlapse compact` does it later"
        warnings.warn(f"{self.path}: {reason}", stacklevel=2)
        step = int(self._last_step)
        self._journal.write([encode(journal.EVENT, reason.encode(), step), encode(journal.CLOSE, b"", self.frames)])


def segment_frames(row_nbytes: int, tolerance: float | None) -> int:
    """Frames of a log segment: 64 MiB of them in whole time blocks, or one time block of a large model as far as 2 GiB hold it."""
    fewest, most = _SEGMENT_FRAMES
    height = block_frames(tolerance)
    row = max(row_nbytes, 1)
    if _SEGMENT_NBYTES // row < height:
        return max(fewest, min(height, _LARGEST_NBYTES // row))
    frames = min(most, _SEGMENT_NBYTES // row)
    return max(frames // height * height, fewest)


def tidy(folder: Path) -> None:
    """Remove what a compaction that was killed left behind: unfinished blocks, and logs whose block is complete."""
    for unfinished in folder.glob("blocks/*.tmp"):
        unfinished.unlink()
    for block in folder.glob("blocks/*.blk"):
        (folder / segment_name(int(block.stem))).unlink(missing_ok=True)


def _check_target(target: Path, *, overwrite: bool) -> None:
    if not os.path.lexists(target):
        return
    if target.is_dir() and not target.is_symlink() and not any(target.iterdir()):
        return  # an empty folder is nobody's data
    try:
        manifest.read(LocalFolder(target))
    except NotARecording:
        raise InvalidArgument(
            f"{target} exists and is not a recording: it is left alone (overwrite=True replaces only recordings); choose another path"
        ) from None
    if not overwrite:
        raise InvalidArgument(
            f"{target} already holds a recording; choose another path, or pass overwrite=True to replace it, or resume=True to go on with it"
        )


def _make_parents(folder: Path) -> list[Path]:
    """Create ``folder`` and return what was created, innermost first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    if not folder.is_dir():
        raise CannotRecord(f"{folder} is a file: no recording can be put below it; choose another path")
    for path in reversed(missing):
        path.mkdir()
    return missing


def _move_into_place(building: Path, target: Path) -> None:
    if not target.exists() or not any(target.iterdir()):
        building.rename(target)
        return
    old = Lock(target)  # refuses when a live process still writes there
    aside = building.with_name(building.name + ".old")
    try:
        target.rename(aside)
        building.rename(target)
    finally:
        old.release()
    shutil.rmtree(aside)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

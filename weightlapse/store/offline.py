"""Compaction of a recording that nobody is writing: what ``weightlapse compact RUN`` does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightlapse.errors import DamagedRecording
from weightlapse.store.folder import LocalFolder
from weightlapse.store.keeper import Keeper
from weightlapse.store.lock import Lock
from weightlapse.store.place import check_folders
from weightlapse.store.proof import compress
from weightlapse.store.reader import Store
from weightlapse.store.repair import tidy
from weightlapse.store.statistics_file import put_in_order
from weightlapse.store.stretches import gathered, without_statistics
from weightlapse.store.threads import threads


@dataclass(frozen=True)
class Compaction:
    """What was done: frames compressed, bytes on disk before and after, and for each segment that stayed a log the reason."""

    frames: int
    nbytes_before: int
    nbytes_after: int
    kept: tuple[str, ...]


def _plainly(items: Iterable[Any], label: str) -> Iterable[Any]:
    return items


def compact_recording(
    path: str | os.PathLike[str], track: Callable[[Iterable[Any], str], Iterable[Any]] = _plainly
) -> Compaction:
    """Compress every log segment of the recording at ``path``, with its own tolerance, and make the statistics that it lacks; ``track`` shows progress.

    Raises :class:`CannotRecord` while a recorder writes there. A segment with a damaged frame stays as it is and is named in ``kept``.
    """
    done = [_compact_one(path, track)]
    ranks = Path(path) / "ranks"  # parts that other processes wrote
    done += [_compact_one(rank, track) for rank in sorted(ranks.iterdir())] if ranks.is_dir() else []
    return Compaction(
        sum(d.frames for d in done),
        sum(d.nbytes_before for d in done),
        sum(d.nbytes_after for d in done),
        tuple(reason for d in done for reason in d.kept),
    )


def _compact_one(path: str | os.PathLike[str], track: Callable[[Iterable[Any], str], Iterable[Any]]) -> Compaction:
    Store.open(path)  # says what is wrong when this is no recording, before a lock is made in it
    folder = Path(LocalFolder(path).location)
    lock = Lock(folder)
    try:
        check_folders(folder)
        before = Store.open(folder).stored_nbytes
        tidy(folder)
        store = Store.open(folder)
        frames, kept = (
            0,
            [f"{c.copy.file}: neither the log nor the block is whole; both are kept" for c in store.doubled],
        )
        put_in_order(folder, store.ours.id)
        keeper = Keeper(folder, store.ours, store.tolerance)
        try:
            for segment in track(store.raw_segments, "compressing"):
                try:
                    compress(folder, segment, store.ours, store.tolerance, count=threads(), keeper=keeper)
                    frames += segment.count
                except DamagedRecording as error:
                    kept.append(str(error))
            store.refresh()
            for block in track(without_statistics(store), "statistics"):
                with contextlib.suppress(DamagedRecording):  # `weightlapse verify` says so
                    keeper.add(block.number, gathered(store, block, folder).done())
        finally:
            keeper.close()
        return Compaction(frames, before, store.stored_nbytes, tuple(kept))
    finally:
        lock.release()

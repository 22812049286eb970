"""The place of a new recording: an empty one, or that of another, which it then replaces in one step.

A new folder is built beside its place and renamed into it. An overwrite never moves or empties the folder: the new journal is written beside
the old one, under a name of its own, and then the manifest, which names it, replaces the old manifest by one rename. Before that rename the
folder holds the old recording, after it the new one; what is left of the old one names the old id, counts for nothing, and is removed, now or
by the next writer. Whatever else the user has put there stays.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import weightlapse.store.manifest as manifest
from weightlapse.errors import CannotRecord, InvalidArgument, NotARecording, WeightlapseError
from weightlapse.store.folder import LocalFolder
from weightlapse.store.journal import EVENT
from weightlapse.store.lock import Lock
from weightlapse.store.log import HEAD, RecordFile
from weightlapse.store.portable import in_use, rename
from weightlapse.store.reader import Store
from weightlapse.store.remove import remove_building, remove_empty, remove_own, remove_proved
from weightlapse.store.repair import remove_replaced

Entry = tuple[bytes, bytes, int]


@dataclass
class Place:
    """What a new recording has from the start: the lock, its open journal, the number of its first segment, what it may have replaced."""

    lock: Lock
    log: RecordFile
    first_segment: int = 0
    takeover: Takeover | None = None


@dataclass(frozen=True)
class Takeover:
    """A recording that has been replaced and whose files are still there."""

    target: Path
    old_manifest: bytes
    new_journal: Path

    def finish(self) -> None:
        """Remove the old one's files. What will not go counts for nothing, and the next writer tries again."""
        with contextlib.suppress(OSError, WeightlapseError):
            remove_replaced(self.target)

    def undo(self) -> None:
        """Let the old recording be the one here again."""
        manifest.write(self.target, self.old_manifest)
        remove_proved(self.new_journal)


def found(target: Path, head: dict[str, Any], first: Entry, *, overwrite: bool) -> Place:
    """Make a recording of this manifest at ``target``, whose journal begins with the entry ``first``. ``head`` gets what the place adds to it."""
    data = manifest.encode(head)
    if _check(target, overwrite=overwrite):
        return _take_over(target, head, first)
    made = _make_parents(target.parent)
    try:
        building = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            building.chmod(0o777 & ~_umask())
            (building / "log").mkdir()
            manifest.write(building, data)
            log = _journal(building / manifest.JOURNAL, head, data, [first])
            try:
                lock = Lock(building)
                try:
                    lock = _move(building, target, lock, log)
                except BaseException:
                    lock.release()
                    raise
            except BaseException:
                log.close()
                raise
        except BaseException:
            remove_building(building)
            raise
    except BaseException:
        for folder in made:
            remove_empty(folder)
        raise
    log.path = target / manifest.JOURNAL
    return Place(lock, log)


def check_folders(target: Path) -> None:
    """Raise :class:`CannotRecord` unless what is written to below ``target`` are folders of its own."""
    for below in ("log", "blocks"):
        path = target / below
        if path.is_symlink() or (os.path.lexists(path) and not path.is_dir()):
            raise CannotRecord(
                f"{path} is {'a link' if path.is_symlink() else 'a file'}, not a folder of this recording: nothing is written there; put it away first"
            )


def _journal(path: Path, head: dict[str, Any], data: bytes, entries: list[Entry]) -> RecordFile:
    log = RecordFile(path, manifest.seal_of(head))
    try:
        log.put((HEAD, data, 0), *entries)
    except BaseException:
        log.close()
        raise
    return log


def _move(building: Path, target: Path, lock: Lock, log: RecordFile) -> Lock:
    """Rename the folder with its lock held and its journal open; returns the lock that is held afterwards."""
    if target.exists():
        remove_empty(target)  # an empty folder is nobody's data, and some systems do not rename onto one
    try:
        rename(building, target, patient=False)
        return lock
    except OSError as error:
        if not in_use(error):
            raise
    # Windows: no folder is renamed while a file in it is open. Until the lock is taken again another writer may take it; the recording is theirs then.
    log.close()
    lock.release()
    rename(building, target)
    try:
        lock = Lock(target)
        try:
            log.reopen(target / manifest.JOURNAL)
        except BaseException:
            lock.release()
            raise
    except OSError:
        rename(target, building)  # for the caller, who removes it
        raise
    return lock


def _take_over(target: Path, head: dict[str, Any], first: Entry) -> Place:
    """Everything that can fail comes first, the rename of the manifest last."""
    lock = Lock(target)  # refuses when a live process still writes there
    log = None
    name = f"journal-{head['id'][:8]}.log"
    try:
        check_folders(target)
        kept = remove_replaced(target)[1]  # of an overwrite before this one, that was killed before its end
        if kept:
            raise CannotRecord(
                f"{target} still holds {kept[0]} of a recording that was overwritten before, and it cannot be removed: remove it by hand"
            )
        old = Store.open(target)
        before = manifest.encode(manifest.read(LocalFolder(target))[0])
        number = old.last_segment_number + 1
        head |= {"journal": name, "first_segment": number, "replaced": old.id if old.version > 1 else ""}
        data = manifest.encode(head)
        told = (EVENT, b"this recording replaced another one here", 0)
        log = _journal(target / f"{name}.tmp", head, data, [first, told])
        log.rename(target / name)
        manifest.write(target, data)
    except BaseException:
        if log is not None:
            log.close()
        remove_own(target / f"{name}.tmp")
        lock.release()
        raise
    return Place(lock, log, number, Takeover(target, before, target / name))


def upgrade(target: Path) -> None:
    """Let a recording of version 1 be one of version 2 from now on; its files stay as they are."""
    head = manifest.read(LocalFolder(target))[0]
    manifest.write(target, manifest.encode(head | {"version": manifest.UNPACKED, "born": 1}))


def _check(target: Path, *, overwrite: bool) -> bool:
    """Whether there is a recording to be replaced; raises :class:`InvalidArgument` when something is there that must not be."""
    if not target.is_symlink() and not target.exists():
        return False
    if target.is_dir() and not target.is_symlink() and not any(target.iterdir()):
        return False
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
    return True


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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

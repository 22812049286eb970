"""The place of a new recording: an empty one, or that of another, which it then replaces in one step.

A new folder is built beside its place and renamed into it. An overwrite never moves or empties the folder: the new journal is written beside
the old one, under a name of its own, and then the manifest, which names it, replaces the old manifest by one rename. Before that rename the
folder holds the old recording, after it the new one; what is left of the old one names the old id, counts for nothing, and is removed, now or
by the next writer. Whatever else the user has put there stays.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import weightlapse.store.manifest as manifest
from weightlapse.errors import CannotRecord, InvalidArgument, NotARecording
from weightlapse.store.folder import LocalFolder
from weightlapse.store.lock import Lock
from weightlapse.store.log import HEAD, RecordFile
from weightlapse.store.reader import Store
from weightlapse.store.remove import remove_building, remove_empty, remove_own
from weightlapse.store.repair import remove_replaced

Entry = tuple[bytes, bytes, int]


def found(target: Path, head: dict[str, Any], first: Entry, *, overwrite: bool) -> tuple[Lock, RecordFile, list[str]]:
    """Make a recording of this manifest at ``target``: its lock, its journal with the entry ``first``, and what is to be told in it."""
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
            log = _journal(building / manifest.JOURNAL, head, data, first)
            lock = Lock(building)
            try:
                _move(building, target)
            except BaseException:
                log.close()
                lock.release()
                raise
        except BaseException:
            remove_building(building)
            raise
    except BaseException:
        for folder in made:
            remove_empty(folder)
        raise
    log.path = target / manifest.JOURNAL
    return lock, log, []


def _journal(path: Path, head: dict[str, Any], data: bytes, first: Entry) -> RecordFile:
    log = RecordFile(path, manifest.seal_of(head))
    try:
        log.put((HEAD, data, 0), first)
    except BaseException:
        log.close()
        raise
    return log


def _move(building: Path, target: Path) -> None:
    if target.exists():
        remove_empty(target)  # an empty folder is nobody's data, and some systems do not rename onto one
    building.rename(target)


def _take_over(target: Path, head: dict[str, Any], first: Entry) -> tuple[Lock, RecordFile, list[str]]:
    lock = Lock(target)  # refuses when a live process still writes there
    try:
        old = Store.open(target)
        name = f"journal-{head['id'][:8]}.log"
        head = head | {
            "journal": name,
            "first_segment": old.last_segment_number + 1,
            "replaced": old.id if old.version > 1 else "",
        }
        data = manifest.encode(head)
        log = _journal(target / f"{name}.tmp", head, data, first)
        try:
            log.rename(target / name)
            manifest.write(target, data)
        except BaseException:
            log.close()
            remove_own(target / f"{name}.tmp")
            raise
    except BaseException:
        lock.release()
        raise
    try:
        removed, kept = remove_replaced(target)
    except BaseException:
        log.close()
        lock.release()
        raise
    told = [f"this recording replaced another ({removed} files removed)"]
    told += [f"{len(kept)} of its files could not be removed: {kept[0]}, ..."] if kept else []
    return lock, log, told


def upgrade(target: Path) -> None:
    """Let a recording of version 1 be one of version 2 from now on; its files stay as they are."""
    head = manifest.read(LocalFolder(target))[0]
    manifest.write(target, manifest.encode(head | {"version": manifest.VERSION, "born": 1}))


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

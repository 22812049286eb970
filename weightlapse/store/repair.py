"""What the next writer of a recording, or ``weightlapse compact``, puts in order: what killed writers, compactions and overwrites left behind."""

from __future__ import annotations

import re
from pathlib import Path

import weightlapse.store.manifest as manifest
from weightlapse.errors import DamagedRecording, NotARecording
from weightlapse.store.block import block_name
from weightlapse.store.blockread import BlockSegment
from weightlapse.store.folder import LocalFolder
from weightlapse.store.journal import EVENT, LAYOUT
from weightlapse.store.log import HEAD, UNSEALED, read_record, scan
from weightlapse.store.portable import replace
from weightlapse.store.proof import holds_the_same
from weightlapse.store.raw import RawSegment
from weightlapse.store.reader import Store
from weightlapse.store.remove import remove_empty, remove_own, remove_proved
from weightlapse.store.segments import TwoCopies
from weightlapse.store.statistics_file import statistics_of


def tidy(folder: Path) -> list[str]:
    """Put the recording in order, its lock held by the caller; returns what was done and is worth telling. Nothing that may be needed is removed."""
    for unfinished in (
        *folder.glob("blocks/*.tmp"),
        *folder.glob("journal*.tmp"),
        *folder.glob("stats-*.tmp"),
        folder / f"{manifest.NAME}.tmp",
    ):
        if re.fullmatch(r"\d{6,}\.tmp|(journal|stats)-[0-9a-f]{8}\.log\.tmp|manifest\.json\.tmp", unfinished.name):
            remove_own(unfinished)
    for stray in _never_begun(folder):
        remove_proved(stray)
    removed, _ = remove_replaced(folder)
    told = (
        [f"an interrupted overwrite was completed ({removed} files of the replaced recording removed)"]
        if removed
        else []
    )
    store = Store.open(folder)
    for stub in store.stubs:
        remove_proved(folder / stub)
    for copies in store.doubled:
        told += _keep_one(folder, copies)
    return told


def _keep_one(folder: Path, copies: TwoCopies) -> list[str]:
    """Of a log and its block keep the block when it holds the same, else the log when that is whole, else both."""
    first, other = copies.copy, copies.other
    block = first if isinstance(first, BlockSegment) else other
    log = first if isinstance(first, RawSegment) else other
    if not isinstance(log, RawSegment):
        log = _log_of(folder, copies)
    if isinstance(block, BlockSegment) and log is not None and holds_the_same(block, log):
        remove_proved(folder / log.file)
        return []
    if log is not None and not log.verify():
        name = block_name(log.number)
        replace(folder / name, folder / f"{name}.damaged")  # set aside: the log is whole, and becomes a block anew
        return [f"{name} does not hold what {log.file} holds: it was set aside as {name}.damaged"]
    return []


def _log_of(folder: Path, copies: TwoCopies) -> RawSegment | None:
    try:
        opened = copies.open_other()
    except (DamagedRecording, FileNotFoundError):
        return None
    return opened if isinstance(opened, RawSegment) else None


def _never_begun(folder: Path) -> list[Path]:
    """Journals of overwrites that died before their manifest was in place: they hold a beginning and nothing else."""
    where, found = LocalFolder(folder), []
    own = manifest.read(where)[0].get("journal", manifest.JOURNAL)
    for path in folder.glob("journal-*.log"):
        if path.name == own or not re.fullmatch(r"journal-[0-9a-f]{8}\.log", path.name):
            continue
        kinds = [place.kind for place in scan(where.open(path.name))]
        begun = read_record(where.open(path.name), 0, UNSEALED, manifest.MAX_NBYTES)
        named = begun is not None and (manifest.id_in(begun.payload) or "").startswith(path.name[8:16])
        if named and kinds == [HEAD, LAYOUT, EVENT]:
            found.append(path)
    return found


def withdraw(folder: Path, identity: bytes) -> None:
    """Remove the recording in ``folder``, which this process has just made and nobody wants: its own files, and the folder when nothing else is in it."""
    store = Store.open(folder)
    if store.id != identity.hex():
        return  # it has given its place back already
    own = [f"{below}/{name}" for below in ("log", "blocks") for name in LocalFolder(folder).names(below)]
    for name in (*own, store.statistics.name, store.journal_name, manifest.NAME, "lock"):
        if re.fullmatch(
            r"(stats-[0-9a-f]{8}\.log|log/\d{6,}\.seg|blocks/\d{6,}\.blk|journal(-[0-9a-f]{8})?\.log|manifest\.json|lock)",
            name,
        ):
            remove_proved(folder / name)
    for below in ("log", "blocks", "ranks", ""):
        remove_empty(folder / below)


def remove_replaced(folder: Path) -> tuple[int, list[str]]:
    """Remove the files of a recording that the one in ``folder`` has replaced; how many, and those that would not go.

    They are known by the id that they name (or, of version 1, that they name none and are numbered before the new one's first).
    """
    where = LocalFolder(folder)
    head = manifest.read(where)[0]
    if not isinstance(head.get("replaced"), str):
        return 0, []
    store = Store.open(folder)
    names = list(store.leftovers)
    own = store.journal_name
    for path in sorted(folder.glob("journal*.log")):
        if (
            path.name != own
            and re.fullmatch(r"journal(-[0-9a-f]{8})?\.log", path.name)
            and _is_of(where, path.name, head)
        ):
            names.append(path.name)
    names += statistics_of(where, head["replaced"])
    removed, kept = 0, []
    for name in names:
        try:
            remove_proved(folder / name)
            removed += 1
        except OSError:
            kept.append(name)
    return removed, kept


def _is_of(where: LocalFolder, name: str, head: dict[str, object]) -> bool:
    """Whether a journal is that of the replaced recording."""
    try:
        record = read_record(where.open(name), 0, UNSEALED, manifest.MAX_NBYTES)
    except (DamagedRecording, NotARecording, OSError):
        return False
    if record is None:
        return False
    if record.kind == HEAD:
        return manifest.id_in(record.payload) == head["replaced"]
    return head["replaced"] == "" and name == manifest.JOURNAL

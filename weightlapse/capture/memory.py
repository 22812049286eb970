"""How much memory a recorder takes: ``memory="auto"`` is a share of what is free, enough for the model and never a refusal for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.capture.ring import MAX_ROWS, MIN_ROWS, Ring
from weightlapse.errors import CannotRecord

_SHARE = 4  # one part in so many of what is free, at the most
_USUAL = 256_000_000  # bytes that nobody minds
_FRAMES = 16  # of a large model that may wait for the disk

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)


def needed(row_nbytes: int, rows: int = MIN_ROWS) -> int:
    """The least memory in which ``rows`` frames can wait."""
    return -(-rows * row_nbytes * 4 // 3)


def auto_memory(row_nbytes: int, available: int | None = None) -> int:
    """Bytes for a recorder of frames of ``row_nbytes``, with ``available`` bytes free (as found, where None is given)."""
    free = available_memory() if available is None else available
    wanted = min(max(_USUAL, needed(row_nbytes, _FRAMES)), needed(row_nbytes, MAX_ROWS))
    return max(1, needed(row_nbytes), min(wanted, (4 * _USUAL if free is None else free) // _SHARE))


def ring_for(
    row_nbytes: int, memory: int | None, allocate: Callable[[tuple[int, int]], NDArray[np.uint8]] | None
) -> Ring:
    """A ring in so many bytes; None is "auto", which makes do with less where memory cannot be had."""
    if memory is not None:
        return Ring(row_nbytes, memory, allocate)
    budget = auto_memory(row_nbytes)
    while True:
        try:
            return Ring(row_nbytes, budget, allocate)
        except (MemoryError, RuntimeError) as error:  # the latter of torch, for page-locked memory
            if isinstance(error, CannotRecord) or budget <= needed(row_nbytes):
                raise CannotRecord(
                    f"there is no memory for two frames of {row_nbytes:,} bytes ({error}): record fewer tensors (tensors='...')"
                ) from error
            budget = max(needed(row_nbytes), budget // 2)


def ring_memory(ring: Ring, row_nbytes: int) -> int:
    """What the recorder as a whole may use beside a ring that "auto" has made; never less than what nobody minds."""
    if not ring.has_rows:
        return auto_memory(row_nbytes)
    return max(_USUAL, needed(row_nbytes, ring.capacity))


def available_memory() -> int | None:
    """Bytes of memory that are free for this program, in its container too; None where the system does not say."""
    found = [n for n in (_of_the_machine(), *(_of_a_group(*paths) for paths in _CGROUPS)) if n is not None]
    return min(found, default=None)


def _of_the_machine() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, OSError, ValueError):
        return None


def _of_a_group(limit: str, used: str, stat: str) -> int | None:
    """What the limit of a container leaves, files that the system only keeps in memory not counted."""
    try:
        most = int(Path(limit).read_text("ascii"))
        facts: dict[str, Any] = dict(line.split() for line in Path(stat).read_text("ascii").splitlines())
        return max(0, most - int(Path(used).read_text("ascii")) + int(facts.get("inactive_file", 0)))
    except (OSError, ValueError):  # no such group, or "max"
        return None

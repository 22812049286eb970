"""Faults of a disk that pass, and waiting for their end."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PASSING = frozenset(
    number
    for name in ("ENOSPC", "EDQUOT", "EIO", "EMFILE", "ENFILE")
    if (number := getattr(errno, name, None)) is not None
)  # errors that end by themselves: space is made, descriptors are given back


def patiently(call: Callable[[], T], seconds: float, wait: float = 0.05) -> T:
    """What ``call`` returns; where it meets an error that can pass it is tried again, for ``seconds`` at most. Never for an fsync: what it lost is gone."""
    while True:
        try:
            return call()
        except OSError as error:
            if error.errno not in PASSING or seconds <= 0:
                raise
        time.sleep(min(wait, seconds))
        seconds, wait = seconds - wait, min(2 * wait, 1.0)

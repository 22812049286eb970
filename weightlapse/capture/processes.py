"""Recorders and processes: which ones are open here, what becomes of them in a forked child, and of their copies.

A recorder writes in the process that called ``watch()``, and there alone.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import weakref
from pathlib import Path
from typing import Any, Protocol


class Open(Protocol):
    """A recorder, as far as this module knows it."""

    def close(self) -> None:
        """Called when the process ends with the recorder open."""

    def disown(self, why: str) -> None:
        """From now on record nothing: ``why`` is said at the next step."""


_open: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_pumps: weakref.WeakValueDictionary[str, Any] = (
    weakref.WeakValueDictionary()
)  # also of recorders that nobody holds any more
_registered = False


def opened(recorder: Open, pump: Any, path: Path) -> None:
    """``recorder`` writes to ``path`` through ``pump`` until :func:`closed`; it is closed at exit, and disowned in forked children."""
    global _registered
    _open[os.path.realpath(path)] = recorder
    _pumps[os.path.realpath(path)] = pump
    if not _registered:
        _registered = True
        atexit.register(_at_exit)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_in_child)


def closed(recorder: Open, path: Path) -> None:
    """The recorder no longer writes to ``path``, so that another may; nothing where another one does already."""
    if _open.get(os.path.realpath(path)) is recorder:
        del _open[os.path.realpath(path)]


def open_at(path: Path) -> Any:
    """The recorder of this process that writes to ``path``, None when there is none; one that nobody holds is waited for until it is closed."""
    recorder, pump = _open.get(os.path.realpath(path)), _pumps.get(os.path.realpath(path))
    if recorder is None and pump is not None:
        pump.abandon()
        pump.thread.join()
    return recorder


def _at_exit() -> None:
    for recorder in list(_open.values()):
        with contextlib.suppress(Exception):  # what cannot be closed has said so
            recorder.close()
    for pump in list(_pumps.values()):
        pump.abandon()
        pump.thread.join()


def _in_child() -> None:
    parent = os.getppid()
    for recorder in list(_open.values()):
        recorder.disown(
            f"watch() was called in process {parent}, and this is its forked child {os.getpid()}: nothing that is trained here is recorded. "
            "Call watch() in the process that trains"
        )
    _open.clear()
    _pumps.clear()

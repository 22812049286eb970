"""Keeps a copy of a recording elsewhere while it grows; trouble there never touches the recording or the training."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path

from weightlapse.store.mirror import Mirror

_SECONDS = 10.0  # between two looks for finished blocks


class Mirroring:
    """A thread that pushes finished blocks, and at :meth:`finish` the rest. A failure is warned of once and ends the copying."""

    def __init__(self, mirror: Mirror, folder: Path, seconds: float = _SECONDS) -> None:
        self._mirror = mirror
        self._folder = folder
        self._seconds = seconds
        self._stop = threading.Event()
        self.failure: str | None = None
        self._thread = threading.Thread(target=self._run, name="weightlapse-mirror", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._seconds) and self.failure is None:
            self._push(all_of_it=False)

    def _push(self, *, all_of_it: bool) -> None:
        try:
            self._mirror.push(self._folder, all_of_it=all_of_it)
        except Exception as error:  # noqa: BLE001 — whatever a remote file system raises must not reach the training
            self.failure = str(error) or type(error).__name__
            warnings.warn(
                f"the copy of {self._folder} at {self._mirror.url} is not complete: {self.failure}; the recording itself is whole",
                stacklevel=2,
            )

    def finish(self) -> None:
        """Copy everything that is left; the recording has been closed."""
        self._stop.set()
        self._thread.join()
        if self.failure is None:
            self._push(all_of_it=True)

"""Small pictures of all frames, made while nobody asks for anything, so that a jump anywhere shows at once.

A recording packs neighbouring frames together, so the first frame of a stretch takes a moment to unpack. These pictures bridge that
moment; the exact one follows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable

BUDGET = 96_000_000  # bytes of pictures kept
QUIET_SECONDS = 0.3  # how long nobody must have asked before work goes on

Key = Hashable


class Previews:
    """Pictures by (key, frame); one key is worked on at a time, the one last wanted.

    ``busy`` tells the time of the last question, as ``time.monotonic()``.
    """

    def __init__(self, busy: Callable[[], float]) -> None:
        self._busy = busy
        self._kept: dict[Key, dict[int, bytes]] = {}
        self._used = 0
        self._key: Key = None
        self._lock = threading.Lock()

    def get(self, key: Key, frame: int) -> bytes | None:
        return self._kept.get(key, {}).get(frame)

    def want(self, key: Key, open_pictures: Callable[[], Callable[[int], bytes]], frames: int) -> None:
        """Begin with the pictures of ``key``, unless they are under way. ``open_pictures()`` gives a function from frame to picture."""
        with self._lock:
            if key == self._key:
                return
            self._key = key
            if key not in self._kept:
                self._kept.clear()  # another tensor or scale: the old pictures are of no use
                self._used = 0
                self._kept[key] = {}
        threading.Thread(
            target=self._work, args=(key, open_pictures, frames), name="weightlapse-previews", daemon=True
        ).start()

    def _work(self, key: Key, open_pictures: Callable[[], Callable[[int], bytes]], frames: int) -> None:
        picture: Callable[[int], bytes] | None = None
        for frame in range(frames):
            while (wait := self._busy() + QUIET_SECONDS - time.monotonic()) > 0:
                time.sleep(wait)
            if self._key != key or self._used > BUDGET:
                return
            if frame in self._kept[key]:
                continue
            picture = picture or open_pictures()
            begun = time.monotonic()
            try:
                made = picture(frame)
            except RuntimeError:  # the program ends: its pools take no more work
                return
            time.sleep(
                min(0.2, time.monotonic() - begun)
            )  # half of one processor at most: the page may be playing what it has
            with self._lock:
                if self._key != key:
                    return
                self._kept[key][frame] = made
                self._used += len(made)

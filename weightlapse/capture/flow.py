"""Frames on their way: training, ring, disk, codec, network. What is kept up with at given rates, and what happens where it is not.

Training makes a frame of ``frame_nbytes`` every ``period`` seconds and puts it into a ring of ``ring`` frames. The disk takes frames out of it, one
after the other, into the log. What it has left over goes to the codec beside training, which reads the log from the system's cache and writes
``ratio`` times fewer bytes; at the end the log that is left is compressed on all cores. The network, where there is a mirror, takes what is compressed.

All of this is a fluid: a frame here or there is not counted. ``docs/explain/scale.md`` draws it, and a simulation in small steps agrees with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Flow:
    """Bytes, seconds, and bytes a second; ``encode`` is that of the codec beside training, ``encode_all`` after it, both of raw bytes."""

    frame_nbytes: float
    period: float
    disk: float
    encode: float
    encode_all: float
    ratio: float
    ring: int = 256
    network: float = math.inf

    @property
    def frame_seconds(self) -> float:
        """What the disk takes for a frame."""
        return self.frame_nbytes / self.disk

    @property
    def kept_up(self) -> bool:
        """Whether the disk takes frames as fast as training makes them, for ever."""
        return self.frame_seconds <= self.period

    def held_up(self, frames: int) -> bool:
        """Whether training waits within so many frames: not before the ring is full."""
        return not self.kept_up and self.training_seconds(frames) > frames * self.period

    def training_seconds(self, frames: int) -> float:
        """How long training takes for so many frames when it waits for room in the ring: a frame is free when the disk has written it."""
        return max(frames * self.period, (frames - self.ring) * self.frame_seconds)

    def slower_by(self, frames: int) -> float:
        """How much longer training takes because it waits, as a fraction of what it would take."""
        return self.training_seconds(frames) / (frames * self.period) - 1

    def gap(self, frames: int) -> float:
        """The share of frames that ``backpressure="stretch"`` leaves out: those that find the ring full."""
        taken = self.ring + frames * self.period / self.frame_seconds
        return max(0.0, 1 - taken / frames)

    @property
    def encode_beside(self) -> float:
        """Raw bytes a second that are compressed while training runs: no more than there are, and than the disk has left to write."""
        made = min(self.frame_nbytes / self.period, self.disk)
        return min(self.encode, made, (self.disk - made) * self.ratio)

    def left(self, frames: int) -> float:
        """Bytes of log that training leaves to be compressed."""
        return max(0.0, frames * self.frame_nbytes - self.encode_beside * self.training_seconds(frames))

    def most_nbytes(self, frames: int) -> float:
        """Bytes on the disk when training ends, the most that there ever are: the log that is left, and blocks."""
        left = self.left(frames)
        return left + (frames * self.frame_nbytes - left) / self.ratio

    def drains_in(self, frames: int) -> float:
        """Seconds after the last step until the ring, the last frame at least, is in the log."""
        in_ring = frames * self.frame_nbytes - self.training_seconds(frames) * self.disk
        return max(self.frame_nbytes, in_ring) / self.disk

    def closes_in(self, frames: int) -> float:
        """Seconds from the last step to the end of ``close()``: the ring is emptied, then what is left is compressed, the last frame at least."""
        left = max(self.frame_nbytes, self.left(frames))
        return self.drains_in(frames) + left / min(self.encode_all, self.disk * self.ratio)

    def mirrored_in(self, frames: int) -> float:
        """Seconds from the last step until the network has taken everything; while the ring is emptied there are only older blocks to send."""
        made = self.encode_beside / self.ratio * self.training_seconds(frames)
        sent = min(made, self.network * self.training_seconds(frames))
        drain = self.drains_in(frames)
        rest = frames * self.frame_nbytes / self.ratio - sent - min(made - sent, self.network * drain)
        return max(self.closes_in(frames), drain + max(rest, 0.0) / self.network)

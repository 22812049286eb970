"""The witness: compares what the recorder sees with what moved.

A frame belongs to an update only as far as something says so: the optimizer, or ``rec.step()``. The witness looks from the other side. torch counts
in-place changes of every tensor (``_version``), which costs a few nanoseconds to read; only when these counters do not fit what was seen are values
compared, with the row of the last frame that still lies in the ring. Elsewhere the rows themselves are compared, at a few places first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.adapters.source import Source
from weightlapse.capture.findings import Findings
from weightlapse.capture.ring import Ring
from weightlapse.store.layout import Layout

_PATIENT_FRAMES = 3  # equal frames in a row before something is said: one or two a scaler or a warm-up may well make
_PATIENT_LOGS = (
    3,
    20,
)  # calls of log() without a step after which moved weights are spoken of, before the first step and later
_SAMPLES = 256
_LOOK = 64  # bytes of the first tensor that are looked at before anything else


class Witness:
    """What moved since the last step that was seen. Its recorder tells it of every step and asks it around them."""

    def __init__(self, source: Source, findings: Findings) -> None:
        self._source = source
        self._findings = findings
        self.attached = False  # whether an optimizer is followed
        self.not_held: list[str] = []  # trainable tensors that no given optimizer holds
        self.steps = 0  # seen so far
        self._marked: Any = None  # counters at the last step
        self._slot: int | None = None  # row of the last frame in the ring
        self._slot_marked: Any = None  # counters at that frame
        self._fresh = False  # whether the last step is that frame
        # whether updates on a device go uncounted (torch counts none of fused optimizers): to look at the values, each frame would be waited for
        self._uncounted = False
        self._frames = self._equal = 0  # frames after the first; how many of them in a row, up to now, changed nothing
        self._logs = 0
        self._departures = 0  # updates before which the weights had left the last frame
        self._left: list[str] = []  # what had left the last frame when the present update began
        self._entered: Any = None  # counters then

    def bind(self, ring: Ring, layout: Layout) -> None:
        """From now on frames lie in this ring."""
        self._ring = ring
        self._slot, self._fresh = None, False
        weights = [i for i, t in enumerate(layout.tensors) if t.stream == "weights" and t.nbytes]
        self._names = [layout.tensors[i].name for i in weights]
        self._places = [slice(layout.offsets[i], layout.offsets[i] + layout.tensors[i].nbytes) for i in weights]
        first = self._places[0] if weights else slice(0, 0)
        self._first = slice(first.start, min(first.start + _LOOK, first.stop))

    # ---- what the recorder tells -----------------------------------------------------------------------------------

    def start(self, slot: int | None) -> None:
        """Nothing has been seen yet; the first frame lies in ``slot``, None where it was on disk already."""
        self._mark(slot)
        self.steps = 0

    def frame(self, slot: int, step: int) -> None:
        """The step ``step`` is the frame in ``slot``, which has just been copied."""
        version = self._source.version(copied=True)
        if (version is None or version == self._slot_marked) and self._holds_the_same(slot, version):
            self._equal += 1
            if self._equal == _PATIENT_FRAMES:
                self._say_unchanged(step)
        else:
            self._equal = 0
        self._frames += 1
        self._marked = self._slot_marked = version
        self._slot, self._fresh = slot, True
        self.steps += 1
        self._logs = 0

    def passed(self) -> None:
        """A step was seen that is no frame."""
        self._mark(None)

    def _mark(self, slot: int | None) -> None:
        self._marked = self._source.version()
        self._fresh = slot is not None
        if slot is not None:
            self._slot, self._slot_marked = slot, self._marked
        self.steps += 1
        self._logs = 0

    def logged(self, step: int) -> None:
        """A number was logged: weights that move while no step is seen are spoken of before the end."""
        self._logs += 1
        if self._logs == _PATIENT_LOGS[self.steps > 0] and self._counters_moved():
            self._findings.say("unseen_updates", step, self._unseen(step))

    # ---- around an update ------------------------------------------------------------------------------------------

    def before(self) -> None:
        """An update begins: have the weights left the last frame?"""
        if self._left:
            self._left = []
        if (
            self._fresh
            and self._marked is not None
            and self._source.moved_since(self._marked)
            and not self._findings.said("changed_after")
        ):
            self._left = self._gone() or []
            self._entered = self._source.version()

    def is_update(self) -> bool:
        """After a call that may have made an update: whether the weights moved since the last step, as far as anybody can tell."""
        version = self._source.version()
        return version is None or version != self._marked or (self._fresh and self._gone() != [])

    def after(self, step: int) -> None:
        """An update was made by what is followed: speak of what had moved, since the frame of ``step``, before it began."""
        if (
            not self._left or self._source.version() == self._entered
        ):  # moved before the call and not in it: it was the update
            return
        others = [name for name in self._left if name in self.not_held]
        if others:
            why = f"no optimizer given to watch() holds {listed(others)}: give all of them, optimizer=[first, second]"
        else:
            why = (
                "something moves them after optimizer.step() (clipping, averaging, a wrapper around the optimizer, a checkpoint that is "
                "loaded): give watch() the outermost object that you step, or call rec.step() yourself when all is done"
            )
        text = f"the weights are not what the frame of step {step} holds when the next update begins: {why}."
        self._departures += 1
        if (
            self._departures == 1 and self.steps > 0 and not others
        ):  # once it may be meant: a unit that is reset, a checkpoint
            self._findings.say(
                "changed_once",
                step,
                f"{listed(self._left)} changed between step {step} and the next update.",
                warn=False,
            )
        else:
            self._findings.say("changed_after", step, text)

    def still(self) -> bool:
        """Whether the weights are certainly as they were at the last step."""
        return (version := self._source.version()) is not None and version == self._marked

    def unchanged(self, slot: int) -> bool:
        """Whether the row in ``slot``, which has just been copied, holds the same weights as the last frame."""
        return self._holds_the_same(slot, self._source.version(copied=True))

    def _holds_the_same(self, slot: int, version: Any) -> bool:
        if (version is not None and version != self._slot_marked) or self._slot is None or not self._names:
            return False
        if not self._ring.has_rows:
            return False  # the counters are all there is
        on_device = self._source.on_device
        if on_device:
            if self._uncounted:
                return False
            if self._source.pending is not None:
                self._source.pending()
        elif self._ring.rows[slot, self._first].tobytes() != self._ring.rows[self._slot, self._first].tobytes():
            return False  # nearly always: the shortest look that there is
        same = not self._differing(slot, self._slot, quickly=True)
        self._uncounted = on_device and not same
        return same

    # ---- at the end ------------------------------------------------------------------------------------------------

    def moved(self, params: Any = None) -> list[str] | None:
        """Names of the tensors that moved since the last step that was seen ([]: some did); None when none did, or nobody can tell.

        Where something moved, the present values are in the ring's next row.
        """
        if self._fresh and self._ring.has_rows:
            return self._gone(params) or None
        return [] if self._counters_moved() and (not self._ring.has_rows or self._read(params)) else None

    def ended(self, step: int) -> None:
        """Nothing more will come: say what only the whole of the recording shows."""
        if self.attached and 0 < self._frames == self._equal:
            self._say_unchanged(step)

    def last(self, step: int, names: list[str], *, taken: bool) -> tuple[str, str]:
        """(kind, text) about ``names`` that had moved after ``step`` when the recording was closed, and whether a frame was taken of them."""
        last = (
            f"A last frame, step {step + 1}, holds the weights as they were at close()."
            if taken
            else "No frame holds them."
        )
        if self.steps == 0:
            return "unseen_updates", f"{self._unseen(step)} {last}"
        what = listed(names) if names else "the weights"
        why = "by updates that were not seen, or because other weights were loaded"
        return "last_frame", f"{what} changed after step {step}, the last one that was seen, {why}. {last}"

    def _unseen(self, step: int) -> str:
        if self.steps > 0:
            return (
                f"the weights move, but no update was seen after step {step}: is what was given to watch() as optimizer= still what the loop "
                "steps, is rec.step() still called?"
            )
        if self.attached:
            return (
                "the weights move, but no step of the optimizer given to watch() was seen: give it the object that the loop steps, or call "
                "rec.step() after each update."
            )
        return (
            "the weights move, but no update was seen, because watch() was given no optimizer and rec.step() was not called: "
            "write wl.watch(model, path, optimizer=optimizer)."
        )

    def _say_unchanged(self, step: int) -> None:
        why = (
            "the optimizer holds other parameters than the model that is watched, or they get no gradients"
            if self.attached
            else "look whether this is the model that is trained"
        )
        text = f"the weights do not change: the last {self._equal} frames up to step {step} are equal to the one before; {why}."
        self._findings.say("unchanged_frames", step, text)

    # ---- values ----------------------------------------------------------------------------------------------------

    def _counters_moved(self) -> bool:
        return (version := self._source.version()) is not None and version != self._marked

    def _read(self, params: Any = None) -> bool:
        """Copy the present values into the ring's next row; False when they cannot be read now."""
        ring, source = self._ring, self._source
        if not ring.has_room() or (source.takes_params and params is None) or not source.copy(ring.slot, params):
            return False
        if source.on_device and source.pending is not None:
            source.pending()
        return True

    def _gone(self, params: Any = None) -> list[str] | None:
        """Names of weights that are not what the last frame holds; None when that cannot be told."""
        if not self._ring.has_rows:
            return []  # the counters are all there is
        if self._slot is None or not self._read(params):
            return None
        names = self._differing(self._ring.slot, self._slot)
        if not names:
            self._marked = self._slot_marked = self._source.version()
        return names

    def _differing(self, slot: int, other: int, *, quickly: bool = False) -> list[str]:
        """Names of the weights that differ between two rows; ``quickly``: the first is enough."""
        here, there = self._ring.rows[slot], self._ring.rows[other]
        found = []
        for name, place in zip(self._names, self._places):
            if _differ(here[place], there[place]):
                found.append(name)
                if quickly:
                    break
        return found


def _differ(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> bool:
    """Whether two pieces of memory differ, looked at in a few places first."""
    stride = max(1, len(a) // _SAMPLES) | 1  # odd: every byte of a number is looked at somewhere
    if a[::stride].tobytes() != b[::stride].tobytes():  # a few hundred bytes, compared by the shortest way there is
        return True
    return stride > 1 and not np.array_equal(a, b)


def listed(names: list[str], most: int = 4) -> str:
    """``a, b, c, d and 7 more``."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

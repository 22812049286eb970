"""What a recorder has to say besides its frames: each thing once, as a warning and as an event of the recording.

An event that is a finding reads ``[kind] text``, so that whoever reads the recording later finds it again with :func:`finding_of`.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from weightlapse.errors import RecorderWarning

if TYPE_CHECKING:
    from weightlapse.store.writer import Writer

# kind -> (severity, what to do), for those who read the recording later
KINDS = {
    "unseen_updates": ("warning", "Give watch() every optimizer that moves the model, or call rec.step() after each update."),
    "changed_after": ("warning", "Call rec.step() yourself, after the last thing that moves the weights, instead of giving optimizer=."),
    "changed_once": ("note", "Nothing, where it was meant."),
    "unchanged_frames": ("warning", "Look whether the optimizer holds the parameters of the model that is watched, and whether they get gradients."),
    "not_held": ("note", "Give watch() their optimizer too, or freeze them with requires_grad_(False)."),
    "last_frame": ("note", "Close the recorder right after the last update if later changes of the weights are not to be recorded."),
    "numbering": ("warning", "Let step= rise over the whole run, or leave it out."),
    "not_a_number": ("note", "Log single numbers: loss=loss.item()."),
    "between_frames": ("note", "Record every step (every=1) where every number is to be kept: what is logged at other steps has no frame to stand at."),
    "unreadable": ("warning", "See the gaps of the recording; the text says what could not be read."),
    "resumed_elsewhere": ("warning", "Resume with resume_at= the step of the checkpoint that was restored."),
    "left_out": ("note", "Leave it out with tensors=['*', '!NAME'], or keep a dense copy of it."),
    "paused": ("note", "Free space, or record less: every=, tensors=, tolerance='film'."),
}  # fmt: skip
_FINDING = re.compile(r"\[(\w+)\] (.*)", re.S)
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def finding_of(event: str) -> tuple[str, str] | None:
    """(kind, text) of an event that is a finding of the recorder, None for any other event.

    >>> finding_of("[paused] the store took nothing for 2.0 s"), finding_of("lr dropped")
    (('paused', 'the store took nothing for 2.0 s'), None)
    """
    found = _FINDING.fullmatch(event)
    return (found[1], found[2]) if found and found[1] in KINDS else None


class Findings:
    """Says each thing once: ``note`` writes into the recording, a warning tells the user."""

    def __init__(self, path: Path, note: Callable[[Callable[[Writer], None]], None]) -> None:
        self.path = path
        self._note = note
        self._said: set[str] = set()
        self.pending: list[str] = []  # to be told

    def said(self, kind: str) -> bool:
        """Whether something of this ``kind`` was said since this recorder began; what one before it wrote into the recording does not count."""
        return kind in self._said

    def say(self, kind: str, step: int, text: str, *, about: str = "", warn: bool = True) -> None:
        """Say ``text`` of this ``kind`` (and, where a kind can befall several things, ``about`` this one), unless it has been said."""
        assert kind in KINDS, kind
        key = f"{kind} {about}" if about else kind
        if key in self._said:
            return
        self._said.add(key)
        self._note(lambda writer: writer.event(step, f"[{kind}] {text}"))
        if warn:
            self.pending.append(f"weightlapse, recording to {self.path}: {text}")

    def tell(self) -> None:
        """Warn of what was said since the last time: when all else is done, for a warning may be an error here."""
        if self.pending:
            texts, self.pending = self.pending, []
            for text in texts:
                tell(text)


def tell(text: str, category: type[UserWarning] = RecorderWarning) -> None:
    """Warn at the line of the user's program, whatever lies between it and here."""
    level, frame = 1, sys._getframe(0)
    while frame is not None and _is_ours(frame.f_code.co_filename):
        level, frame = level + 1, frame.f_back  # type: ignore[assignment]
    warnings.warn(text, category, stacklevel=level)


def _is_ours(file: str) -> bool:
    return file.startswith(_PACKAGE) or f"{os.sep}torch{os.sep}" in file or file.endswith("contextlib.py")

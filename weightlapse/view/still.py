"""What stays of a widget in a saved notebook: the thumbnail, as an output of its own before the widget's.

Jupyter's front ends choose one form of an output, and of the widget's they choose the widget even where no kernel has it any more: they write
"model not found" and never come to the HTML beside it. So the thumbnail is shown first, by itself, hidden while the widget after it lives.
"""

from __future__ import annotations

import sys
from typing import Any

from weightlapse.view.subject import Subject
from weightlapse.view.thumbnail import thumbnail

_STILL = "weightlapse-still"
# The widget's own style sheet, which is there while it lives.
WHILE_ALIVE = f"""
.jp-OutputArea-child:has(.{_STILL}):has(+ .jp-OutputArea-child .wl.in-notebook) {{ display: none; }}
"""
# The thumbnail's: the line that says that there is no such widget says nothing beside its picture.
_WITHOUT = f"""<style>
.jp-OutputArea-child:has(.{_STILL}) + .jp-OutputArea-child .jupyter-widgets:not(:has(*)) {{ display: none; }}
</style>"""


class Still:
    """A thumbnail that a notebook shows and keeps."""

    def __init__(self, handle: Any, frames: int) -> None:
        self._handle = handle
        self._frames = frames

    @classmethod
    def shown(cls, subject: Subject) -> Still | None:
        """Show it, where a kernel keeps outputs; None elsewhere."""
        module: Any = sys.modules.get("IPython")
        shell = module.get_ipython() if module is not None else None
        if getattr(shell, "kernel", None) is None:
            return None
        frames = subject.frames
        return cls(module.display.display(_html(module, subject), display_id=True), frames)

    def follow(self, subject: Subject) -> None:
        """Show it anew when the recording has come to its end with more frames."""
        if subject.run.closed and subject.frames != self._frames:
            self._frames = subject.frames
            self._handle.update(_html(sys.modules["IPython"], subject))


def _html(module: Any, subject: Subject) -> Any:
    return module.display.HTML(f'{_WITHOUT}<div class="{_STILL}">{thumbnail(subject)}</div>')

"""A wiring that somebody wrote into a text file: what ``--wiring FILE`` takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from weightlapse.adapters.checkpoints import file_or_folder
from weightlapse.errors import InvalidArgument

if TYPE_CHECKING:
    from weightlapse.wiring.data import Wiring

_LARGEST = 100 << 20  # bytes; a spec has a line or two per tensor


def read_wiring(path: Path) -> Wiring:
    """The wiring in a text file. Raises :class:`InvalidArgument` when it is no file, no text or no spec."""
    from weightlapse.wiring.data import Wiring

    if file_or_folder(path) == "folder" or path.stat().st_size > _LARGEST:
        raise InvalidArgument(f"{path} is not a text file; give the text of wl.trace(model, x).to_spec()")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InvalidArgument(f"{path} is not a text file; give the text of wl.trace(model, x).to_spec()") from None
    if not text.strip():
        raise InvalidArgument(f"{path} is empty; give the text of wl.trace(model, x).to_spec()")
    return Wiring.from_spec(text)

"""`Film`: what `make_film` returns; as the last value of a notebook cell it plays."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

_INLINE_MOST = 64 << 20  # bytes that a notebook is asked to hold
_TYPES = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".gif": "image/gif",
    ".apng": "image/apng",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".pdf": "application/pdf",
}


@dataclass(frozen=True)
class Film:
    """A finished film: its file (None when it was kept in memory), size in pixels, rate and number of frames."""

    path: Path | None
    size: tuple[int, int]
    fps: Fraction
    frames: int
    data: bytes | None = None
    poster: Path | None = None  # the picture that tells most, beside a film that tells a story
    shows: Mapping[str, Any] | None = None  # what such a film shows when, as in the .json beside it

    @property
    def seconds(self) -> float:
        """How long the film plays."""
        return float(self.frames / self.fps)

    def __repr__(self) -> str:
        where = f"{str(self.path)!r}" if self.path else "in memory"
        return f"Film({where}, {self.size[0]}×{self.size[1]}, {self.frames} frames, {self.seconds:.3g} s)"

    def read(self) -> bytes:
        """The bytes of the file."""
        if self.data is not None:
            return self.data
        assert self.path is not None
        return self.path.read_bytes()

    def _type(self) -> str:
        return _TYPES.get(self.path.suffix.lower() if self.path else ".mp4", "application/octet-stream")

    def _repr_html_(self) -> str:
        """The film itself inside the page: no file is left behind, and none is needed later."""
        kind = self._type()
        said = html.escape(repr(self))
        if self.path is not None and not self.path.is_file():  # a series of numbered pictures, or a file that has gone
            return f"<code>{said}</code>"
        content = self.read()
        if len(content) > _INLINE_MOST or kind == "application/pdf":
            return f"<code>{said}</code>"
        source = f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
        style = f"max-width:100%;width:{self.size[0]}px"
        if kind.startswith("video/"):
            return f'<video controls loop muted autoplay playsinline style="{style}" title="{said}" src="{source}"></video>'
        return f'<img style="{style}" alt="{said}" src="{source}">'

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self._repr_html_(), "text/plain": repr(self)}

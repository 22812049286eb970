"""Pictures to files: the writer for each suffix, and a file that appears only when it is whole.

.mp4   H.264, 4:2:0 so that every player shows it; faithful: 4:4:4 without loss (colours at most 2 of 255 off)
.webm  VP9, likewise
.gif .apng   palette indices, exact
.png with a pattern (``frame-%04d.png``) or a folder (``frames/``)   one numbered PNG per picture
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument, missing_extra
from weightlapse.film.animated import Apng, Gif
from weightlapse.film.colours import palette, to_yuv
from weightlapse.film.surface import Surface
from weightlapse.store.portable import replace
from weightlapse.store.remove import remove_own

VIDEO = (".mp4", ".webm")
PALETTE = (".gif", ".apng")
STILL = (".png", ".svg", ".pdf")
Preset = Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"]
PRESETS: tuple[str, ...] = get_args(Preset)


@dataclass(frozen=True)
class Reel:
    """What an encoder must know besides the pixels."""

    width: int
    height: int
    fps: Fraction
    pictures: int
    title: str
    comment: str
    faithful: bool = False
    preset: str = "veryfast"
    crf: int | None = (
        None  # x264's and VP9's quality, lower is better; None: as good as cells need, or lossless when faithful
    )


class Writer(Protocol):
    """Takes pictures one after the other."""

    def write(self, surface: Surface, times: int) -> None:
        """Append the picture, shown for ``times`` film frames."""

    def close(self) -> None:
        """Write what is still held back."""


def surface_for(suffix: str, reel: Reel, table: NDArray[np.uint8], series_used: int, cmap: str) -> Surface:
    """A surface whose planes are what the writer of ``suffix`` needs."""
    if suffix in VIDEO:
        return Surface(reel.width, reel.height, to_yuv(table), halved=() if reel.faithful else (1, 2))
    if suffix in PALETTE:
        _, entry = palette(table, series_used, cmap)
        return Surface(reel.width, reel.height, entry[:, None])
    return Surface(reel.width, reel.height, table)


def writer_for(
    suffix: str, target: IO[bytes], reel: Reel, table: NDArray[np.uint8], series_used: int, cmap: str
) -> Writer:
    """The writer for ``suffix``."""
    if suffix in VIDEO:
        return Video(target, reel, suffix[1:])
    colours, _ = palette(table, series_used, cmap)
    return (Gif if suffix == ".gif" else Apng)(
        target, (reel.width, reel.height), colours, reel.fps, reel.pictures, reel.title, reel.comment
    )


class Video:
    """H.264 or VP9 through PyAV."""

    def __init__(self, target: IO[bytes], reel: Reel, container: str) -> None:
        try:
            import av
        except ImportError:
            raise missing_extra("av", extra="film", purpose=f"writing .{container} films") from None
        self._av: Any = av
        # the index goes to the front, so that a page can play before all is loaded; that needs a file to read back
        options = {"movflags": "+faststart"} if container == "mp4" and hasattr(target, "name") else {}
        self._container: Any = av.open(target, "w", format=container, options=options)
        self._container.metadata["title"] = reel.title
        self._container.metadata["comment"] = reel.comment
        codec, settings = self._codec(container, reel)
        stream: Any = self._container.add_stream(codec, rate=reel.fps, options=settings)
        stream.width, stream.height = reel.width, reel.height
        stream.pix_fmt = "yuv444p" if reel.faithful else "yuv420p"
        context = stream.codec_context
        # the matrix is written into the file: players that guess by size would shift every colour of a large film
        context.colorspace, context.color_range = 6, 1  # SMPTE 170M (BT.601), limited
        context.color_primaries, context.color_trc = 1, 1  # BT.709, as sRGB screens
        self._stream = stream
        self._format = stream.pix_fmt
        self._at = 0

    @staticmethod
    def _codec(container: str, reel: Reel) -> tuple[str, dict[str, str]]:
        if container == "mp4":
            # at the usual 18 slow changes of a cell are held back for many frames; 12 costs half as much again and shows them
            quality = (
                {"qp": "0"}
                if reel.faithful and reel.crf is None
                else {"crf": str(12 if reel.crf is None else reel.crf)}
            )
            return "libx264", {"preset": reel.preset, **quality}
        speed = "8" if reel.preset in PRESETS[:3] else "4"
        lossless = reel.faithful and reel.crf is None
        quality = {"lossless": "1"} if lossless else {"crf": str(16 if reel.crf is None else reel.crf), "b": "0"}
        return "libvpx-vp9", {"deadline": "realtime", "cpu-used": speed, "row-mt": "1", **quality}

    def write(self, surface: Surface, times: int) -> None:
        """Show the picture for ``times`` frames; its planes are uint8 Y, U, V as the file needs them, so nothing is converted."""
        for _ in range(times):
            frame = self._av.VideoFrame(surface.width, surface.height, self._format)
            for plane, pixels in zip(frame.planes, surface.planes):
                room = np.frombuffer(plane, dtype=np.uint8).reshape(-1, plane.line_size)
                room[: pixels.shape[0], : pixels.shape[1]] = pixels
            frame.colorspace, frame.color_range = 6, 1
            frame.pts = self._at
            frame.time_base = 1 / Fraction(self._stream.codec_context.framerate)
            self._at += 1
            for packet in self._stream.encode(frame):
                self._container.mux(packet)

    def close(self) -> None:
        """Encode what the encoder still holds and write the index; before that the file cannot be played."""
        for packet in self._stream.encode(None):
            self._container.mux(packet)
        self._container.close()


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to that takes the name ``path`` only when the block ends well; on an error nothing is left behind."""
    if path.is_dir():
        raise InvalidArgument(f"{str(path)!r} is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise InvalidArgument(f"the folder {str(path.parent)!r} does not exist; make it first")
    handle = tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False)  # noqa: SIM115
    try:
        with handle:
            yield handle  # type: ignore[misc]
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(handle.name, 0o666 & ~umask)  # temporary files are private; a film is a file like any other
        replace(handle.name, path)
    except BaseException:
        remove_own(Path(handle.name))
        raise


def rgb(surface: Surface) -> NDArray[np.uint8]:
    """The picture of a surface with an RGB table, uint8 (height, width, 3)."""
    return np.stack(surface.planes, axis=2)

"""GIF and APNG written as they come, one changed rectangle per picture, straight from palette indices.

GIF: CompuServe, "Graphics Interchange Format, version 89a" (1990). APNG: W3C, "Portable Network Graphics, third edition" (2025).
Pillow compresses the pixels of a GIF; nothing else of it is used, because its own writers hold all pictures in memory.
"""

from __future__ import annotations

import struct
import zlib
from fractions import Fraction
from typing import IO

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument
from weightlapse.film.surface import Box, Surface


class _Animated:
    """Finds what changed since the last picture and when each picture starts, in whole units of ``tick`` seconds."""

    tick = Fraction(1, 100)

    def __init__(
        self,
        target: IO[bytes],
        size: tuple[int, int],
        colours: NDArray[np.uint8],
        fps: Fraction,
        pictures: int,
        title: str,
        comment: str,
    ) -> None:
        if 1 / fps < 2 * self.tick:
            raise InvalidArgument(
                f"fps={float(fps):g} is too fast: such a file shows at most {float(1 / (2 * self.tick)):g} pictures a second; use fps or a stride"
            )
        self._target, self._size, self._colours = target, size, colours
        self._fps, self._pictures = fps, pictures
        self._shown = 0
        self._begin(title, comment)

    def write(self, surface: Surface, times: int) -> None:
        box = surface.take_touched()
        if self._shown == 0:
            box = (0, 0, *self._size)
        elif box is None:
            box = (0, 0, 1, 1)
        x, y, wide, high = box
        wide, high = min(x + wide, self._size[0]) - max(x, 0), min(y + high, self._size[1]) - max(y, 0)
        x, y = max(x, 0), max(y, 0)
        # players know only whole ticks: rounding the moments, not the lengths, keeps the total right
        starts = [int(Fraction(n) / self._fps / self.tick + Fraction(1, 2)) for n in (self._shown, self._shown + times)]
        self._shown += times
        self._picture((x, y, wide, high), surface.planes[0][y : y + high, x : x + wide], starts[1] - starts[0])

    def _begin(self, title: str, comment: str) -> None:
        raise NotImplementedError

    def _picture(self, box: Box, pixels: NDArray[np.uint8], ticks: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class Gif(_Animated):
    """An endlessly looping GIF89a with one palette for all pictures."""

    def _begin(self, title: str, comment: str) -> None:
        table = np.zeros((256, 3), dtype=np.uint8)
        table[: len(self._colours)] = self._colours
        self._target.write(b"GIF89a" + struct.pack("<HHBBB", *self._size, 0xF7, 0, 0) + table.tobytes())
        self._target.write(b"!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")
        text = f"{title}\n{comment}".encode()
        plates = b"".join(bytes([len(text[i : i + 255])]) + text[i : i + 255] for i in range(0, len(text), 255))
        self._target.write(b"!\xfe" + plates + b"\0")

    def _picture(self, box: Box, pixels: NDArray[np.uint8], ticks: int) -> None:
        from PIL import GifImagePlugin, Image

        image = Image.fromarray(np.ascontiguousarray(pixels))
        while ticks > 65535:  # the field has 16 bits: show the picture again
            self._picture(box, pixels, 65535)
            ticks -= 65535
        for piece in GifImagePlugin.getdata(image, box[:2], duration=ticks * 10, disposal=1):
            self._target.write(piece)

    def close(self) -> None:
        """Writes the trailer; the file belongs to whoever opened it and stays open."""
        self._target.write(b";")


class Apng(_Animated):
    """An endlessly looping APNG; viewers that know only PNG show the first picture."""

    tick = Fraction(1, 1000)

    def _begin(self, title: str, comment: str) -> None:
        self._sequence = 0
        self._written = 0
        self._target.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", *self._size, 8, 3, 0, 0, 0))
        self._count_at = self._target.tell()
        self._chunk(b"acTL", struct.pack(">II", self._pictures, 0))
        self._chunk(b"PLTE", self._colours.tobytes())
        for keyword, text in (("Title", title), ("Comment", comment)):
            self._chunk(b"iTXt", keyword.encode() + b"\0\0\0\0\0" + text.encode())

    def _picture(self, box: Box, pixels: NDArray[np.uint8], ticks: int) -> None:
        x, y, wide, high = box
        ticks = min(ticks, 65535)
        self._chunk(b"fcTL", struct.pack(">IIIIIHHBB", self._next(), wide, high, x, y, ticks, 1000, 0, 0))
        rows = np.zeros(
            (high, wide + 1), dtype=np.uint8
        )  # a leading 0 on every row: no filter, the best one for indices
        rows[:, 1:] = pixels
        data = zlib.compress(rows.tobytes(), 6)
        if self._written == 0:
            self._chunk(b"IDAT", data)
        else:
            self._chunk(b"fdAT", struct.pack(">I", self._next()) + data)
        self._written += 1

    def close(self) -> None:
        """Writes the trailer, and the true number of pictures at the front where it is not the one that was announced (the file must be seekable then)."""
        self._chunk(b"IEND", b"")
        if self._written != self._pictures:
            self._target.seek(self._count_at)
            self._chunk(b"acTL", struct.pack(">II", self._written, 0))

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence - 1

    def _chunk(self, kind: bytes, data: bytes) -> None:
        self._target.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))

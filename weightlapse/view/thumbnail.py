"""A small picture of a recording that needs no script: what stays of the viewer in an exported notebook."""

from __future__ import annotations

import base64
import html
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from weightlapse.picture.codes import codes
from weightlapse.picture.palette import table
from weightlapse.picture.raster import raster
from weightlapse.picture.reduce import reduce_to
from weightlapse.view.subject import Subject

MOMENTS = 3  # first, middle, last frame
SIDE = 160  # most cells of a picture along one side
TENSORS = 6


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG of RGB ``pixels`` (h, w, 3)."""
    height, width, _ = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)


def thumbnail(subject: Subject) -> str:
    """Static HTML of the recording's first tensors at its first, middle and last frame. No script, nothing fetched."""
    if not subject.frames:
        return f"<p>{html.escape(subject.name)}: no frames yet</p>"
    moments = sorted({round(x) for x in np.linspace(0, subject.frames - 1, MOMENTS)})
    head = "".join(f"<th style='font-weight:500;text-align:left'>step {subject.run.steps[f]}</th>" for f in moments)
    body = ""
    names = [n for n in subject.names() if len(subject.pieces(n)[-1].shape) > 1] or subject.names()
    for name in names[:TENSORS]:
        limit = subject.limit(name)
        cells = "".join(f"<td>{_picture(subject, name, frame, limit)}</td>" for frame in moments)
        body += f"<tr><td style='text-align:left;vertical-align:top'>{html.escape(name)}</td>{cells}</tr>"
    more = f"<p>and {len(names) - TENSORS} further tensors</p>" if len(names) > TENSORS else ""
    title = html.escape(f"{subject.name}: {subject.frames} frames")
    return f"<table><caption style='text-align:left'>{title}</caption><tr><th></th>{head}</tr>{body}</table>{more}"


def _picture(subject: Subject, name: str, frame: int, limit: float) -> str:
    try:
        plane = subject.arrangement(name, subject.piece(name, frame))
    except ValueError:
        return "not there yet"
    if plane.rows * plane.cols == 0:
        return "empty"
    if max(plane.rows, plane.cols) <= SIDE:
        cell = max(1, min(8, 2 * SIDE // plane.cols, 2 * SIDE // plane.rows))
        pixels = raster(subject.values(name, frame), plane, limit, (cell, cell))
    else:
        factors = [1 << max(0, int(np.ceil(np.log2(n / SIDE)))) for n in (plane.rows, plane.cols)]
        pixels = table("light")[
            codes(reduce_to(subject.picture(name, frame), factors[0], factors[1], "typical", limit), limit)
        ]
        if plane.wrapped:
            pixels[plane.blank()[:: factors[0], :: factors[1]]] = 255
    data = base64.b64encode(png(pixels)).decode()
    high, wide = pixels.shape[:2]
    scale = max(1, min(4, 2 * SIDE // max(high, wide)))
    alt = html.escape(f"{name} at step {subject.run.steps[frame]}", quote=True)
    style = f"width:{max(24, wide * scale)}px;height:{max(12, high * scale)}px;image-rendering:pixelated"
    return f"<img alt='{alt}' style='{style}' src='data:image/png;base64,{data}'>"

"""The words of questions and the bytes of answers.

Arrays travel in a small frame of their own: the length of a JSON header (uint32, little endian), the header padded to a multiple
of eight, and the raw little-endian values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument

JSON, BINARY = "application/json", "application/octet-stream"

Query = Mapping[str, str]


class Cancel(Protocol):
    """What tells a long answer that nobody waits for it any more; a `threading.Event` is one."""

    def is_set(self) -> bool:
        """Asked between pieces of the work, on the thread that does it."""


class Cancelled(Exception):
    """The page no longer wants the answer."""


def message(header: Mapping[str, Any], payload: bytes) -> bytes:
    """One frame of the form above. Raises ValueError for NaN or an infinity in the header, which JSON does not have."""
    head = json.dumps(header, allow_nan=False).encode()
    head += b" " * (-(len(head) + 4) % 8)
    return len(head).to_bytes(4, "little") + head + payload


def little(array: NDArray[Any]) -> NDArray[Any]:
    """In a form that a browser has an array type for, without loss: little endian, half floats widened, booleans as bytes."""
    if array.dtype.kind not in "fiub":
        raise InvalidArgument(f"values of type {array.dtype} cannot be drawn")
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8)
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def span(text: str, most: int, what: str) -> slice:
    """``"a:b"`` as a slice within 0..most."""
    try:
        start, stop = (int(part) for part in text.split(":"))
    except ValueError:
        raise InvalidArgument(f"{what}={text!r} is not of the form 'start:stop'") from None
    if not 0 <= start < stop <= most:
        raise InvalidArgument(f"{what}={text!r} lies outside 0:{most}")
    return slice(start, stop)


def number(query: Query, key: str, default: int | None = None) -> int:
    """The whole number under ``key``, or ``default`` where the question does not have it. Raises InvalidArgument for anything else."""
    text = query.get(key)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise InvalidArgument(f"{key}={text!r} is not a whole number") from None


def factors(query: Query) -> tuple[int, int]:
    """Weights behind one cell, (rows, columns), from "f"; (1, 1) where it is not there. Raises InvalidArgument unless both are powers of two up to 2^24."""
    try:
        fr, fc = (int(part) for part in query.get("f", "1,1").split(","))
    except ValueError:
        raise InvalidArgument(f"f={query.get('f')!r} is not of the form 'rows,columns'") from None
    for factor in (fr, fc):
        if factor < 1 or factor & (factor - 1) or factor > 1 << 24:
            raise InvalidArgument(f"a picture is reduced by powers of two, not by {factor}")
    return fr, fc


def scale_end(text: str) -> float:
    """A positive finite number. Raises InvalidArgument for any other text."""
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0 < limit < float("inf"):
        raise InvalidArgument(f"limit={text!r} is no positive number")
    return limit

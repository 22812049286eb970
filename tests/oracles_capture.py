"""Slow, obvious twins of how arrays get into rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.adapters.rows import Rows


def fill(rows: Rows, slot: int, arrays: list[NDArray[Any]]) -> None:
    """Each array by itself, byte by byte."""
    for array, offset in zip(arrays, rows.offsets):
        for k, byte in enumerate(np.array(array, order="C").tobytes()):
            rows.memory[slot, offset + k] = byte

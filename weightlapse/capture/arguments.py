"""Arguments of watch() that people write in several ways, as numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from weightlapse.errors import InvalidArgument


def check_tolerance(tolerance: Any) -> float | None:
    """The ``tolerance=`` argument as a number: None is exact, "film" is 1e-2."""
    if tolerance is None:
        return None
    if tolerance == "film":
        return 1e-2
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 < tolerance < math.inf:
        raise InvalidArgument(
            f"tolerance={tolerance!r}: give None for bit-exact storage, 'film' (= 1e-2), or a positive number: the largest error "
            "allowed, as a fraction of a tensor's standard deviation"
        )
    return float(tolerance)


def check_memory(memory: Any) -> int:
    """The ``memory=`` argument in bytes: a number, or text such as "256MB" or "1.5GiB"."""
    if isinstance(memory, str):
        text = memory.strip().lower().removesuffix("b")
        binary = text.endswith("i")
        text = text.removesuffix("i")
        power = "kmgt".find(text[-1:]) + 1 if text[-1:] else 0
        try:
            number = float(text[:-1] if power else text) * (1024 if binary else 1000) ** power
        except ValueError:
            number = math.nan
    else:
        number = (
            float(memory) if isinstance(memory, (int, float, np.integer)) and not isinstance(memory, bool) else math.nan
        )
    if not 1 <= number < 1 << 62:
        raise InvalidArgument(f"memory={memory!r}: give bytes as a number, or text such as '256MB' or '2GiB'")
    return int(number)

"""Numbers as short words, and round numbers for axes."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_MINUS = "−"


def short(value: float, digits: int = 3) -> str:
    """``value`` with ``digits`` significant digits and a true minus.

    >>> short(0.35123), short(-12345.0), short(0.000012)
    ('0.351', '−12345', '1.2e−5')
    """
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else _MINUS + "∞")
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size < -3 or size > 6:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}".replace("-", _MINUS)
    text = f"{value:.{max(digits - 1 - size, 0)}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", _MINUS)


def grouped(value: int) -> str:
    """An integer with thin spaces between thousands.

    >>> grouped(17226)
    '17\u2009226'
    """
    return f"{value:,}".replace(",", "\u2009").replace("-", _MINUS)


def linear_ticks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round numbers from ``low`` to ``high``.

    >>> linear_ticks(0, 1, 3)
    [0.0, 0.5, 1.0]
    >>> linear_ticks(0.65, 0.99, 3)
    [0.7, 0.8, 0.9]
    """
    if not high > low:
        return [low]
    rough = (high - low) / max(count - 1, 1)
    base = 10.0 ** math.floor(math.log10(rough))
    for factor in (10, 5, 2.5, 2, 1, 0.5, 0.25, 0.2, 0.1):
        step = base * factor
        ticks = [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
        if len(ticks) >= max(min(count, 3), 2):  # one number alone says nothing about a scale
            return ticks
    return ticks


def log_ticks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` powers of ten (or 1, 2, 5 within one decade) from ``low`` to ``high``, both positive."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    if last - first >= 1:
        step = max(-(-(last - first) // max(count - 1, 1)), 1)
        return [10.0**e for e in range(first, last + 1, step)]
    fine = [m * 10.0**e for e in range(first - 1, last + 1) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    return fine[:: max(len(fine) // max(count, 1), 1)]


def spans_decades(values: NDArray[np.float64], factor: float = 30.0) -> bool:
    """Whether a logarithmic axis helps: all finite values positive, the largest ``factor`` times the smallest."""
    finite = values[np.isfinite(values)]
    return bool(len(finite) > 1 and finite.min() > 0 and finite.max() / finite.min() > factor)

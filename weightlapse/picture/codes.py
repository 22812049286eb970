"""Values as eight-bit codes: the common ground of film, page, server and shader.

0 NaN   1 -Inf   2 below the scale   3 .. 253 linear, 128 is zero   254 above the scale   255 +Inf
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

STEPS = 125  # codes on each side of zero
NAN, MINUS_INF, UNDER, LOW, ZERO, HIGH, OVER, PLUS_INF = 0, 1, 2, 3, 128, 253, 254, 255


def codes(values: NDArray[Any], limit: float) -> NDArray[np.uint8]:
    """Codes of ``values`` on the symmetric scale of +-``limit``, same shape. Computed in float32, as the page's shader does.

    >>> codes(np.array([-1.0, 0.0, 1.0, 1.5, np.nan]), 1.0).tolist()
    [3, 128, 253, 254, 0]
    """
    values = np.asarray(values)
    limit = limit if limit > 0 and np.isfinite(limit) else 1.0
    if values.dtype == np.float64 and limit > 1e37:  # float32 would take such numbers for infinities
        with np.errstate(invalid="ignore"):
            values, limit = values / limit, 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.asarray(values, np.float32) * np.float32(STEPS / limit)
        finite = np.isfinite(scaled.sum(dtype=np.float64))
    if finite:
        np.clip(scaled, -STEPS - 1, STEPS + 1, out=scaled)
        scaled += np.float32(128.5)
        return scaled.astype(np.uint8)
    nan = np.isnan(values)
    with np.errstate(invalid="ignore"):
        out = (np.clip(np.where(nan, 0, scaled), -STEPS - 1, STEPS + 1) + np.float32(128.5)).astype(np.uint8)
    out[nan] = NAN
    out[values == -np.inf] = MINUS_INF
    out[values == np.inf] = PLUS_INF
    return out

"""How noisy the gradients of a run are, where they were recorded."""

from __future__ import annotations

import numpy as np

from weightlapse.errors import InvalidArgument
from weightlapse.measures.stream import Array, moments
from weightlapse.recording.run import Run

WINDOW = 16  # frames over which the mean gradient is taken


def gradient_noise(run: Run, names: list[str], frames: range) -> dict[str, Array]:
    """Noise scale tr(cov g) / |E g|^2 of each tensor's gradient, in batches: {name: (T,)}, NaN until 16 frames are seen.

    The simple noise scale of McCandlish et al. 2018, estimated from the last 16 recorded gradients, with the bias of |mean|^2
    taken off. Departure: gradients of consecutive steps stand in for gradients of many batches at one point, so the value
    is meaningful while the weights move little over 16 steps. Inf where the mean gradient is lost in the noise.

    Raises InvalidArgument when the recording holds no gradients.
    """
    streams = [f"gradients:{n}" for n in names if f"gradients:{n}" in run.names]
    if not streams:
        raise InvalidArgument(
            "gradient_noise needs recorded gradients; record with wl.watch(..., streams=('weights', 'gradients'))"
        )
    recent: dict[str, list[Array]] = {}
    result: dict[str, list[float]] = {}
    for m in moments(run, streams, frames):
        window = recent.setdefault(m.name, [])
        window.append(m.now.reshape(-1))
        del window[:-WINDOW]
        result.setdefault(m.name.removeprefix("gradients:"), []).append(
            _noise(window) if len(window) == WINDOW else float("nan")
        )
    return {k: np.asarray(v) for k, v in result.items()}


def _noise(window: list[Array]) -> float:
    n = len(window)
    mean = np.mean(window, axis=0)
    variance = sum(float(((g - mean) ** 2).sum()) for g in window) / (n - 1)
    signal = float((mean**2).sum()) - variance / n
    return variance / signal if signal > 0 else float("inf")

"""How far the function moved, not the weights: needs the model and inputs."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from weightlapse.errors import InvalidArgument
from weightlapse.measures.stream import Array
from weightlapse.progress import track
from weightlapse.recording.run import Run


def function_drift(run: Run, model: Any, data: Any, frames: range) -> dict[str, Array]:
    """Root mean square change of the model's outputs on ``data``, relative to the outputs' spread at the first frame.

    Returns ``{"from_start": (T,), "from_previous": (T,)}``; the first entry of ``from_previous`` is NaN. The model is a
    torch module of the recorded architecture (a copy is used, in eval mode), ``data`` one batch of its inputs.

    Raises InvalidArgument without a model or data, or when the outputs are all equal on ``data`` at the first frame.
    """
    if model is None or data is None:
        raise InvalidArgument(
            "function_drift runs the network: give model= (a module of this architecture) and data= (a batch of inputs)"
        )
    import torch

    twin = copy.deepcopy(model).eval()
    start: Array | None = None
    before: Array | None = None
    rows = []
    for frame in track(frames, "running the network"):
        run.load_into(twin, frame=frame)
        with torch.no_grad():
            now = np.asarray(twin(data).detach().cpu().double().numpy())
        if start is None:
            start, spread = now, float((now - now.mean(axis=0)).std())
            if spread == 0:
                raise InvalidArgument(
                    "the outputs are the same for every row of data at the first frame; drift has no scale: give varied inputs"
                )
        rows.append((_rms(now - start) / spread, float("nan") if before is None else _rms(now - before) / spread))
        before = now
    from_start, from_previous = np.asarray(rows, dtype=np.float64).T
    return {"from_start": from_start, "from_previous": from_previous}


def _rms(x: Array) -> float:
    return float(np.sqrt(np.mean(x * x)))

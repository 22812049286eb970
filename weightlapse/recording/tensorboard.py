"""TensorBoard event files: the scalars, and a histogram per tensor and frame."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import missing_extra
from weightlapse.progress import track
from weightlapse.recording.names import apart
from weightlapse.recording.pieces import pieces

if TYPE_CHECKING:
    from weightlapse.recording.recording import Recording

_BINS = 30


def to_tensorboard(run: Recording, dest: Path) -> None:
    """An event file in the folder ``dest`` for ``tensorboard --logdir``. TensorBoard keeps float32 scalars and histograms of 30 bins.

    NaN and Inf cannot be in a histogram: how many there are becomes a scalar "NAME/not finite". The wall time of a frame is its step.
    A scalar that was logged under such a name becomes "scalar:NAME" (see ``names.py``).
    """
    try:
        event_pb2 = importlib.import_module("tensorboard.compat.proto.event_pb2")
        summary_pb2 = importlib.import_module("tensorboard.compat.proto.summary_pb2")
        files = importlib.import_module("tensorboard.summary.writer.event_file_writer")
    except ImportError:
        raise missing_extra("tensorboard", extra="export", purpose="exporting to TensorBoard") from None
    writer = files.EventFileWriter(str(dest))

    def add(frame: int, **value: Any) -> None:
        summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(**value)])
        step = int(run.steps[frame])
        writer.add_event(event_pb2.Event(step=step, wall_time=float(step), summary=summary))

    found = pieces(run)
    counts = {f"{piece.name}/not finite" for piece in found}
    for name, column in run.scalars.items():
        tag = apart(name, "scalar", counts.__contains__)
        for logged in np.flatnonzero(~np.isnan(column)):
            add(int(logged), tag=tag, simple_value=float(column[logged]))
    for piece in track(found, "exporting"):
        for part, values in piece.chunks():
            for frame, one in enumerate(values, int(piece.start + part.start)):
                numbers = np.abs(one).ravel() if one.dtype.kind == "c" else one.ravel()
                finite = numbers[np.isfinite(numbers)].astype(np.float64)
                if len(finite) < len(numbers):
                    add(frame, tag=f"{piece.name}/not finite", simple_value=float(len(numbers) - len(finite)))
                if len(finite):
                    add(frame, tag=piece.name, histo=_histogram(summary_pb2, finite))
    writer.close()


def _histogram(summary_pb2: Any, values: NDArray[np.float64]) -> Any:
    counts, edges = np.histogram(values, bins=_BINS)
    return summary_pb2.HistogramProto(
        min=values.min(),
        max=values.max(),
        num=len(values),
        sum=values.sum(),
        sum_squares=(values**2).sum(),
        bucket_limit=edges[1:].tolist(),
        bucket=counts.tolist(),
    )

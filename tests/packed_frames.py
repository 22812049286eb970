"""Packed frames made the slow and obvious way, for tests: what a device would have made of rows of a layout."""

from __future__ import annotations

import numpy as np

from weightlapse.store.codecs.patterns import PATTERNS
from weightlapse.store.layout import Layout
from weightlapse.store.packed import PackedFrame, numbers_in, pack_frame

GRIDDED = ("float32", "bfloat16", "float16")


def words_of(layout: Layout, row: np.ndarray, tensor: int) -> np.ndarray:
    """The exact numbers of a tensor in a row (row_nbytes,) of uint8."""
    spec, at = layout.tensors[tensor], layout.offsets[tensor]
    data = row[at : at + spec.nbytes].tobytes()
    if spec.storage.itemsize == 2:
        return np.frombuffer(data, "<i2").astype(np.int32)
    return np.frombuffer(data + bytes(-len(data) % 4), "<i4").copy()


def packed_frames(
    layout: Layout, rows: np.ndarray, tolerance: float | None = None, *, every: int = 16, renewed: int = 0
) -> tuple[list[PackedFrame], np.ndarray]:
    """The frames of ``rows`` (T, row_nbytes), a whole key every ``every``, and the rows that they stand for.

    With a tolerance float tensors lie on a grid, whose step changes every ``renewed`` frames (0: never); each third frame of tensor 0 is exact.
    """
    frames, stored = [], rows.copy()
    before: list[tuple[float, np.ndarray]] = []
    for t, row in enumerate(rows):
        numbers, steps, bounds, keys, now = [], [], [], [], []
        for i, spec in enumerate(layout.tensors):
            exact, step, bound = words_of(layout, row, i), 0.0, 0.0
            assert len(exact) == numbers_in(spec)
            if (
                tolerance is not None
                and spec.dtype in GRIDDED
                and spec.size
                and not (i == 0 and renewed and t % 3 == 2)
            ):
                pattern = PATTERNS[spec.dtype]
                values = pattern.numbers(
                    exact.astype(np.uint16)
                    if exact is not None and spec.storage.itemsize == 2
                    else exact.view(np.uint32)
                )
                start = t if renewed == 0 else t // renewed * renewed
                scale = 1.0 if renewed == 0 else 1 + start / 64
                bound = tolerance * 0.05 * scale
                step = 1.5 * bound
                exact = np.rint(values / step).astype(np.int32)
                back = pattern.of_numbers(exact * step)
                at = layout.offsets[i]
                stored[t, at : at + spec.nbytes] = back.view(np.uint8)
            now.append((step, exact))
            key = t % every == 0 or before[i][0] != step
            with np.errstate(over="ignore"):
                numbers.append(exact if key else exact - before[i][1])
            steps.append(step)
            bounds.append(bound)
            keys.append(key)
        before = now
        frames.append(pack_frame(layout, numbers, steps, bounds, keys))
    return frames, stored

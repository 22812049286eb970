"""How much smaller a recording will become, as measured on real trainings: a range by dtype, stream, distance of frames and tolerance.

The numbers are the smallest and the largest of ``bench/results/plan.md`` (64 frames from the beginning of a training, where weights move most) and
``bench/results/size.md`` (whole trainings, every step); a test holds them to those tables. What was not measured is counted as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from weightlapse.store.compact import block_frames
from weightlapse.store.layout import TensorSpec

SOURCE = "bench/results/plan.md and size.md"

Range = tuple[float, float]

# (dtype, stream, whether every step is a frame) -> raw bytes over stored bytes: the smallest and the largest that was measured
EXACT: dict[tuple[str, str, bool], Range] = {
    ("float32", "weights", True): (1.93, 2.992),
    ("float32", "weights", False): (1.50, 2.24),
    ("float32", "gradients", True): (1.18, 1.44),
    ("float32", "gradients", False): (1.17, 1.38),
    ("float32", "optimizer", True): (1.48, 1.58),
    ("float32", "optimizer", False): (1.26, 1.45),
    ("float64", "weights", True): (1.48, 1.48),
    ("float64", "weights", False): (1.40, 1.47),
    ("float16", "weights", True): (3.52, 3.52),
    ("float16", "weights", False): (2.19, 2.68),
    ("bfloat16", "weights", True): (9.91, 10.098),
    ("bfloat16", "weights", False): (3.21, 3.21),
}
# of float32, by (tolerance, stream, whether every step is a frame)
BOUNDED: dict[tuple[float, str, bool], Range] = {
    (1e-3, "weights", True): (11.83, 37.0),
    (1e-3, "weights", False): (5.58, 14.36),
    (1e-3, "gradients", True): (3.56, 4.08),
    (1e-3, "gradients", False): (3.10, 5.40),
    (1e-3, "optimizer", True): (5.05, 7.18),
    (1e-3, "optimizer", False): (3.82, 6.03),
    (1e-2, "weights", True): (23.62, 125.2),
    (1e-2, "weights", False): (12.60, 32.76),
    (1e-2, "gradients", True): (5.38, 6.23),
    (1e-2, "gradients", False): (4.55, 9.35),
    (1e-2, "optimizer", True): (8.86, 13.45),
    (1e-2, "optimizer", False): (5.82, 9.94),
}
KEY = {"float32": 1.16, "float64": 1.13, "float16": 1.11, "bfloat16": 1.48}  # a frame alone, exact
_BITS = {"float32": 24, "float64": 53, "float16": 11, "bfloat16": 8}  # of the significand
_LIKE = {"complex64": "float32", "complex128": "float64", "complex32": "float16", "bcomplex32": "bfloat16"}
_MEASURED_FRAMES = 64
_LOOSEST = (
    1e-2  # that was measured: what is looser is counted as this, but for whole frames, of which the size is known
)
_GAUSSIAN = math.log2(math.sqrt(2 * math.pi * math.e))  # entropy in bits of a normal variable of deviation 1


def ratio_of(dtype: str, stream: str, tolerance: float | None, *, every_step: bool) -> Range:
    """Raw bytes over stored bytes of a long recording, (lowest, highest); (1, 1) for what was not measured.

    >>> ratio_of("float32", "weights", None, every_step=True)
    (1.93, 2.992)
    """
    dtype, stream = _LIKE.get(dtype, dtype), "weights" if stream == "buffers" else stream
    exact = EXACT.get((dtype, stream, every_step))
    if exact is not None:
        exact = _as_wide(exact, EXACT["float32", stream, every_step])
    elif dtype in _BITS:  # gradients and optimizer states of other floats: no less than those of float32
        exact = EXACT["float32", stream, every_step]
    if exact is None or tolerance is None or not _has_room(dtype, tolerance):
        return exact or (1.0, 1.0)
    wider = {"float64": 2.0, "float16": 0.48, "bfloat16": 0.48}.get(dtype, 1.0)
    known = [(2.0**-24, (1.0, 1.0)), *((t, BOUNDED[t, stream, every_step]) for t in (1e-3, _LOOSEST))]
    found = [
        math.exp(
            float(np.interp(math.log(tolerance), [math.log(t) for t, _ in known], [math.log(r[i]) for _, r in known]))
        )
        for i in range(2)
    ]
    low, high = (max(exact[i], wider * found[i]) for i in range(2))
    return low, high


def _as_wide(found: Range, usual: Range) -> Range:
    """A range from one or two trainings, made as wide around its middle as that of float32, which is from several."""
    extra = max(1.0, math.sqrt(usual[1] / usual[0] / (found[1] / found[0])))
    return max(1.0, found[0] / extra), found[1] * extra


def _has_room(dtype: str, tolerance: float) -> bool:
    """Whether the dtype is finer than the bound: where it is not the values are stored exactly."""
    return tolerance > 8 * 2.0 ** -_BITS[dtype]


def stored_range(
    specs: Iterable[TensorSpec],
    frozen: frozenset[str],
    frames: int,
    tolerance: float | None,
    *,
    every_step: bool,
    known: float | None = None,
) -> Range:
    """Bytes that ``frames`` frames of these tensors take on disk once compressed: (fewest, most).

    Every time block begins with a whole frame; tensors that stay as they are cost little more than that. ``known``: the ratio that the same
    tensors were measured to have.
    """
    specs = list(specs)
    blocks = -(-frames // block_frames(tolerance, sum(spec.nbytes for spec in specs))) if frames else 0
    beside = (
        2_000 + 250 * len(specs) * max(blocks, 1) ** 0.5 + 16 * frames
    )  # the journal, the steps, the heads of chunks
    totals = [beside, beside]
    for nbytes, group in _grouped(specs, frozen).items():
        dtype, stream, still = nbytes
        size = sum(spec.nbytes for spec in group)
        key = size / _key_ratio(dtype, stream, tolerance)
        ratios = ratio_of(dtype, stream, tolerance, every_step=every_step)
        counted = key  # within the ratio
        if known is not None:
            ratios = (0.9 * known, 1.1 * known)
        elif tolerance is not None and tolerance > _LOOSEST:
            counted = size / _key_ratio(dtype, stream, _LOOSEST)
        for i, ratio in enumerate(reversed(ratios)):
            each = (
                0.0
                if still
                else max(size / ratio - counted / _MEASURED_FRAMES, 0.0) * _MEASURED_FRAMES / (_MEASURED_FRAMES - 1)
            )
            totals[i] += blocks * min(key, size) + (frames - blocks) * min(each, size)
    return totals[0], totals[1]


def _grouped(specs: Sequence[TensorSpec], frozen: frozenset[str]) -> dict[tuple[str, str, bool], list[TensorSpec]]:
    found: dict[tuple[str, str, bool], list[TensorSpec]] = {}
    for spec in specs:
        found.setdefault((spec.dtype, spec.stream, spec.name in frozen), []).append(spec)
    return found


def _key_ratio(dtype: str, stream: str, tolerance: float | None) -> float:
    """Of a frame alone: with a tolerance the entropy of normal values on a grid of twice that."""
    exact = KEY.get(_LIKE.get(dtype, dtype), 1.0)
    if tolerance is None or dtype not in _BITS or not _has_room(dtype, tolerance):
        return exact
    bits = {"float64": 64, "float32": 32}.get(dtype, 16)
    return max(exact, bits / max(_GAUSSIAN - math.log2(2 * tolerance), 1.0))

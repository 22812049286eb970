"""Writes the golden recordings of format version 1. They are written once: a reader must read them for ever.

Values are made of integers and exact fractions only, so that ``expected`` gives them on any machine without the recordings.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "v1"
FRAMES = 110
TENSORS = (
    ("w", "float32", (6, 50)),
    ("double", "float64", (5,)),
    ("half", "float16", (4, 3)),
    ("brain", "bfloat16", (9,)),
    ("complex", "complex64", (2,)),
    ("count", "int64", ()),
    ("mask", "bool", (3,)),
    ("none", "float32", (0, 4)),
    ("odd", "float32", (12,)),
)


def noise(*shape: int) -> np.ndarray:
    """Integers from a linear congruence: the same everywhere, for ever."""
    out, state = np.empty(int(np.prod(shape)), np.int64), 12345
    for k in range(out.size):
        state = (state * 1103515245 + 12345) % 2**31
        out[k] = (state >> 8) % 2001 - 1000
    return out.reshape(shape)


def expected() -> dict[str, np.ndarray]:
    """Every value of every tensor, (FRAMES, *S), in its stored dtype."""
    values: dict[str, np.ndarray] = {}
    for name, dtype, shape in TENSORS:
        path = noise(FRAMES, *shape).cumsum(0).astype(np.float64) / 2**22 + noise(*shape) / 2**12
        if dtype == "bfloat16":
            values[name] = (path.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        elif dtype == "complex64":
            values[name] = (path - 1j * path / 2).astype(dtype)
        elif dtype == "bool":
            values[name] = path > 0
        elif dtype == "int64":
            values[name] = (path * 2**22).astype(dtype)
        else:
            values[name] = path.astype(dtype)
    odd = values["odd"].view(np.uint32)
    odd[:, 0] = 0x7FC00001  # a NaN with a payload
    odd[50:, 1], odd[:, 2], odd[7, 3], odd[8, 4] = (
        0x7F800000,
        0x80000000,
        1,
        0xFFC12345,
    )  # infinity, -0, subnormal, another NaN
    return values


def digest() -> dict[str, str]:
    """SHA-256 of each golden file."""
    files = sorted(p for p in FOLDER.rglob("*") if p.is_file() and p.name not in ("SHA256.json", "lock"))
    return {p.relative_to(FOLDER).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def main() -> None:
    if FOLDER.exists():
        sys.exit(
            f"{FOLDER} exists: golden recordings are written once and never again; a change of the format needs a new version"
        )
    from weightlapse.store.layout import Layout, TensorSpec
    from weightlapse.store.writer import Writer

    layout = Layout(TensorSpec(name, dtype, shape) for name, dtype, shape in TENSORS)
    rows = np.zeros((FRAMES, layout.row_nbytes), np.uint8)
    for i, (name, _, _) in enumerate(TENSORS):
        layout.view(rows, i)[...] = expected()[name]
    FOLDER.mkdir()
    for name, tolerance, compact in (("log", None, "never"), ("exact", None, "after"), ("film", 1e-2, "after")):
        writer = Writer.create(FOLDER / name, layout, meta={"golden": 1}, tolerance=tolerance, compact=compact)
        writer.append(np.arange(FRAMES) * 2, rows)
        writer.scalars(np.arange(FRAMES), ["loss"] * FRAMES, 1 / np.arange(1, FRAMES + 1))
        writer.event(4, "an event, größer")
        writer.gap(7, 7, "the disk could not keep up")
        writer.set_wiring("{}")
        writer.close()
        (FOLDER / name / "lock").unlink()
    (FOLDER / "SHA256.json").write_text(json.dumps(digest(), indent=1) + "\n")


if __name__ == "__main__":
    main()

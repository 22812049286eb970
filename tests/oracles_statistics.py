"""The statistics of a recording, made the slow and obvious way: from its values, one number after the other, and from docs/format.md alone."""

from __future__ import annotations

import json
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np


def numbers(values: Any) -> list[float]:
    """The numbers of a frame of a tensor: both parts of complex ones."""
    flat = np.asarray(values).reshape(-1)
    if flat.dtype.kind == "c":
        flat = flat.view(flat.real.dtype)
    return [float(x) for x in flat]


def row(frames: list[list[float]], before: list[float] | None) -> dict[str, Any]:
    """Of the values of some neighbouring frames of a tensor, and of the frame before them, where it counts."""
    every = [x for frame in frames for x in frame]
    finite = [x for x in every if math.isfinite(x)]
    pairs = [(a, b) for one, two in zip([before, *frames], frames) if one is not None for a, b in zip(one, two)]
    moves = [b - a for a, b in pairs if math.isfinite(a) and math.isfinite(b)]
    return {
        "min": min(finite, default=math.nan),
        "max": max(finite, default=math.nan),
        "nan": sum(math.isnan(x) for x in every),
        "inf": sum(math.isinf(x) for x in every),
        "zeros": sum(x == 0 for x in every),
        "sum": math.fsum(finite),
        "sumsq": math.fsum(x * x for x in finite),
        "update_sumsq": math.fsum(d * d for d in moves),
        "update_max": max(map(abs, moves), default=0.0),
        "changed": sum(a != b and not (math.isnan(a) and math.isnan(b)) for a, b in pairs),
        "updates": len(frames) - (before is None),
        "values": len(every),
        "frames": len(frames),
    }


def alike(a: dict[str, Any], b: dict[str, Any], scale: float = 1e-9) -> list[str]:
    """The columns in which two rows differ: sums by more than rounding."""
    wrong = []
    for name in b:
        x, y = a[name], b[name]
        if isinstance(y, str):
            wrong += [name] * (x != y)
            continue
        size = math.sqrt(b["sumsq"] * max(b["values"], 1)) if name == "sum" else abs(y)
        close = name in ("sum", "sumsq", "update_sumsq") and abs(x - y) <= scale * size
        if not (x == y or close or (x != x and y != y)):
            wrong.append(name)
    return wrong


def _taken(data: bytes, at: int, dtype: str, count: int) -> tuple[list[Any], int]:
    """``count`` numbers whose first bytes come first, then the second ones, ..."""
    size = struct.calcsize(f"<{dtype}")
    part = data[at : at + size * count]
    each = b"".join(bytes(part[k * count + i] for k in range(size)) for i in range(count))
    return list(struct.unpack(f"<{count}{dtype}", each)), at + size * count


def read_file(folder: Path) -> dict[int, dict[str, Any]]:
    """The statistics file of a recording, by segment: a second reader, written from docs/format.md."""
    identity = bytes.fromhex(json.loads((folder / "manifest.json").read_text())["id"])
    data = (folder / f"stats-{identity.hex()[:8]}.log").read_bytes()
    key = zlib.crc32(identity)
    at, found = 0, {}
    while at < len(data):
        magic, kind, length, number, crc, own = struct.unpack_from("<4s4sQqII", data, at)
        payload = data[at + 32 : at + 32 + length]
        assert magic == b"WLPS"
        assert own == zlib.crc32(data[at : at + 28])
        assert crc == zlib.crc32(payload, 0 if kind == b"HEAD" else (key + at) % (1 << 32))
        if at == 0:
            assert (kind, number, payload) == (b"HEAD", 0, identity)
        elif kind == b"STAT":
            found[number] = _segment(payload)
        at += 32 + -(-length // 8) * 8
    return found


def _segment(payload: bytes) -> dict[str, Any]:
    first, count, height, crc, before, tensors, pieces, units = struct.unpack_from("<8Q", payload)
    data = zlib.decompress(payload[64:])
    blocks = -(-count // height)
    each, at = _taken(data, 0, "B", tensors)
    has, at = _taken(data, at, "B", tensors)
    table = []
    for kind in "IQQ":
        column, at = _taken(data, at, kind, pieces)
        table.append(column)
    rows: dict[str, list[Any]] = {}
    total = sum(count if frames else blocks for frames in each)
    for name in ("min", "max", "sum", "sumsq", "update_sumsq", "update_max"):
        rows[name], at = _taken(data, at, "d", total)
    for name in ("nan", "inf", "zeros", "changed"):
        rows[name], at = _taken(data, at, "Q", total)
    bounds = {}
    for name in ("low", "high", "jump"):
        bounds[name], at = _taken(data, at, "f", blocks * pieces)
    for name in ("unit_value", "unit_jump"):
        bounds[name], at = _taken(data, at, "f", blocks * units)
    assert at == len(data)
    head = {"first": first, "count": count, "height": height, "crc": crc, "before": before - 1, "blocks": blocks}
    return head | {
        "each": each,
        "has": has,
        "pieces": list(zip(*table)),
        "rows": rows,
        "bounds": bounds,
        "units": units,
    }

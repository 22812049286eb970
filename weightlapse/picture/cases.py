"""The cases that the tests of Python, of TypeScript and of the page all run: ``python -m weightlapse.picture.cases`` writes cases.json.

Whoever changes how tensors are drawn writes the file anew; what differs from it is a fault on the side that was not changed.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from weightlapse.picture.arrangement import Arrangement
from weightlapse.picture.cells import gaps
from weightlapse.picture.codes import codes
from weightlapse.picture.compose import arrangement, strip
from weightlapse.picture.kinds import kinds
from weightlapse.picture.limits import limit_of
from weightlapse.picture.numbers import short
from weightlapse.picture.palette import THEMES, table
from weightlapse.picture.raster import raster
from weightlapse.picture.reduce import MODES, reduce_to
from weightlapse.picture.strips import strips
from weightlapse.picture.ticks import side

PATH = Path(__file__).parent / "cases.json"

NETWORKS: dict[str, dict[str, tuple[int, ...]]] = {
    "dense": {"fc1.weight": (6, 8), "fc1.bias": (6,), "dense/kernel": (8, 5), "dense/bias": (5,), "lone": (1, 1), "scalar": ()},
    "convolution": {
        "first.weight": (24, 1, 3, 3),
        "colour.weight": (7, 3, 5, 5),
        "deep.weight": (6, 4, 3, 3),
        "point.weight": (6, 8, 1, 1),
        "wide.weight": (2, 30, 3, 3),
        "line.weight": (5, 3, 4),
        "volume.weight": (3, 2, 2, 3, 3),
        "conv/kernel": (3, 3, 4, 6),
        "depth/depthwise_kernel": (3, 3, 8, 1),
    },
    "attention": {
        "attn.in_proj_weight": (24, 8),
        "attn.in_proj_bias": (24,),
        "h.attn.c_attn.weight": (8, 24),
        "mha/query/kernel": (8, 2, 4),
        "mha/attention_output/kernel": (2, 4, 8),
    },
    "grouped": {
        "self_attn.qkv_proj.weight": (24, 12),  # six heads of query, three of key, three of value
        "self_attn.o_proj.weight": (12, 12),
        "cross.kv.weight": (12, 6),
        "gqa/query/kernel": (6, 4, 2),
        "gqa/query/bias": (4, 2),
        "gqa/key/kernel": (6, 2, 2),
        "gqa/value/kernel": (6, 2, 2),
        "h.0.mlp.c_fc.weight": (4, 12),
        "h.0.mlp.c_fc.bias": (12,),
    },
    "transposed": {"up.weight": (6, 4, 3, 3), "up.bias": (4,), "conv2d_transpose/kernel": (3, 3, 6, 4), "conv2d_transpose/bias": (6,)},
    "embedding": {"wte.weight": (101, 4), "wpe.weight": (16, 8)},
    "recurrent": {"lstm.weight_ih_l0": (16, 3), "lstm.weight_hh_l0": (16, 4), "lstm.bias_ih_l0": (16,), "gru/kernel": (5, 9), "gru/recurrent_kernel": (3, 9),
                  "gru/bias": (2, 9), "out.weight_hh_l0": (16, 2), "out.weight_hr_l0": (2, 4), "out.bias_hh_l0": (16,)},
    "norms": {"block.ln.weight": (8,), "block.ln.bias": (8,), "block.fc.weight": (12, 8), "block.fc.bias": (12,), "bn.weight": (12,), "bn.bias": (12,),
              "bn.running_mean": (12,), "bn.running_var": (12,), "bn.num_batches_tracked": (), "head/bias": (5,), "head/kernel": (12, 5), "scale": (5,)},
    "stacks": {"experts.w1": (5, 6, 9), "experts.b1": (5, 6), "blocks": (3, 4, 20), "moe.experts.0.w1.weight": (4, 6), "moe.experts.1.w1.weight": (4, 6)},
}  # fmt: skip
SCALES = {
    "zero": [0.0] * 4,
    "one runs away": [*range(1, 200), 1e9],
    "nothing finite": [math.nan, math.inf],
    "signs": [-2.0, 1.0],
}
NUMBERS = [0.0, 0.35123, -12345.0, 0.000012, 1.0, -0.5, 1e9, 123456.7, math.inf, -math.inf, math.nan]


THINNED = [
    ((9, 14), (2, 2)),
    ((9, 14), (4, 8)),
    ((1, 30), (1, 4)),
    ((33, 5), (16, 2)),
    ((7, 7), (3, 5)),
    ((12, 12), (1, 1)),
]


def thinned_case(shape: tuple[int, int], factors: tuple[int, int]) -> dict[str, Any]:
    """What each cell shows that stands for several weights, as codes, for every rule that there is."""
    values = values_of(f"thinned {shape}", shape)
    values = np.where(values == 60, np.float32(0.8), values)  # a spike that is on the scale
    return {
        "shape": list(shape),
        "factors": list(factors),
        "codes": {mode: codes(reduce_to(values, *factors, mode, 1.0), 1.0).ravel().tolist() for mode in MODES},
    }


def values_of(name: str, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Numbers from a formula that every language computes alike, with one NaN, both infinities and one value beyond the scale."""
    size, seed = math.prod(shape), sum(map(ord, name))
    flat = np.array([((i * 7919 + seed * 104729) % 2001 - 1000) / 1000 for i in range(size)], np.float32)
    for place, odd in ((5, np.nan), (11, np.inf), (17, -np.inf), (23, 60.0), (29, -60.0)):
        if size > 2 * place:
            flat[place] = odd
    return flat.reshape(shape)


def case(name: str, drawn: Arrangement, word: str) -> dict[str, Any]:
    """How one tensor is drawn, with hashes of its codes and pixels."""
    values = values_of(name, drawn.shape)
    limit = limit_of(values)
    cell = 12 if drawn.rows * drawn.cols < 400 else 6
    some = sorted({(r, c) for r in (0, drawn.rows // 2, drawn.rows - 1) for c in (0, drawn.cols // 2, drawn.cols - 1)})
    picture = codes(drawn.arrange(values), limit)
    return {
        "name": name,
        "kind": word,
        "layout": drawn.to_json(),
        "rows": drawn.rows,
        "cols": drawn.cols,
        "cells": [[row, col, None if (at := drawn.index(row, col)) is None else list(at)] for row, col in some],
        "cell": cell,
        "gaps": {"down": gaps(drawn.down, cell), "across": gaps(drawn.across, cell)},
        "ticks": {
            way: [s.unit, [[tick.first, tick.cells, tick.text] for tick in s.ticks]]
            for way in ("down", "across")
            if (s := side(drawn, down=way == "down", cell=cell, room=30))
        },
        "limit": limit,
        "codes": hashlib.sha256(picture.tobytes()).hexdigest(),
        "pixels": {
            t: hashlib.sha256(raster(values, drawn, limit, (cell, cell), theme_name=t).tobytes()).hexdigest()
            for t in THEMES
        },
    }


def build() -> dict[str, Any]:
    """Everything in cases.json."""
    tensors = []
    for network in NETWORKS.values():
        known = kinds(network)
        tensors += [case(name, arrangement(shape, known[name]), known[name].word) for name, shape in network.items()]
    tensors.append(case("lines", strip(50, 4), "vector"))
    return {
        "tensors": tensors,
        "networks": {
            word: {name: list(shape) for name, shape in network.items()} for word, network in NETWORKS.items()
        },
        "strips": {word: strips(network, kinds(network)) for word, network in NETWORKS.items()},
        "thinned": [thinned_case(shape, factors) for shape, factors in THINNED],
        "scales": [
            {"name": name, "values": [_told(v) for v in values], "limit": limit_of(np.array(values))}
            for name, values in SCALES.items()
        ],
        "numbers": [[_told(number), short(number)] for number in NUMBERS],
        "palettes": {name: table(name).tolist() for name in THEMES},
        "themes": {
            name: {"ground": chosen.ground, "gap": chosen.gap, "ink": chosen.ink} for name, chosen in THEMES.items()
        },
    }


def _told(number: float) -> float | str:
    return float(number) if math.isfinite(number) else str(number)


def text() -> str:
    """The file: one tensor a line, so that a change is seen where it is."""
    found = build()
    lines = ",\n".join("  " + json.dumps(one) for one in found.pop("tensors"))
    rest = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in found.items())
    return "{" + f'"tensors": [\n{lines}\n],\n{rest}' + "}\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")

"""What does the store do at the size people train? One core and both, beside Zarr (Blosc, zstd, bit shuffle) and safetensors in the same run.

    python bench/scale.py [rates] [frames] [small] [many] [large] [shards]

``rates``   four tensors of 2 M float32 weights that move under Adam, 24 frames: MB/s of raw bytes.
``frames``  GPT-2 small, 124 M weights that move under Adam, 12 frames, compressed: what each kind of read costs, in a process of its own.
``small``   one weight over 2 000 frames of a network of 17 226 weights, with a fresh handle each time.
``many``    1 000 and 10 000 tensors: state, info, page, doctor.
``large``   one tensor of 50 M weights recorded with memory="600MB": memory at its peak.
``shards``  eight shards written, compressed and read, one after the other and at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from trajectories import CACHE

HERE = Path(__file__).parent
SCRATCH = Path(os.environ.get("WEIGHTLAPSE_BENCH_SCRATCH", CACHE / "scale"))
GPT2: dict[str, tuple[int, ...]] = {"wte.weight": (50257, 768), "wpe.weight": (1024, 768)}
for _layer in range(12):
    GPT2 |= {
        f"h.{_layer}.{name}": shape
        for name, shape in {
            "ln_1.weight": (768,),
            "ln_1.bias": (768,),
            "attn.c_attn.weight": (768, 2304),
            "attn.c_attn.bias": (2304,),
            "attn.c_proj.weight": (768, 768),
            "attn.c_proj.bias": (768,),
            "ln_2.weight": (768,),
            "ln_2.bias": (768,),
            "mlp.c_fc.weight": (768, 3072),
            "mlp.c_fc.bias": (3072,),
            "mlp.c_proj.weight": (3072, 768),
            "mlp.c_proj.bias": (768,),
        }.items()
    }
GPT2 |= {"ln_f.weight": (768,), "ln_f.bias": (768,)}


def adam(shapes: dict[str, tuple[int, ...]], frames: int, rate: float = 3e-4) -> Iterator[dict[str, np.ndarray]]:
    """Frames of weights under Adam with noisy gradients: w -= rate x m / sqrt(v), v at rest and m the running mean (0.9) of white noise."""
    rng = np.random.default_rng(0)
    w = {n: rng.standard_normal(s, dtype=np.float32) * np.float32(0.02) for n, s in shapes.items()}
    m = {n: rng.standard_normal(s, dtype=np.float32) * np.float32((0.1 / 1.9) ** 0.5) for n, s in shapes.items()}
    for _ in range(frames):
        yield w
        for n, s in shapes.items():
            m[n] *= np.float32(0.9)
            m[n] += np.float32(0.1) * rng.standard_normal(s, dtype=np.float32)
            w[n] -= np.float32(rate) * m[n]

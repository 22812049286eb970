"""SZ3 and zfp at the same bound, in a Python of their own: zfpy breaks the import of numcodecs (and so Zarr) beside it.

python -m venv peers && peers/bin/pip install numpy zfpy pysz
peers/bin/python bench/bounded_peers.py TRAJECTORY.npy TRAJECTORY.json TOLERANCE    -> one JSON object
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pysz
import zfpy


def main(array: str, listing: str, tolerance: float) -> None:
    values = np.load(array, mmap_mode="r")
    height = min(256, len(values))
    stored = {"SZ3": 0, "zfp": 0}
    wrong = dict.fromkeys(stored, 0)
    at = raw = 0
    for _, shape in json.loads(Path(listing).read_text()):
        size = math.prod(shape)
        for top in range(0, len(values), height):
            block = np.ascontiguousarray(values[top : top + height, at : at + size])
            bound = tolerance * float(block.std(dtype=np.float64))
            if bound == 0:
                continue
            raw += block.nbytes
            packed = zfpy.compress_numpy(block, tolerance=bound, write_header=True)
            stored["zfp"] += len(packed)
            wrong["zfp"] += int((np.abs(zfpy.decompress_numpy(packed).astype(np.float64) - block) > bound).sum())
            sizes = []
            for algorithm in (pysz.szAlgorithm.LORENZO_REG, pysz.szAlgorithm.INTERP_LORENZO):  # the better one counts
                config = pysz.szConfig(block.shape)
                config.errorBoundMode = pysz.szErrorBoundMode.ABS
                config.absErrorBound = bound
                config.cmprAlgo = algorithm
                packed, _ = pysz.sz.compress(block, config)
                sizes.append(packed.nbytes)
            stored["SZ3"] += min(sizes)
            back, _ = pysz.sz.decompress(packed, np.float32, block.shape)
            wrong["SZ3"] += int((np.abs(back.astype(np.float64) - block) > bound).sum())
        at += size
    print(json.dumps({name: {"ratio": raw / n, "violations": wrong[name]} for name, n in stored.items()}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))

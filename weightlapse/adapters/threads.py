"""One core for products that are too small to share.

Torch splits even small products over all cores; on a machine that has other things to do, each then waits for the core that is busy, and takes
a hundred times as long as it would alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Multiplications below which splitting costs more than it brings.
WORTH_THREADS = 50_000_000


@contextmanager
def single_threaded(wanted: bool) -> Iterator[None]:
    """Torch on one core inside the block, where ``wanted``."""
    before = torch.get_num_threads()
    if not wanted or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""Watching on many processes of torch.distributed.

Replicated models (DDP) are recorded by rank 0 alone. Of sharded ones (FSDP2, DTensor) each rank records its own shards, without any communication
while training; only :func:`weightlapse.watch` itself talks to the others, so that either all of them record or none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from weightlapse.capture.recorder import Recorder
from weightlapse.errors import CannotRecord, WeightlapseError
from weightlapse.store.ranks import rank_folder
from weightlapse.store.repair import withdraw


def process_group() -> tuple[int, int]:
    """(rank, number of processes); (0, 1) without torch.distributed."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def model_is_sharded(model: Any) -> bool:
    """True when processes hold different parts of the model's tensors."""
    if "torch" not in sys.modules:
        return False
    from weightlapse.adapters import dtensor

    return dtensor.model_is_sharded(model)


def record_together(path: Path, rank: int, count: int, record: Callable[[Path], Recorder], *, keep: bool) -> Recorder:
    """Call ``record`` with this rank's folder on every rank. When one is refused all are, and (unless ``keep``) no folder is left behind."""
    recorder, problem = None, None
    for turn in (rank == 0, rank != 0):  # rank 0 first: it refuses or replaces what is at the path
        if turn and problem is None:
            try:
                recorder = record(path if rank == 0 else path / rank_folder(rank))
            except WeightlapseError as error:
                problem = str(error)
        problem = _first_problem(problem, count)
    if problem is not None:
        if recorder is not None:
            recorder.close()
            if rank == 0 and not keep:
                withdraw(path, recorder.identity)
        raise CannotRecord(problem)
    assert recorder is not None
    return recorder


def _first_problem(problem: str | None, count: int) -> str | None:
    """What went wrong on any rank, told to all of them."""
    import torch.distributed as dist

    told: list[str | None] = [None] * count
    dist.all_gather_object(told, problem)
    return next((f"rank {rank}: {text}" for rank, text in enumerate(told) if text is not None), None)

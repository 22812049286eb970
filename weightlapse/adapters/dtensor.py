"""Sharded tensors of torch.distributed (FSDP2, tensor parallelism): the part that this process holds, and where in the whole it lies."""

from __future__ import annotations

from typing import Any

import torch

from weightlapse.errors import CannotRecord

Place = dict[str, list[int]]  # {"shape": of the whole tensor, "offset": of this part in it}


def local(tensor: Any) -> torch.Tensor:
    """The part of a tensor that lies in this process; a plain tensor is its own part. No communication."""
    return getattr(tensor, "_local_tensor", tensor)


def is_sharded(tensor: Any) -> bool:
    """True when this process holds only a part of the tensor."""
    return any(not placement.is_replicate() for placement in getattr(tensor, "placements", ()))


def place_of(name: str, tensor: Any) -> Place:
    """Where the local part of a sharded tensor lies in the whole."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    if any(placement.is_partial() for placement in tensor.placements):
        raise CannotRecord(
            f"{name} is a partial sum over processes, not a value: it cannot be recorded without communication"
        )
    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    if tuple(shape) != tuple(local(tensor).shape):
        raise CannotRecord(
            f"the part of {name} in this process has shape {tuple(local(tensor).shape)}, not the expected {tuple(shape)}"
        )
    return {"shape": list(tensor.shape), "offset": list(offset) if 0 not in shape else [0] * len(shape)}


def refuse_flat_parameters(module: torch.nn.Module) -> None:
    """The first FSDP flattens parameters into pieces that no longer know their tensors."""
    for part in module.modules():
        if type(part).__name__ == "FullyShardedDataParallel":
            raise CannotRecord(
                "FullyShardedDataParallel flattens the parameters, so a process cannot say which weights it holds: "
                "shard with torch.distributed.fsdp.fully_shard (FSDP2) instead"
            )


def model_is_sharded(model: Any) -> bool:
    """Whether any parameter of a torch module is sharded over processes; False for what is no module."""
    return isinstance(model, torch.nn.Module) and any(is_sharded(p) for p in model.parameters())

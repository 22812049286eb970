"""Run by torchrun on several processes: trains with DDP or FSDP2 while recording, and saves what the weights really were after every step."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import weightlapse as wl

KIND, FOLDER = sys.argv[1], Path(sys.argv[2])
warnings.simplefilter("ignore")
dist.init_process_group("gloo")
RANK, COUNT = dist.get_rank(), dist.get_world_size()


class Brief(nn.Module):
    """bfloat16, in a module of its own: FSDP2 wants one dtype per group."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4).bfloat16())

    def forward(self):
        return self.weight.float().sum()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 7)  # 7 rows do not divide by the number of processes
        self.norm = nn.LayerNorm(7)
        self.brief = Brief()
        self.last = nn.Linear(7, 1)  # one row: some processes hold nothing of it
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.count.add_(1)
        return self.last(torch.tanh(self.norm(self.first(x)))) + self.brief()


def whole(tensor):
    tensor = (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()
    return tensor.view(torch.int16).numpy().view(np.uint16) if tensor.dtype == torch.bfloat16 else tensor.numpy()


def gathered(model):
    return {name.removeprefix("module."): whole(t) for name, t in model.state_dict().items()}


torch.manual_seed(0)
model = Net()
if KIND == "ddp":
    model = nn.parallel.DistributedDataParallel(model)
elif KIND == "plain":
    pass
else:
    mesh = init_device_mesh("cpu", (COUNT,))
    for layer in (model.first, model.last, model.brief):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
optimizer = torch.optim.Adam(model.parameters(), 0.01)
streams = ("weights", "buffers") if KIND == "ddp" else ("weights", "buffers", "gradients", "optimizer")
path = FOLDER / "run" if KIND != "plain" else FOLDER / f"run{RANK}"

if KIND == "refused":  # something that only rank 1 objects to
    try:
        wl.watch(model, path, optimizer=optimizer, memory="1MB" if RANK == 0 else "8B")
    except wl.CannotRecord as error:
        print(f"rank {RANK} refused: {error}", flush=True)
    dist.barrier()
    assert not path.exists()
    dist.destroy_process_group()
    sys.exit(0)

rec = wl.watch(model, path, optimizer=optimizer, streams=streams, every_rank=KIND == "plain")
states = [gathered(model)]
torch.manual_seed(100 + RANK)
for k in range(8):
    optimizer.zero_grad()
    loss = model(torch.randn(6, 5)).pow(2).mean()
    loss.backward()
    gradient = whole(model.first.weight.grad) if KIND == "fsdp" else None
    optimizer.step()
    rec.log(loss=k)
    if gradient is not None:
        states[-1]["gradient to come"] = gradient
    states.append(gathered(model))
    if KIND == "dies" and k == 4:
        rec.flush()
        dist.barrier()
        if RANK == 1:
            os._exit(9)  # as a machine that fails: no clean-up of any kind
        break
if KIND == "dies":
    rec.flush()
    np.savez(FOLDER / "truth.npz", **{n: np.stack([s[n] for s in states]) for n in states[0]})
    os._exit(0)
rec.close()
dist.barrier()
if RANK == 0:
    names = [n for n in states[0] if n != "gradient to come"]
    truth = {n: np.stack([s[n] for s in states]) for n in names}
    if KIND == "fsdp":
        truth["gradients:first.weight"] = np.stack([s["gradient to come"] for s in states[:-1]])
    np.savez(FOLDER / "truth.npz", **truth)
if KIND == "fsdp":
    # put back into a sharded model, and go on with the recording
    run = wl.load(path)
    run.load_into(model, step=3)
    now = gathered(model)
    assert all(np.array_equal(now[n], states[3][n]) for n in now), "load_into"
    dist.barrier()
    with wl.watch(model, FOLDER / "run", optimizer=optimizer, streams=streams, resume=True) as rec:
        optimizer.zero_grad()
        model(torch.randn(6, 5)).pow(2).mean().backward()
        optimizer.step()
    after = gathered(model)
    dist.barrier()
    if RANK == 0:
        np.savez(FOLDER / "after.npz", **after)
dist.barrier()
dist.destroy_process_group()

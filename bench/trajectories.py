"""Real trajectories to measure storage on: every step of small trainings, generated once and kept outside the repository.

    mlp_adam, mlp_sgd   64-128-64-10 on scikit-learn's digits, batch 64, 2000 steps; Adam 1e-3, or SGD 0.05 with momentum 0.9
    cnn                 three convolutions with BatchNorm and two dense layers, 0.42 M weights, on digits at 16 x 16, Adam 1e-3, 500 steps
    gpt, gpt_bf16       6 layers of width 384, 10.8 M weights, from scratch on Python's own library as bytes, AdamW 3e-4, 40 steps

They lie in $WEIGHTLAPSE_BENCH_CACHE, or in the system's folder for temporary files.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

CACHE = Path(os.environ.get("WEIGHTLAPSE_BENCH_CACHE", Path(tempfile.gettempdir()) / "weightlapse-bench"))
NAMES = ("mlp_adam", "mlp_sgd", "cnn", "gpt", "gpt_bf16")


@dataclass(frozen=True)
class Trajectory:
    """``values`` (T, P): float32, or uint16 patterns of bfloat16; ``tensors``: name and shape, in order."""

    name: str
    dtype: str
    values: np.ndarray
    tensors: list[tuple[str, tuple[int, ...]]]

    def columns(self) -> list[tuple[str, tuple[int, ...], int, int]]:
        """(name, shape, first column, end) of each tensor."""
        found, at = [], 0
        for name, shape in self.tensors:
            found.append((name, shape, at, at + math.prod(shape)))
            at += math.prod(shape)
        return found


def trajectory(name: str) -> Trajectory:
    """The trajectory of this name, trained first when it is not there yet."""
    array, listing = CACHE / f"{name}.npy", CACHE / f"{name}.json"
    if not listing.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        tensors = _train(name, array)
        listing.write_text(json.dumps(tensors))
    tensors = [(n, tuple(shape)) for n, shape in json.loads(listing.read_text())]
    return Trajectory(name, "bfloat16" if name.endswith("bf16") else "float32", np.load(array, mmap_mode="r"), tensors)


def _train(name: str, array: Path) -> list[tuple[str, list[int]]]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, update, steps = {"mlp": _mlp, "cnn": _cnn, "gpt": _gpt}[name.split("_")[0]](name)
    tensors = [(n, list(p.shape)) for n, p in model.named_parameters()]
    brain = name.endswith("bf16")
    total = sum(p.numel() for p in model.parameters())
    out = np.lib.format.open_memmap(array, "w+", np.uint16 if brain else np.float32, (steps, total))
    for t in range(steps):
        flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
        out[t] = flat.view(torch.int16).numpy().view(np.uint16) if brain else flat.numpy()
        update(t)
    out.flush()
    return tensors


Training = tuple[nn.Module, Callable[[int], None], int]


def _digits(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.images / 16.0, dtype=torch.float32)[:, None]
    return F.interpolate(x, size=(size, size), mode="bilinear") if size != 8 else x, torch.tensor(data.target)


def _classify(model: nn.Module, optimizer: torch.optim.Optimizer, size: int, batch: int = 64) -> Callable[[int], None]:
    x, y = _digits(size)
    source = torch.Generator().manual_seed(1)
    order: list[torch.Tensor] = []

    def update(t: int) -> None:
        if not order:
            shuffled = torch.randperm(len(x), generator=source)
            order.extend(shuffled[: len(x) // batch * batch].split(batch))
        mine = order.pop(0)
        optimizer.zero_grad()
        F.cross_entropy(model(x[mine]), y[mine]).backward()
        optimizer.step()

    return update


def _mlp(name: str) -> Training:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    weights = model.parameters()
    adam = name == "mlp_adam"
    optimizer = torch.optim.Adam(weights, 1e-3) if adam else torch.optim.SGD(weights, 0.05, momentum=0.9)
    return model, _classify(model, optimizer, 8), 2000


def _cnn(name: str) -> Training:
    def block(a: int, b: int) -> list[nn.Module]:
        return [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()]

    body = [*block(1, 32), *block(32, 64), nn.MaxPool2d(2), *block(64, 128), nn.MaxPool2d(2), nn.Flatten()]
    model = nn.Sequential(*body, nn.Linear(2048, 160), nn.ReLU(), nn.Linear(160, 10))
    return model, _classify(model, torch.optim.Adam(model.parameters(), 1e-3), 16), 500


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(self.before(x)).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, c))
        return x + self.down(F.gelu(self.up(self.after(x))))


class _GPT(nn.Module):
    def __init__(self, width: int = 384, layers: int = 6, context: int = 128) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(256, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(_Block(width, 6) for _ in range(layers))
        self.last = nn.LayerNorm(width)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.token(tokens) + self.place(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.last(x) @ self.token.weight.T


def _gpt(name: str) -> Training:
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    text = torch.tensor(np.frombuffer(b"".join(f.read_bytes() for f in files), np.uint8).astype(np.int64))
    model = _GPT().to(torch.bfloat16 if name.endswith("bf16") else torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4)
    source = torch.Generator().manual_seed(1)

    def update(t: int) -> None:
        starts = torch.randint(len(text) - 129, (8,), generator=source).tolist()
        batch = torch.stack([text[s : s + 129] for s in starts])
        optimizer.zero_grad()
        F.cross_entropy(model(batch[:, :-1]).float().reshape(-1, 256), batch[:, 1:].reshape(-1)).backward()
        optimizer.step()

    return model, update, 40

"""Small trainings of all kinds, healthy and with one planted fault each: what the doctor is measured on.

Each training is a function of a folder; it returns nothing, the recording lies in the folder. `HEALTHY` and `PLANTED` name them all.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import weightlapse as wl
from weightlapse.errors import RecorderWarning

Train = Callable[[Path], None]
STEPS = 80
AT = 45  # the step after which a fault is planted, where it is not there from the start


@dataclass(frozen=True)
class Planted:
    """``kinds``: findings that name the fault; ``tensors``: where it may be placed; ``units``: which, where it has some."""

    train: Train
    framework: str
    kinds: tuple[str, ...]
    tensors: tuple[str, ...]
    units: tuple[int, ...] | None = None
    fault: str = ""
    blind: str = ""  # why the doctor cannot see it, where it cannot


@dataclass
class Trainings:
    healthy: dict[str, tuple[str, Train]] = field(default_factory=dict)
    planted: dict[str, Planted] = field(default_factory=dict)


ALL = Trainings()


def healthy(name: str, framework: str = "torch") -> Callable[[Train], Train]:
    def add(train: Train) -> Train:
        assert name not in ALL.healthy
        ALL.healthy[name] = (framework, train)
        return train

    return add


def planted(
    name: str, kinds: str, tensors: str, fault: str, *, framework: str = "torch", units: Any = None, blind: str = ""
) -> Any:
    def add(train: Train) -> Train:
        assert name not in ALL.planted
        ALL.planted[name] = Planted(
            train,
            framework,
            tuple(kinds.split()),
            tuple(tensors.split()),
            None if units is None else tuple(units),
            fault,
            blind,
        )
        return train

    return add


# ---- data and networks ---------------------------------------------------------------------------------------------


def blobs(count: int = 256, width: int = 12, classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes that overlap: the loss stays above zero."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (count,), generator=g)
    centres = torch.randn(classes, width, generator=g)
    return centres[y] + 1.2 * torch.randn(count, width, generator=g), y


def pictures(count: int = 128, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (count,), generator=g)
    patterns = torch.randn(4, 1, 8, 8, generator=g)
    return patterns[y] + torch.randn(count, 1, 8, 8, generator=g), y


def net(*layers: nn.Module, seed: int = 0) -> nn.Sequential:
    model = nn.Sequential()
    numbers = {"Linear": 0, "Conv2d": 0, "other": 0}
    for layer in layers:
        kind = type(layer).__name__
        stem = {"Linear": "fc", "Conv2d": "conv"}.get(kind, "other")
        key = kind if kind in numbers else "other"
        numbers[key] += 1
        model.add_module(f"{stem}{numbers[key]}", layer)
    return model


def dense(act: type[nn.Module] = nn.ReLU, seed: int = 0, width: int = 16) -> nn.Sequential:
    torch.manual_seed(seed)
    return net(nn.Linear(12, width), act(), nn.Linear(width, width), act(), nn.Linear(width, 4))


def conv(norm: bool = False, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    between = (lambda n: [nn.BatchNorm2d(n)]) if norm else (lambda n: [])
    return net(
        nn.Conv2d(1, 8, 3), *between(8), nn.ReLU(), nn.Conv2d(8, 8, 3), *between(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
    )  # fmt: skip


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        return self.head(x.mean((2, 3)))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.ln1(x)
        scores = self.q(h) @ self.k(h).transpose(1, 2) / h.shape[-1] ** 0.5
        x = x + self.o(scores.softmax(-1) @ self.v(h))
        return x + self.down(torch.nn.functional.gelu(self.up(self.ln2(x))))


class Transformer(nn.Module):
    """Says which token came most often; ``tied``: the read-out is the embedding."""

    def __init__(self, tied: bool = False, seed: int = 0, blocks: list[nn.Module] | None = None) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(8, 16)
        self.blocks = nn.ModuleList(blocks or [Block(16), Block(16)])
        self.norm = nn.LayerNorm(16)
        self.out = nn.Linear(16, 8, bias=False)
        if tied:
            self.out.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x)).mean(1)


def tokens(count: int = 256, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(8, (count, 6), generator=g)
    return x, torch.nn.functional.one_hot(x, 8).sum(1).argmax(1)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.out = kind(4, 12, batch_first=True), nn.Linear(12, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.rnn(x)[0][:, -1])


def fit(
    path: Path,
    model: nn.Module,
    data: tuple[torch.Tensor, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    steps: int = STEPS,
    loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = nn.functional.cross_entropy,
    batch: int | None = 32,
    before: Callable[[int], None] | None = None,
    change: Callable[[int, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None = None,
    clip: float | None = None,
    example: bool = True,
    **options: Any,
) -> None:
    """Train and record. ``before(step)`` is called before each update, ``change(step, x, y)`` gives the batch that is used."""
    x, y = data
    g = torch.Generator().manual_seed(1)
    torch.manual_seed(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecorderWarning)
        rec = wl.watch(model, path, optimizer=optimizer, example=x[:16] if example else None, **options)
        for step in range(1, steps + 1):
            if before is not None:
                before(step)
            pick = slice(None) if batch is None else torch.randint(len(x), (batch,), generator=g)
            xs, ys = x[pick], y[pick]
            if change is not None:
                xs, ys = change(step, xs, ys)
            loss = loss_of(model(xs), ys)
            optimizer.zero_grad()
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            rec.log(loss=loss.item())
        rec.close()


def adam(model: nn.Module, lr: float = 3e-3, **kw: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=lr, **kw)


def sgd(model: nn.Module, lr: float = 0.05, momentum: float = 0.9, **kw: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, **kw)


def adamw(model: nn.Module, lr: float = 3e-3, **kw: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=lr, **kw)


def mse(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return ((out - y) ** 2).mean()


def waves(count: int = 128, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 12, generator=g) * 2 - 1
    return x, torch.sin(3 * x[:, :1]) + x[:, 1:2] * x[:, 2:3]


def at(step: int, do: Callable[[], None]) -> Callable[[int], None]:
    """``do`` once, without gradient, before the update after step ``step``."""

    def before(now: int) -> None:
        if now == step + 1:
            with torch.no_grad():
                do()

    return before

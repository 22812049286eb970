"""Trainings whose loss spikes, with the tensors where each spike begins: five kinds of network, five kinds of cause."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.trainings import Recurrent, Residual, Transformer, at, blobs, conv, dense, fit, mse, pictures, tokens

AT = 60  # the last step before the plant
STEPS = 85


@dataclass(frozen=True)
class Kind:
    """A network, its data and loss, the layer that is hit, and the one that reads the data: there a bad batch comes in."""

    make: Callable[[], nn.Module]
    data: Callable[[], Any]
    layer: str
    first: str
    loss: Any = nn.functional.cross_entropy
    rate: float = 0.05  # of gradient descent
    quick: float = 0.1  # of the layer whose gradient comes back


def sequences() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(128, 6, 4, generator=g)
    return x, x[:, :, :1].mean(1)


NETWORKS = {
    "dense": Kind(dense, blobs, "fc2", "fc1"),
    "convolution": Kind(conv, pictures, "conv2", "conv1"),
    "residual": Kind(Residual, pictures, "stem", "stem", quick=0.5),
    "recurrent": Kind(lambda: Recurrent(nn.RNN), sequences, "rnn", "rnn", mse),
    "transformer": Kind(Transformer, tokens, "blocks.1.up", "embedding"),
}


def _groups(model: nn.Module, layer: str) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    inside = [p for n, p in model.named_parameters() if n.startswith(layer + ".")]
    ids = {id(p) for p in inside}
    return inside, [p for p in model.parameters() if id(p) not in ids]


def bad_batch(path: Path, kind: Kind, **options: Any) -> None:
    """The inputs of one batch are 100 times too large."""
    model = kind.make()
    optimizer = torch.optim.SGD(model.parameters(), lr=kind.rate)
    bad = lambda s, x, y: (x * 100, y * 100 if y.is_floating_point() else y) if s == AT + 1 else (x, y)  # noqa: E731
    fit(path, model, kind.data(), optimizer, loss_of=kind.loss, change=bad, steps=STEPS, batch=None, **options)


def exploded_weight(path: Path, kind: Kind, **options: Any) -> None:
    """One row of one matrix is thrown far away between two updates."""
    model = kind.make()
    weight = dict(model.named_parameters())[f"{kind.layer}.weight" if kind.layer != "rnn" else "rnn.weight_hh_l0"]

    def plant() -> None:
        weight[3].add_(torch.sign(weight[3]) * 60.0)

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    fit(
        path, model, kind.data(), optimizer, loss_of=kind.loss, before=at(AT, plant), steps=STEPS, batch=None, **options
    )


def rate_jump(path: Path, kind: Kind, **options: Any) -> None:
    """The learning rate of one layer is 10 000 times too large for two steps."""
    model = kind.make()
    inside, others = _groups(model, kind.layer)
    optimizer = torch.optim.AdamW([{"params": inside}, {"params": others}], lr=3e-3)

    def schedule(step: int) -> None:
        optimizer.param_groups[0]["lr"] = 30.0 if step in (AT + 1, AT + 2) else 3e-3

    fit(path, model, kind.data(), optimizer, loss_of=kind.loss, before=schedule, steps=STEPS, **options)


def small_epsilon(path: Path, kind: Kind, **options: Any) -> None:
    """The gradient of one layer is all but gone until it comes back: its second moments are tiny, and epsilon does not hold them."""
    model = kind.make()
    inside, others = _groups(model, kind.layer)
    scale = [1e-9]
    for p in inside:
        p.register_hook(lambda g: g * scale[0])
    optimizer = torch.optim.Adam(
        [{"params": inside, "betas": (0.5, 0.9999), "eps": 1e-30}, {"params": others}], lr=1e-2
    )

    def schedule(step: int) -> None:
        scale[0] = 1e-9 if step <= AT else 1.0
        optimizer.param_groups[0]["lr"] = kind.quick

    fit(path, model, kind.data(), optimizer, loss_of=kind.loss, before=schedule, steps=STEPS, batch=None, **options)


def growing_logits(path: Path, kind: Kind, *, block: int, **options: Any) -> None:
    """Queries grow by a third at every step, so that attention becomes a hard choice."""
    model = kind.make()
    q = model.blocks[block].q

    def grow(step: int) -> None:
        if step > AT - 8:
            with torch.no_grad():
                q.weight.mul_(1.6)
                q.bias.mul_(1.6)

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    fit(path, model, kind.data(), optimizer, loss_of=kind.loss, before=grow, steps=STEPS, batch=None, **options)


CAUSES: dict[str, Callable[..., None]] = {
    "bad batch": bad_batch, "exploded weight": exploded_weight, "rate jump": rate_jump, "small epsilon": small_epsilon,
}  # fmt: skip


def all_spikes() -> dict[str, tuple[Callable[[Path], None], str]]:
    """Name -> (training, prefix of the tensors where it begins: of a bad batch, where it comes in)."""
    found: dict[str, tuple[Callable[[Path], None], str]] = {}
    for network, kind in NETWORKS.items():
        for cause, plant in CAUSES.items():
            if network == "transformer" and cause in ("bad batch", "rate jump"):
                block = 0 if cause == "bad batch" else 1
                found[f"{network}, growing logits of block {block}"] = (
                    lambda path, kind=kind, block=block: growing_logits(path, kind, block=block),
                    f"blocks.{block}.q",
                )
                continue
            options = {"streams": ("weights", "gradients")} if len(found) % 2 else {}
            found[f"{network}, {cause}"] = (
                lambda path, plant=plant, kind=kind, options=options: plant(path, kind, **options),
                kind.first if cause == "bad batch" else kind.layer,
            )
    return found

"""Trainings with one fault each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

import weightlapse as wl
from tests.trainings import (
    AT,
    Block,
    Transformer,
    adam,
    adamw,
    at,
    blobs,
    conv,
    dense,
    fit,
    mse,
    net,
    pictures,
    planted,
    sgd,
    tokens,
    waves,
)


@planted("first ReLU layer dead", "dead", "fc1.weight", "first biases at -50 from the start, Adam", units=range(16))
def _(path: Path) -> None:
    model = dense()
    nn.init.constant_(model.fc1.bias, -50.0)
    fit(path, model, blobs(), adam(model))


@planted(
    "middle ReLU layer dead",
    "dead",
    "fc2.weight",
    "biases of the second layer to -50, SGD with momentum",
    units=range(16),
)
def _(path: Path) -> None:
    model = dense()
    fit(path, model, blobs(), sgd(model), before=at(AT, lambda: model.fc2.bias.fill_(-50.0)))


@planted("ReLU layer dead, no example", "dead", "fc2.weight", "the same, recorded with wiring= alone", units=range(16))
def _(path: Path) -> None:
    model = dense()
    wiring = wl.trace(model, blobs()[0][:4])
    fit(
        path,
        model,
        blobs(),
        sgd(model),
        before=at(AT, lambda: model.fc2.bias.fill_(-50.0)),
        example=False,
        wiring=wiring,
    )


@planted("convolution dead", "dead", "conv2.weight", "biases of the second convolution at -50", units=range(8))
def _(path: Path) -> None:
    model = conv()
    nn.init.constant_(model.conv2.bias, -50.0)
    fit(path, model, pictures(), adam(model))


@planted("units dead under decay", "dead", "fc1.weight", "two biases to -50, AdamW", units=(3, 7))
def _(path: Path) -> None:
    model = dense()
    fit(
        path,
        model,
        blobs(),
        adamw(model),
        before=at(AT, lambda: model.fc1.bias.index_fill_(0, torch.tensor([3, 7]), -50.0)),
    )


@planted("tanh layer saturated", "saturated", "fc1.weight", "first layer times 100, Adam")
def _(path: Path) -> None:
    model = dense(nn.Tanh)
    with torch.no_grad():
        model.fc1.weight *= 100
    fit(path, model, blobs(), adam(model))


@planted("sigmoid layer saturated", "saturated", "fc2.weight", "biases of the second layer at 30, Adam")
def _(path: Path) -> None:
    model = dense(nn.Sigmoid)
    nn.init.constant_(model.fc2.bias, 30.0)
    fit(path, model, blobs(), adam(model))


@planted("decay too strong", "decay_dominated", "fc1.weight fc2.weight fc3.weight", "AdamW, weight_decay=10")
def _(path: Path) -> None:
    model = dense()
    fit(path, model, blobs(), adamw(model, weight_decay=10.0), steps=120)


@planted("layers tied by accident", "tied", "fc1.weight", "[Linear] * 3")
def _(path: Path) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(12, 12)
    model = nn.Sequential()
    for k in (1, 2):
        model.add_module(f"fc{k}", layer if k == 1 else nn.Linear(12, 12))
        model.add_module(f"act{k}", nn.Tanh())
    model.fc2.weight = layer.weight
    model.add_module("out", nn.Linear(12, 4))
    fit(path, model, blobs(), adam(model))


@planted("blocks tied by accident", "tied", "blocks.0.ln1.weight blocks.0.q.weight", "ModuleList([block] * 2), AdamW")
def _(path: Path) -> None:
    torch.manual_seed(0)
    model = Transformer(blocks=[Block(16)] * 2)
    fit(path, model, tokens(), adamw(model))


@planted("one array under two names", "tied", "a", "the same array given twice", framework="NumPy")
def _(path: Path) -> None:
    rng = np.random.default_rng(0)
    w = {"a": rng.standard_normal((6, 6)), "c": rng.standard_normal((6, 3))}
    with wl.watch({**w, "b": w["a"]}, path) as rec:
        for _ in range(40):
            w = {k: v - 0.01 * v + 0.01 * rng.standard_normal(v.shape) for k, v in w.items()}
            rec.step({**w, "b": w["a"]})


@planted("NaN", "nonfinite", "fc2.weight", "one weight to NaN", units=(2 * 16 + 3,))
def _(path: Path) -> None:
    model = dense()

    def plant() -> None:
        model.fc2.weight[2, 3] = float("nan")

    fit(path, model, blobs(), sgd(model, 0.0), before=at(AT, plant))


@planted("exploding", "exploding", "fc2.weight", "the gradient of one layer goes uphill, SGD")
def _(path: Path) -> None:
    model = dense(nn.Tanh)
    model.fc2.weight.register_hook(lambda g: -3 * model.fc2.weight.detach())
    fit(path, model, blobs(), sgd(model, 0.05, 0.0), steps=60)


@planted("vanishing", "vanishing", "fc1.weight", "eight sigmoid layers, SGD")
def _(path: Path) -> None:
    torch.manual_seed(0)
    deep = [part for _ in range(8) for part in (nn.Linear(12, 12), nn.Sigmoid())]
    model = net(*deep, nn.Linear(12, 4))
    fit(path, model, blobs(), sgd(model, 0.1, 0.0), steps=60)


@planted("forgotten by the optimizer", "never_updated", "fc1.weight", "one matrix not given to Adam")
def _(path: Path) -> None:
    model = dense()
    held = [p for n, p in model.named_parameters() if n != "fc1.weight"]
    fit(path, model, blobs(), torch.optim.Adam(held, lr=3e-3))


@planted("cut off", "frozen", "fc1.weight fc1.bias", "a detach() that comes on at a step, SGD")
def _(path: Path) -> None:
    torch.manual_seed(0)

    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.cut = nn.Linear(12, 16), nn.Linear(16, 4), False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.tanh(self.fc1(x))
            return self.fc2(h.detach() if self.cut else h)

    model = Cut()

    def plant() -> None:
        model.cut = True

    fit(path, model, blobs(), sgd(model, 0.05, 0.0), before=at(20, plant))


@planted("learning rate too high", "lr_high", "fc1.weight", "Adam, 0.3")
def _(path: Path) -> None:
    model = dense()
    fit(path, model, blobs(), adam(model, 0.3))


@planted("learning rate too low", "lr_low", "conv1.weight", "Adam, 1e-8")
def _(path: Path) -> None:
    model = conv()
    fit(path, model, pictures(), adam(model, 1e-8))


@planted("copied units", "replicas", "fc1.weight", "unit 9 is unit 4", units=(4, 9))
def _(path: Path) -> None:
    model = dense()
    with torch.no_grad():
        model.fc1.weight[9], model.fc1.bias[9] = model.fc1.weight[4], model.fc1.bias[4]
        model.fc2.weight[:, 9] = model.fc2.weight[:, 4]
    fit(path, model, blobs(), sgd(model))


@planted("constant start", "collapse", "fc1.weight fc2.weight", "all weights equal", units=range(16))
def _(path: Path) -> None:
    model = dense(nn.Tanh)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(0.05)
    fit(path, model, blobs(), sgd(model))


@planted("bad batch", "loss_spike", "conv1.weight conv2.weight fc1.weight", "inputs of one batch times 100, SGD")
def _(path: Path) -> None:
    model = conv()
    fit(path, model, pictures(), sgd(model, 0.02, 0.0), change=lambda s, x, y: (x * 100 if s == AT else x, y))


@planted("one weight exploded", "loss_spike divergence", "fc2.weight", "one weight to 300", units=(5,))
def _(path: Path) -> None:
    model = dense()

    def plant() -> None:
        model.fc2.weight[5, 2] = 300.0
        model.fc2.bias[5] = 1.0

    fit(path, model, blobs(), adam(model), before=at(AT, plant))


@planted("learning rate jumps", "loss_spike divergence", "*", "one step with 1000 times the rate, AdamW")  # fmt: skip
def _(path: Path) -> None:
    model = Transformer()
    optimizer = adamw(model, 1e-3)

    def schedule(step: int) -> None:
        optimizer.param_groups[0]["lr"] = 1.0 if step == AT else 1e-3

    fit(path, model, tokens(), optimizer, before=schedule)


@planted(
    "running variance ran away",
    "runaway_statistics",
    "other1.running_var other3.running_var",
    "inputs of one batch times 1e4, batch norm",
)
def _(path: Path) -> None:
    model = conv(norm=True)
    fit(
        path, model, pictures(), adam(model, 1e-3), streams=("weights", "buffers"),
        change=lambda s, x, y: (x * 1e4 if s == AT else x, y),
    )  # fmt: skip


@planted(
    "divergence",
    "divergence nonfinite exploding",
    "fc1.weight fc2.weight fc1.bias fc2.bias",
    "gradient descent, rate beyond stability",
)
def _(path: Path) -> None:
    torch.manual_seed(0)
    model = net(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = sgd(model, 0.02, 0.0)

    def schedule(step: int) -> None:
        optimizer.param_groups[0]["lr"] = 0.02 if step < AT else 3.0

    fit(path, model, waves(), optimizer, loss_of=mse, before=schedule, steps=60)


@planted(
    "label noise", "label_noise", "fc1.weight", "half of the labels wrong",
    blind="a wrong label makes a gradient like any other: nothing in the weights tells it from a hard problem",
)  # fmt: skip
def _(path: Path) -> None:
    model = dense()
    x, y = blobs()
    g = torch.Generator().manual_seed(5)
    noisy = torch.where(torch.rand(len(y), generator=g) < 0.5, torch.randint(4, y.shape, generator=g), y)
    fit(path, model, (x, noisy), adam(model))


@planted(
    "ReLU layer dead, no wiring", "dead", "a", "the first layer off from step 20", framework="NumPy",
    blind="without a wiring nothing says which weights read the layer, and a layer at rest may be frozen",
)  # fmt: skip
def _(path: Path) -> None:
    rng = np.random.default_rng(0)
    w = {"a": rng.standard_normal((8, 6)), "b": rng.standard_normal((4, 8)), "c": np.zeros(4)}
    with wl.watch(w, path) as rec:
        for t in range(60):
            move = {k: 0.01 * rng.standard_normal(v.shape) for k, v in w.items()}
            w = {k: v + (move[k] if t < 20 or k == "c" else 0) for k, v in w.items()}
            rec.step(w)

"""Trainings in which nothing is wrong."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

import weightlapse as wl
from tests.trainings import (
    Recurrent,
    Residual,
    Transformer,
    adam,
    adamw,
    blobs,
    conv,
    dense,
    fit,
    healthy,
    mse,
    net,
    pictures,
    sgd,
    tokens,
    waves,
)


@healthy("dense, ReLU, Adam")
def _(path: Path) -> None:
    model = dense()
    fit(path, model, blobs(), adam(model))


@healthy("dense, tanh, SGD with momentum")
def _(path: Path) -> None:
    model = dense(nn.Tanh)
    fit(path, model, blobs(), sgd(model))


@healthy("dense, GELU, AdamW, cosine schedule to zero")
def _(path: Path) -> None:
    model = dense(nn.GELU)
    optimizer = adamw(model)

    def schedule(step: int) -> None:
        optimizer.param_groups[0]["lr"] = 3e-3 * 0.5 * (1 + math.cos(math.pi * step / 80))

    fit(path, model, blobs(), optimizer, before=schedule)


@healthy("dense, sigmoid, SGD")
def _(path: Path) -> None:
    model = dense(nn.Sigmoid)
    fit(path, model, blobs(), sgd(model, 0.1))


@healthy("dense, dropout, layer norm, AdamW")
def _(path: Path) -> None:
    torch.manual_seed(0)
    model = net(nn.Linear(12, 16), nn.LayerNorm(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 4))
    fit(path, model, blobs(), adamw(model))


@healthy("convolution to a loss of 1e-5, full batch, Adam 1e-2")
def _(path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4)
    )
    fit(path, model, (torch.randn(32, 1, 8, 8), torch.randint(0, 4, (32,))), adam(model, 1e-2), batch=None, steps=60)


@healthy("dense to a loss of 1e-5, full batch, SGD with momentum")
def _(path: Path) -> None:
    model = dense(width=32)
    x, y = blobs(32)
    fit(path, model, (3 * x, y), sgd(model, 0.05), batch=None, steps=120)


@healthy("convolution, Adam")
def _(path: Path) -> None:
    model = conv()
    fit(path, model, pictures(), adam(model))


@healthy("convolution, batch norm, SGD with weight decay")
def _(path: Path) -> None:
    model = conv(norm=True)
    fit(path, model, pictures(), sgd(model, weight_decay=5e-4), streams=("weights", "buffers"))


@healthy("residual convolution, batch norm, AdamW")
def _(path: Path) -> None:
    model = Residual()
    fit(path, model, pictures(), adamw(model))


@healthy("transformer, AdamW with warm-up and clipping")
def _(path: Path) -> None:
    model = Transformer()
    optimizer = adamw(model)

    def schedule(step: int) -> None:
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1, step / 20)

    fit(path, model, tokens(), optimizer, before=schedule, clip=1.0)


@healthy("transformer that is read out by its embedding, Adam")
def _(path: Path) -> None:
    model = Transformer(tied=True)
    fit(path, model, tokens(), adam(model, 1e-3))


@healthy("recurrent network, Adam")
def _(path: Path) -> None:
    model = Recurrent(nn.RNN)
    x = torch.randn(128, 6, 4)
    fit(path, model, (x, x[:, :, :1].mean(1)), adam(model), loss_of=mse)


@healthy("LSTM, SGD with clipping")
def _(path: Path) -> None:
    model = Recurrent(nn.LSTM)
    x = torch.randn(128, 6, 4)
    fit(path, model, (x, x[:, :, :1].mean(1)), sgd(model, 0.1), loss_of=mse, clip=1.0)


@healthy("GAN, two optimizers")
def _(path: Path) -> None:
    torch.manual_seed(0)
    g = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    d = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
    of_g, of_d = adam(g, 1e-3), adam(d, 1e-3)
    bce = nn.functional.binary_cross_entropy_with_logits
    with wl.watch({"g": g, "d": d}, path, optimizer=[of_d, of_g], frame="iteration") as rec:
        for _ in range(80):
            real, fake = torch.randn(32, 2) * 0.5 + 1, g(torch.randn(32, 4))
            loss_d = bce(d(real), torch.ones(32, 1)) + bce(d(fake.detach()), torch.zeros(32, 1))
            of_d.zero_grad()
            loss_d.backward()
            of_d.step()
            loss_g = bce(d(fake), torch.ones(32, 1))
            of_g.zero_grad()
            loss_g.backward()
            of_g.step()
            rec.log(loss_d=loss_d.item(), loss_g=loss_g.item())


@healthy("regression, tanh, full batch gradient descent")
def _(path: Path) -> None:
    torch.manual_seed(0)
    model = net(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 1))
    fit(path, model, waves(), sgd(model, 0.1, 0.0), loss_of=mse, batch=None)


@healthy("regression, ReLU, Adam")
def _(path: Path) -> None:
    torch.manual_seed(0)
    model = net(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 1))
    fit(path, model, waves(), adam(model), loss_of=mse)


@healthy("logistic regression, gradient descent")
def _(path: Path) -> None:
    torch.manual_seed(0)
    model = net(nn.Linear(12, 4))
    fit(path, model, blobs(), sgd(model, 0.1, 0.0))


@healthy("fine-tuning: all but the last layer frozen")
def _(path: Path) -> None:
    model = dense()
    for layer in (model.fc1, model.fc2):
        layer.requires_grad_(False)
    fit(path, model, blobs(), torch.optim.Adam(model.fc3.parameters(), lr=1e-2))


@healthy("fine-tuning: one layer of three frozen")
def _(path: Path) -> None:
    model = dense(nn.Tanh)
    model.fc2.requires_grad_(False)
    fit(path, model, blobs(), adam(model))


@healthy("autoencoder, AdamW")
def _(path: Path) -> None:
    torch.manual_seed(0)
    model = net(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 12))
    x = blobs()[0]
    fit(path, model, (x, x), adamw(model), loss_of=mse)


@healthy("dense, recorded every fifth step, without example")
def _(path: Path) -> None:
    model = dense()
    fit(path, model, blobs(), adam(model), steps=200, every=5, example=False)


@healthy("dense by hand", framework="NumPy")
def _(path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = (t.numpy() for t in blobs())
    w = {"a": 0.4 * rng.standard_normal((12, 16)), "b": 0.3 * rng.standard_normal((16, 4)), "c": np.zeros(4)}
    with wl.watch(w, path) as rec:
        for _ in range(80):
            pick = rng.integers(0, len(x), 32)
            h = np.maximum(x[pick] @ w["a"], 0)
            z = h @ w["b"] + w["c"]
            p = np.exp(z - z.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            loss = -np.log(p[np.arange(32), y[pick]]).mean()
            p[np.arange(32), y[pick]] -= 1
            p /= 32
            grads = {"a": x[pick].T @ ((p @ w["b"].T) * (h > 0)), "b": h.T @ p, "c": p.sum(0)}
            w = {k: v - 0.1 * grads[k] for k, v in w.items()}
            rec.step(w, loss=float(loss))

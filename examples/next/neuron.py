"""The neuron that learns tanh(x1 + x2), with its bias switched off: do the weights reach 1 then?"""

import numpy as np
import torch
from torch import nn

import weightlapse as wl

x = torch.rand(100, 500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
y = torch.tanh(x.sum(-1, keepdim=True))


def neuron(bias: bool):
    def make() -> nn.Module:
        layer = nn.Linear(2, 1, bias=bias)
        nn.init.xavier_uniform_(layer.weight)
        return nn.Sequential(layer, nn.Tanh())

    return make


for epochs in (10, 50):
    for bias in (True, False):
        done = wl.ensemble(
            neuron(bias), 100, x, y, epochs=epochs, batch_size=32, optimizer="sgd", lr=0.5, dtype=torch.float64
        )
        w = done.states["0.weight"].numpy().reshape(100, 2)
        off = np.abs(w - 1).max(1)
        print(
            f"{epochs:3} epochs, {'bias' if bias else 'no bias':7}: weights {np.median(w):.3f} [{w.min():.3f}, {w.max():.3f}], {np.mean(off < 0.1):.0%} within 0.1 of 1"
        )

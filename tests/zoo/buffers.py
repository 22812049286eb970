"""Networks that write what they compute into a tensor of zeros, step by step or part by part, and read it as a whole."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.zoo import add


def tokens():
    return (torch.randn(3, 5, 4),)


class Buffered(nn.Module):
    """What ``k`` makes (and ``v``) goes through memory written in ``fill``; what ``r`` makes meets what is read there."""

    def __init__(self, fill: Callable[[Buffered, Tensor], Tensor]) -> None:
        super().__init__()
        self.k, self.v, self.r, self.o = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3)
        self.recurrent, self.both, self.other = nn.Linear(8, 8), nn.Linear(4, 16), nn.Linear(16, 3)
        self.fill = fill

    def forward(self, x):
        return self.fill(self, x)


def buffered(name: str, *sizes: int) -> Callable[[Callable[[Buffered, Tensor], Tensor]], None]:
    def register(fill: Callable[[Buffered, Tensor], Tensor]) -> None:
        add(name, tokens, sizes=sizes)(lambda: Buffered(fill))

    return register


@buffered("buffer_of_steps", 8)
def _steps(self, x):
    out = torch.zeros(3, 5, 8, dtype=x.dtype)
    for t in range(5):
        out[:, t] = self.k(x[:, t])
    return self.o(out * torch.sigmoid(self.r(x)))


@buffered("buffer_of_steps_first", 8)
def _steps_first(self, x):
    out = x.new_empty(5, 3, 8)
    for place, t in zip(out.unbind(0), range(5), strict=True):
        place.copy_(self.k(x[:, t]))
    return self.o(out.movedim(0, 1) * self.r(x))


@buffered("buffer_of_states", 8)
def _states(self, x):
    out = torch.zeros(3, 8, 5, dtype=x.dtype)
    for t in range(5):
        state = self.recurrent(out[:, :, t - 1]) if t else 0
        out[:, :, t] = torch.tanh(state + self.k(x[:, t]))
    return self.o(out.transpose(1, 2) * self.r(x))


@buffered("buffer_added_to", 8)
def _added(self, x):
    out = torch.ones(3, 2, 2, 8, dtype=x.dtype)
    for i in range(2):
        for j in range(2):
            out[:, i, j] += self.k(x[:, i + j])
    return self.o(torch.relu(out.mean((1, 2)) + self.r(x[:, 0])))


@buffered("buffer_of_halves", 8, 8)
def _halves(self, x):
    out = torch.zeros(3, 5, 16, dtype=x.dtype)
    for t in range(5):
        out[:, t, :8] = self.k(x[:, t])
        out[:, t, 8:] = self.v(x[:, t])
    return self.other(torch.tanh(out) * self.both(x))


@buffered("buffer_of_two_layers", 8)
def _two_layers(self, x):
    out = torch.zeros(3, 2, 8, dtype=x.dtype)
    out[:, 0], out[:, 1] = self.k(x[:, 0]), self.v(x[:, 1])
    return self.o(torch.relu(out.sum(1)) * self.r(x[:, 2]))


@buffered("buffer_read_apart", 8, 8)
def _apart(self, x):
    out = torch.zeros(3, 2, 8, dtype=x.dtype)
    out[:, 0], out[:, 1] = self.k(x[:, 0]), self.v(x[:, 1])
    return self.o(torch.tanh(out[:, 0] * self.r(x[:, 2]))) + self.other(torch.cat([out[:, 1], out[:, 1].exp()], 1))


@add("rwkv", tokens, sizes=(4, 12, 10))
class ReceptanceWeighted(nn.Module):
    """A token mixer that keeps its state of each block in one tensor, and puts its sums out one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.last = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)
        self.mix = nn.Parameter(torch.rand(3, 1, 1, 4))
        self.key, self.value, self.receptance = (nn.Linear(4, 12, bias=False) for _ in range(3))
        self.out = nn.Linear(12, 4, bias=False)
        self.decay, self.first = nn.Parameter(torch.randn(12)), nn.Parameter(torch.randn(12))
        self.wide, self.gate, self.narrow = nn.Linear(4, 10), nn.Linear(4, 4), nn.Linear(10, 4)

    def forward(self, x):
        h = self.embed(x)
        n, state = self.norm(h), torch.zeros(len(x), 4, 2)
        shifted = nn.functional.pad(n, (0, 0, 1, -1))
        shifted[:, 0] = state[:, :, 0]
        k, v, r = (n * m + shifted * (1 - m) for m in self.mix)
        k, v, r = self.key(k), self.value(v), torch.sigmoid(self.receptance(r))
        done, top, low = torch.zeros_like(k), torch.zeros(len(x), 12), torch.zeros(len(x), 12)
        for t in range(x.shape[1]):
            weight = torch.exp(k[:, t])
            extra = torch.exp(self.first + k[:, t])
            done[:, t] = (top + extra * v[:, t]) / (low + extra)
            top = top * torch.exp(-torch.exp(self.decay)) + weight * v[:, t]
            low = low * torch.exp(-torch.exp(self.decay)) + weight
        h = h + self.out(r * done)
        h = h + torch.sigmoid(self.gate(h)) * self.narrow(torch.relu(self.wide(h)) ** 2)
        return self.last(h)

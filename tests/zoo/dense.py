"""Fully connected networks and their relatives."""

from __future__ import annotations

import torch
from torch import nn

from tests.zoo import add


def x(*shape: int):
    return lambda: (torch.randn(*shape),)


def _mlp(act: type[nn.Module]):
    return lambda: nn.Sequential(nn.Linear(4, 16), act(), nn.Linear(16, 12), act(), nn.Linear(12, 3))


for _name, _act in (
    ("relu", nn.ReLU),
    ("tanh", nn.Tanh),
    ("gelu", nn.GELU),
    ("sigmoid", nn.Sigmoid),
    ("leaky_relu", nn.LeakyReLU),
):
    add(f"mlp_{_name}", x(6, 4), sizes=(16, 12))(_mlp(_act))


@add("mlp_batchnorm", x(6, 4), sizes=(16, 12))
def mlp_batchnorm() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 12),
        nn.BatchNorm1d(12),
        nn.Tanh(),
        nn.Linear(12, 3),
    )


@add("mlp_layernorm_prelu", x(6, 4), sizes=(16, 12))
def mlp_layernorm() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 16), nn.LayerNorm(16), nn.PReLU(16), nn.Linear(16, 12), nn.RMSNorm(12), nn.SELU(), nn.Linear(12, 3)
    )


@add("residual_mlp", x(6, 4), sizes=(16, 10, 11, 12))
class ResidualMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Linear(4, 16)
        self.up = nn.ModuleList(nn.Linear(16, n) for n in (10, 11, 12))
        self.down = nn.ModuleList(nn.Linear(n, 16) for n in (10, 11, 12))
        self.out = nn.Linear(16, 2)

    def forward(self, x):
        h = self.inp(x)
        for up, down in zip(self.up, self.down, strict=True):
            h = h + down(torch.relu(up(h)))
        return self.out(h)


@add("dense_concat", x(6, 4), sizes=(5, 7, 9))
class DenseConcat(nn.Module):
    """NeRF-like: the input is joined to a hidden layer again."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(4, 5), nn.Linear(5, 7), nn.Linear(11, 9), nn.Linear(9, 2)

    def forward(self, x):
        h = torch.relu(self.b(torch.relu(self.a(x))))
        return self.d(torch.relu(self.c(torch.cat([x, h], -1))))


@add("tied_autoencoder", x(6, 12), sizes=(5,))
class TiedAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Linear(12, 5)
        self.bias = nn.Parameter(torch.randn(12))

    def forward(self, x):
        return nn.functional.linear(torch.tanh(self.enc(x)), self.enc.weight.t(), self.bias)


@add("weight_norm", x(6, 4), sizes=(16, 12))
def weight_norm() -> nn.Module:
    wn = torch.nn.utils.parametrizations.weight_norm
    return nn.Sequential(wn(nn.Linear(4, 16)), nn.Tanh(), wn(nn.Linear(16, 12)), nn.Tanh(), wn(nn.Linear(12, 3)))


@add("spectral_norm", x(6, 4), sizes=(16, 12))
def spectral_norm() -> nn.Module:
    sn = torch.nn.utils.parametrizations.spectral_norm
    return nn.Sequential(sn(nn.Linear(4, 16)), nn.Tanh(), sn(nn.Linear(16, 12)), nn.Tanh(), nn.Linear(12, 3))


@add("einsum_parameters", x(6, 4), sizes=(8, 9), nested=0)
class Einsum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.randn(4, 8)), nn.Parameter(torch.randn(8))
        self.w2 = nn.Parameter(torch.randn(8, 9))
        self.w3 = nn.Parameter(torch.randn(2, 9))

    def forward(self, x):
        h = torch.tanh(torch.einsum("bi,ih->bh", x, self.w1) + self.b1)
        return torch.einsum("bk,ok->bo", torch.relu(torch.einsum("bh,hk->bk", h, self.w2)), self.w3)


@add("highway", x(6, 4), sizes=(9,))
class Highway(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(4, 9), nn.Linear(9, 2)
        self.t = nn.ModuleList(nn.Linear(9, 9) for _ in range(2))
        self.h = nn.ModuleList(nn.Linear(9, 9) for _ in range(2))

    def forward(self, x):
        x = self.inp(x)
        for t, h in zip(self.t, self.h, strict=True):
            gate = torch.sigmoid(t(x))
            x = gate * torch.relu(h(x)) + (1 - gate) * x
        return self.out(x)


@add("maxout", x(6, 4), sizes=(8,), nested=8)
class Maxout(nn.Module):
    """Each unit is the largest of three: the three pieces of a unit may be exchanged within it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 24), nn.Linear(8, 2)

    def forward(self, x):
        return self.b(self.a(x).view(-1, 8, 3).amax(-1))


@add("bilinear", lambda: ((torch.randn(5, 4), torch.randn(5, 3)),), sizes=(7, 6, 5))
class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.bi, self.out = nn.Linear(4, 7), nn.Linear(3, 6), nn.Bilinear(7, 6, 5), nn.Linear(5, 2)

    def forward(self, x, y):
        return self.out(torch.tanh(self.bi(torch.relu(self.a(x)), torch.relu(self.b(y)))))


@add("outer_of_two", lambda: ((torch.randn(5, 4), torch.randn(5, 3)),), sizes=(7, 6))
class OuterOfTwo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 7), nn.Linear(3, 6), nn.Linear(42, 2)

    def forward(self, x, y):
        return self.out((self.a(x)[:, :, None] * self.b(y)[:, None, :]).flatten(1))


@add("siamese", lambda: ((torch.randn(5, 4), torch.randn(5, 4)),), sizes=(9, 7))
class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 7), nn.Tanh())
        self.head = nn.Linear(7, 1)

    def forward(self, x, y):
        return self.head((self.body(x) - self.body(y)).abs())


@add("deep_sets", x(5, 6, 4), sizes=(9, 8, 7))
class DeepSets(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.phi = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU())
        self.rho = nn.Sequential(nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 2))

    def forward(self, x):
        return self.rho(self.phi(x).sum(1))


@add("gcn", lambda: ((torch.randn(6, 4), torch.rand(6, 6)),), sizes=(9, 8))
class GCN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 9), nn.Linear(9, 8), nn.Linear(8, 2)

    def forward(self, x, adjacency):
        h = torch.relu(adjacency @ self.a(x))
        return self.out(torch.relu(adjacency @ self.b(h)))


@add("gcn_sparse", lambda: ((torch.randn(6, 4), torch.eye(6).roll(1, 0).to_sparse()),), sizes=(9,))
class SparseGCN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Linear(4, 9), nn.Linear(9, 2)

    def forward(self, x, adjacency):
        return self.out(torch.relu(torch.sparse.mm(adjacency, self.a(x))))


@add("message_passing", lambda: ((torch.randn(6, 4), torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]])),), sizes=(9, 8))
class MessagePassing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.edge, self.out = nn.Linear(4, 9), nn.Linear(18, 8), nn.Linear(8, 2)

    def forward(self, x, edges):
        h = torch.relu(self.a(x))
        m = torch.relu(self.edge(torch.cat([h[edges[0]], h[edges[1]]], -1)))
        return self.out(torch.zeros(len(x), 8, dtype=x.dtype).index_add(0, edges[1], m))


@add("film_conditioning", lambda: ((torch.randn(5, 4), torch.randn(5, 3)),), sizes=(9, 6))
class FiLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.c, self.gen, self.out = nn.Linear(4, 9), nn.Linear(3, 6), nn.Linear(6, 18), nn.Linear(9, 2)

    def forward(self, x, z):
        gain, shift = self.gen(torch.relu(self.c(z))).chunk(2, -1)
        return self.out(torch.relu(gain * self.a(x) + shift))


@add("lora", x(6, 4), sizes=(9, 3))
class LoRA(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base, self.out = nn.Linear(4, 9), nn.Linear(9, 2)
        self.down, self.up = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(9, 3))

    def forward(self, x):
        return self.out(torch.relu(nn.functional.linear(x, self.base.weight + self.up @ self.down, self.base.bias)))


@add("hypernetwork", lambda: ((torch.randn(5, 4), torch.randn(5, 3)),), sizes=(6, 7))
class Hypernetwork(nn.Module):
    """Weights written by a network: its last layer's rows carry the units of the network that it writes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.w1, self.w2 = nn.Linear(3, 6), nn.Linear(6, 28), nn.Linear(6, 14)

    def forward(self, x, z):
        z = torch.tanh(self.a(z))
        h = torch.relu(torch.bmm(self.w1(z).view(-1, 7, 4), x[:, :, None]))
        return torch.bmm(self.w2(z).view(-1, 2, 7), h)[..., 0]


@add("parameter_containers", x(6, 4), sizes=(5, 6))
class Containers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ws = nn.ParameterList([torch.randn(4, 5), torch.randn(5, 6)])
        self.last = nn.ParameterDict({"w": torch.randn(6, 2), "b": torch.randn(2)})

    def forward(self, x):
        for w in self.ws:
            x = torch.tanh(x @ w)
        return x @ self.last["w"] + self.last["b"]


@add("vae", x(6, 8), sizes=(12, 3, 12), limits=("mu: its units in mu.weight",))
class VAE(nn.Module):
    """In eval mode the latent is the mean: its units are hidden units like others. (A sum over all parts would let the variances go alone.)"""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.mu, self.logvar = nn.Linear(8, 12), nn.Linear(12, 3), nn.Linear(12, 3)
        self.dec, self.out = nn.Linear(3, 12), nn.Linear(12, 8)

    def forward(self, x):
        h = torch.relu(self.enc(x))
        mu, logvar = self.mu(h), self.logvar(h)
        kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(-1)
        return self.out(torch.relu(self.dec(mu))), kl


@add("kan_like", x(6, 4), sizes=(7,))
class KAN(nn.Module):
    """A function of its own on every edge: coefficients of radial bases, (out, in, basis)."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Parameter(torch.randn(7, 4, 5)), nn.Parameter(torch.randn(2, 7, 5))
        self.register_buffer("centers", torch.linspace(-2, 2, 5), persistent=False)

    def basis(self, x):
        return torch.exp(-((x[..., None] - self.centers) ** 2))

    def forward(self, x):
        h = torch.einsum("bik,oik->bo", self.basis(x), self.c1)
        return torch.einsum("bik,oik->bo", self.basis(h), self.c2)

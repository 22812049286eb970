"""Networks that write weights: plain, chunked, and how to initialise them.

A generator maps hyper-inputs (B, H) to flat weights (B, P). Glorot or He initialisation of a generator gives the *generated* network the
wrong scale (Chang, Flokas and Lipson, "Principled weight initialization for hypernetworks", ICLR 2020); `hyperfan_` sets the last layer
so that the generated weights have the variance that their own fan-in or fan-out asks for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from weightlapse.errors import InvalidArgument


@dataclass(frozen=True)
class Slot:
    """Where one generated tensor lies in the flat vector: ``flat[start:stop].reshape(shape)``. ``aliases``: other names of a tied weight."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int
    aliases: tuple[str, ...] = ()


def dense_generator(inputs: int, outputs: int, hidden: Sequence[int] | None = None) -> nn.Sequential:
    """``inputs`` -> hidden ReLU layers -> ``outputs``. The default is one hidden layer of about 2 sqrt(outputs) units, 10 to 128.

    >>> sum(p.numel() for p in dense_generator(3, 26).parameters())
    326
    """
    if hidden is None:
        hidden = (min(128, max(10, round(2 * math.sqrt(outputs)))),)
    sizes = [inputs, *hidden]
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))


class ChunkedGenerator(nn.Module):
    """Writes a long weight vector piece by piece with one small network that is told which piece it writes.

    Each of ceil(outputs / chunk) pieces has a learned embedding; the trunk sees (hyper-input, embedding) and the shared last layer writes
    ``chunk`` numbers. Parameters grow with chunk + outputs / chunk instead of with outputs.
    Source: chunked hypernetworks (Ha, Dai and Le 2016; von Oswald et al. 2020). Input (B, H), output (B, outputs).

    >>> g = ChunkedGenerator(3, 100_000, chunk=500)
    >>> g(torch.zeros(2, 3)).shape, sum(p.numel() for p in g.parameters()) < 50_000
    (torch.Size([2, 100000]), True)
    """

    def __init__(self, inputs: int, outputs: int, *, chunk: int = 1024, embedding: int = 16, hidden: int = 64) -> None:
        super().__init__()
        if min(inputs, outputs, chunk, embedding, hidden) < 1:
            raise InvalidArgument(
                "ChunkedGenerator: inputs, outputs, chunk, embedding and hidden must all be at least 1"
            )
        self.outputs = outputs
        self.embedding = nn.Parameter(torch.randn(math.ceil(outputs / chunk), embedding))
        self.from_input = nn.Linear(inputs, hidden)
        self.from_piece = nn.Linear(embedding, hidden, bias=False)
        self.head = nn.Linear(hidden, min(chunk, outputs))

    def forward(self, hyper: Tensor) -> Tensor:
        """Hyper-inputs (B, H) -> flat weights (B, outputs); what the last piece writes beyond them is cut off."""
        hidden = torch.relu(self.from_input(hyper)[:, None, :] + self.from_piece(self.embedding))
        pieces: Tensor = self.head(hidden)
        return pieces.flatten(1)[:, : self.outputs]


class CosSin(nn.Module):
    """Encodes a hyper-input so that its length no longer depends on its size: (cos, sin) of pi/2 x / ``scale``, per coordinate.

    A generator's output is otherwise proportional to the magnitude of its input, which makes training unstable; together with
    base + delta weights this is the magnitude-invariant parametrisation (Ortiz, Guttag and Dalca, ICLR 2024).
    Input (B, H) within [-scale, scale], output (B, 2 H), of norm sqrt(H) always.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        if not scale > 0:
            raise InvalidArgument(f"CosSin: scale must be positive, not {scale}")
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """(B, H) -> (B, 2 H): all cosines, then all sines. Inputs beyond ``scale`` are not refused, and come out as others within."""
        angle = x * (math.pi / 2 / self.scale)
        return torch.cat([angle.cos(), angle.sin()], dim=-1)


def glorot_(module: nn.Module) -> nn.Module:
    """Keras's start: Glorot-uniform kernels and zero biases in every `Linear` of ``module``, in place."""
    for m in module.modules():
        if isinstance(m, nn.Linear):
            nn.init.xavier_uniform_(m.weight)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
    return module


@torch.no_grad()
def hyperfan_(generator: nn.Module, slots: Sequence[Slot], *, mode: str = "in", relu: bool = True) -> nn.Module:
    """Initialise ``generator`` in place so that the weights it writes start at the scale that *their* network needs.

    ``mode`` "in" keeps the variance of activations, "out" that of gradients. A generated matrix (out, in, ...) gets variance
    g / fan, with g = 2 for ReLU tasks and 1 else; vectors (biases, gains) start at zero. The trunk is initialised for unit variance (He),
    and the rows of the last `Linear` carry the rest: variance g / (fan * E|hidden|^2). Chunked generators share one last layer, which
    takes the mean over the slots. Hyper-inputs are supposed to have zero mean and unit variance, or to be of that order.
    """
    if mode not in ("in", "out"):
        raise InvalidArgument(f"hyperfan_: mode must be 'in' or 'out', not {mode!r}")
    linears = [m for m in generator.modules() if isinstance(m, nn.Linear)]
    if not linears:
        raise InvalidArgument(
            "hyperfan_: the generator has no Linear layer to initialise; pass init=None and do it yourself"
        )
    for m in linears[:-1]:
        nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
        if m.bias is not None:
            nn.init.zeros_(m.bias)
    last = linears[-1]
    # He's trunk keeps the second moment of every unit at one (doubled by the weights, halved by ReLU), as that of the hyper-inputs is.
    wanted = torch.cat([torch.full((s.stop - s.start,), _variance(s.shape, mode, relu)) for s in slots])
    wanted = wanted / last.in_features
    if last.out_features != wanted.numel():
        wanted = wanted.mean().expand(last.out_features)
    noise = torch.empty_like(last.weight).uniform_(-1, 1) * math.sqrt(3.0)
    last.weight.copy_(noise * wanted.to(last.weight).sqrt()[:, None])
    if last.bias is not None:
        nn.init.zeros_(last.bias)
    return generator


def _variance(shape: tuple[int, ...], mode: str, relu: bool) -> float:
    if len(shape) < 2:
        return 0.0
    field = math.prod(shape[2:])
    fan = shape[1] * field if mode == "in" else shape[0] * field
    return (2.0 if relu else 1.0) / fan

"""Dense chains as flat float64 vectors: the shared ground of the online engines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from weightlapse.adapters.chain import ACTIVATIONS, Chain

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Offsets:
    """Where each layer of a dense chain lies in one flat vector. Offsets of missing biases are -1; ``acts`` index `ACTIVATIONS`."""

    sizes: NDArray[np.int64]  # (L + 1,)
    acts: NDArray[np.int64]  # (L,)
    weight_at: NDArray[np.int64]  # (L,)
    bias_at: NDArray[np.int64]  # (L,)
    total: int

    @property
    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """What the compiled loops take: sizes, acts, weight_at, bias_at."""
        return self.sizes, self.acts, self.weight_at, self.bias_at

    def gathered(self, rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Where each number of the *joined* layout comes from: layer by layer one matrix (out, in + 1) with the bias as its last column.

        ``rows`` puts the rows of the last layer into another order. The NumPy loop works in this layout: half as many small products.
        """
        parts = []
        for i, (w, b) in enumerate(zip(self.weight_at, self.bias_at, strict=True)):
            fan_in, fan_out = self.sizes[i], self.sizes[i + 1]
            matrix = w + np.arange(fan_in * fan_out).reshape(fan_out, fan_in)
            if b >= 0:
                matrix = np.column_stack([matrix, b + np.arange(fan_out)])
            parts.append((matrix if rows is None or i < len(self.acts) - 1 else matrix[rows]).ravel())
        return np.concatenate(parts)

    def matrices(self, joined: Vector) -> list[Vector]:
        """The matrix of each layer as a view of a vector in the joined layout."""
        found, at = [], 0
        for i, b in enumerate(self.bias_at):
            fan_in, fan_out = int(self.sizes[i]) + (b >= 0), int(self.sizes[i + 1])
            found.append(joined[at : at + fan_in * fan_out].reshape(fan_out, fan_in))
            at += fan_in * fan_out
        return found


def offsets_of(chain: Chain, places: dict[str, int]) -> Offsets:
    """The offsets of ``chain`` where the tensor called name starts at ``places[name]``."""
    sizes = [chain.inputs, *(layer.outputs for layer in chain.layers)]
    return Offsets(
        sizes=np.array(sizes, np.int64),
        acts=np.array([ACTIVATIONS.index(layer.activation) for layer in chain.layers], np.int64),
        weight_at=np.array([places[layer.weight] for layer in chain.layers], np.int64),
        bias_at=np.array([-1 if layer.bias is None else places[layer.bias] for layer in chain.layers], np.int64),
        total=sum(
            layer.inputs * layer.outputs + (0 if layer.bias is None else layer.outputs) for layer in chain.layers
        ),
    )


def places_of(module: nn.Module) -> dict[str, int]:
    """Start of each parameter of ``module`` in the flat vector of `read`."""
    places, at = {}, 0
    for name, parameter in module.named_parameters():
        places[name] = at
        at += parameter.numel()
    return places


def read(module: nn.Module) -> Vector:
    """All parameters of ``module`` as one float64 vector."""
    parts = [p.detach().cpu().reshape(-1).to(torch.float64).numpy() for p in module.parameters()]
    return np.concatenate(parts)


@torch.no_grad()
def write(module: nn.Module, flat: Vector) -> None:
    """Put `read`'s vector back, each parameter in its own dtype."""
    at = 0
    for parameter in module.parameters():
        stop = at + parameter.numel()
        parameter.copy_(torch.from_numpy(flat[at:stop]).reshape(parameter.shape))
        at = stop

"""The cells of a growth put into a network: its tensors, what its lengths become, and noise on what is new."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from weightlapse.growth.arrays import Array, fresh_places, grown_gradient, grown_value
from weightlapse.growth.attributes import Lengths
from weightlapse.growth.cells import Cells
from weightlapse.growth.families import Family
from weightlapse.growth.module import tensors_of, with_tensors
from weightlapse.wiring.data import Wiring


def grown_tensors(model: nn.Module, cells: Cells) -> nn.Module:
    """A copy of ``model`` with the tensors of ``cells``, their gradients too."""

    def value(name: str, values: Array, dtype: str) -> Array:
        return grown_value(name, values, cells.maps_of(name), dtype=dtype)

    def gradient(name: str, values: Array, _dtype: str) -> Array:
        return grown_gradient(values, cells.maps_of(name))

    return with_tensors(model, cells.tensors, value, gradient)


def rows_of(cells: Cells) -> dict[str, NDArray[np.int64]]:
    """The old row of each row of every tensor whose first axis changes."""
    return {name: m.source for name in cells.tensors for axis, m in cells.maps_of(name) if axis == 0}


def grown_shape(shape: Sequence[int], cells: Cells, name: str) -> tuple[int, ...]:
    """The shape that a tensor of ``shape`` gets."""
    new = list(shape)
    for axis, m in cells.maps_of(name):
        new[axis] = len(m.source)
    return tuple(new)


def lengths_below(wiring: Wiring, cells: Cells) -> Lengths:
    """What every length of an axis, and every number of units, below a path becomes."""
    axes: list[tuple[str, int, int]] = []  # tensor, old length, new length
    for name, shape in wiring.shapes.items():
        new = {axis: len(m.source) for axis, m in cells.maps_of(name)}
        axes += [(name, length, new.get(axis, length)) for axis, length in enumerate(shape)]
    for group in wiring.groups:
        became = len(cells.lineage.get(group.name, range(group.size)))
        axes += [(tensor, group.size, became) for tensor in {m.tensor for m in group.producers}]

    found: dict[str, dict[int, set[int]]] = {}
    for name, old, now in axes:
        dots = [i for i, letter in enumerate(name) if letter == "."]
        for path in ("", *(name[:i] for i in dots)):
            found.setdefault(path, {}).setdefault(old, set()).add(now)
    return lambda path: found.get(path, {})


def add_noise(
    model: nn.Module, cells: Cells, families: Sequence[tuple[Family, int]], noise: float, seed: int | None
) -> None:
    """Adds ``noise`` standard deviations of each tensor to the incoming weights of the new units, in place."""
    rng = np.random.default_rng(seed)
    made = {(m.tensor, m.axis) for f, _ in families for m in f.members if "out" in m.roles}
    with torch.no_grad():
        for name, (tensor, _) in tensors_of(model).items():
            axes = {axis for place, axis in made if place == name}
            if axes and tensor.numel() > 1:
                places = fresh_places(tuple(tensor.shape), cells.maps_of(name), axes)
                shift = rng.normal(0.0, noise * float(tensor.double().std()), tensor.shape) * places
                tensor.add_(torch.from_numpy(shift).to(tensor))

"""Units over time: how much each neuron's weights move, and which neurons are copies of each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.measures.stream import Array, moments
from weightlapse.recording.run import Run

TWIN = 1e-6  # relative distance below which two units are copies


@dataclass(frozen=True)
class Place:
    """Where units live in one tensor: ``index`` (units, k) positions on ``axis``, only in the slab ``where`` if given."""

    tensor: str
    axis: int
    index: NDArray[np.int64]
    where: tuple[int, NDArray[np.int64]] | None = None

    def take(self, values: Array) -> Array:
        """(units, everything of each unit) from the tensor's values."""
        if self.where is not None:
            values = np.take(values, self.where[1], axis=self.where[0])
        picked = np.take(values, self.index.reshape(-1), axis=self.axis)
        first = np.moveaxis(picked, self.axis, 0)
        return np.ascontiguousarray(first).reshape(self.index.shape[0], -1)

    def sums(self, a: Array, b: Array) -> Array:
        """(T, units) sums of the products of ``a`` and ``b`` (T, *S) over everything of each unit: no copy of the values is made."""
        if self.where is not None:
            a, b = (np.take(x, self.where[1], axis=self.where[0] + 1) for x in (a, b))
        axes = "abcdefghij"[: a.ndim - 1]
        along = np.einsum(f"t{axes},t{axes}->t{axes[self.axis]}", a, b)
        return np.asarray(along[:, self.index].sum(axis=2))


@dataclass(frozen=True)
class Layer:
    """One group of units: the weights that come in, and (known only from a wiring) those that go out."""

    name: str
    size: int
    incoming: tuple[Place, ...]
    outgoing: tuple[Place, ...]
    ops: frozenset[str] = frozenset()

    @property
    def tensors(self) -> set[str]:
        """The names of all tensors in which its units lie, biases included."""
        return {p.tensor for p in (*self.incoming, *self.outgoing)}

    def has(self, module: str) -> bool:
        """Whether the weights that come in are, or some of them, those of the module at this path."""
        return any(p.tensor[: max(p.tensor.rfind("."), p.tensor.rfind("/"), 0)] == module for p in self.incoming)

    @property
    def producer(self) -> str:
        """The tensor whose rows the units are."""
        return self.incoming[0].tensor


def layers_of(run: Run, names: list[str]) -> list[Layer]:
    """The groups of the recording's wiring; without one, the rows of every matrix with the bias beside it."""
    known = set(names)
    if run.wiring is not None:
        return [layer for group in run.wiring.groups if (layer := _from_group(group, known)) is not None]
    layers = []
    for name in names:
        shape = tuple(run.shapes[name])
        if len(shape) < 2 or ":" in name:
            continue
        axis = len(shape) - 1 if name.endswith("kernel") else 0  # Keras keeps units on the last axis
        size = shape[axis]
        places = [Place(name, axis, np.arange(size)[:, None])]
        stem = name.removesuffix("weight").removesuffix("kernel")
        if stem != name and f"{stem}bias" in known and tuple(run.shapes[f"{stem}bias"]) == (size,):
            places.append(Place(f"{stem}bias", 0, np.arange(size)[:, None]))
        layers.append(Layer(stem.rstrip("./") or name, size, tuple(places), ()))
    return layers


def _from_group(group: Any, known: set[str]) -> Layer | None:
    incoming: list[Place] = []
    outgoing: list[Place] = []
    for member in group.members:
        if member.tensor not in known or "stat" in member.roles:
            continue
        place = Place(member.tensor, member.axis, member.index, member.where)
        (outgoing if member.roles == {"in"} else incoming).append(place)
    incoming.sort(key=lambda p: "bias" in p.tensor)
    return Layer(group.name, group.size, tuple(incoming), tuple(outgoing), frozenset(group.ops)) if incoming else None


def gather(places: tuple[Place, ...], values: Mapping[str, Array]) -> Array:
    """(units, all their values at ``places``)."""
    return np.concatenate([p.take(values[p.tensor]) for p in places], axis=1)


def quiet_units(run: Run, names: list[str], frames: range) -> dict[str, Array]:
    """1 where a unit's incoming weights did not change since the frame before, else 0: {layer: (T, units)}; 0 at the first frame."""
    layers = layers_of(run, names)
    rows: dict[str, list[Array]] = {layer.name: [] for layer in layers}
    for updates in _by_frame(run, layers, frames, "update"):
        for layer in layers:
            moved = np.zeros(layer.size) if updates is None else (gather(layer.incoming, updates) == 0).all(axis=1)
            rows[layer.name].append(moved.astype(np.float64))
    return {k: np.stack(v) for k, v in rows.items()}


def duplicate_units(run: Run, names: list[str], frames: range) -> dict[str, Array]:
    """How many other units of the layer have the same incoming weights (to 1e-6): {layer: (T, units)}."""
    layers = layers_of(run, names)
    rows: dict[str, list[Array]] = {layer.name: [] for layer in layers}
    for values in _by_frame(run, layers, frames, "now"):
        assert values is not None
        for layer in layers:
            rows[layer.name].append(twins(gather(layer.incoming, values)))
    return {k: np.stack(v) for k, v in rows.items()}


def twins(rows: Array) -> Array:
    """For each row the number of other rows equal to it within 1e-6 of the largest row norm (float64, (units,))."""
    labels = twin_labels(rows)
    counts = np.bincount(labels)
    return (counts[labels] - 1).astype(np.float64)


def twin_labels(rows: Array) -> NDArray[np.int64]:
    """A label per row; rows that are copies of each other share one.

    Copies are found by sorting a random projection (fixed seed), then compared entry by entry with their neighbour there.
    """
    scale = float(np.sqrt((rows**2).sum(axis=1)).max(initial=0.0))
    labels = np.zeros(len(rows), dtype=np.int64)
    if not np.isfinite(scale):
        return np.arange(len(rows))
    shadow = rows @ np.random.default_rng(0).standard_normal(rows.shape[1])
    order = np.argsort(shadow, kind="stable")
    same = np.sqrt(((rows[order[1:]] - rows[order[:-1]]) ** 2).sum(axis=1)) <= TWIN * scale
    labels[order] = np.concatenate([[0], np.cumsum(~same)])
    return labels


def _by_frame(run: Run, layers: list[Layer], frames: range, what: str) -> Any:
    """The tensors of ``layers`` (or their updates, None at first) frame by frame."""
    names = sorted(set().union(*(layer.tensors for layer in layers))) if layers else []
    values: dict[str, Array] = {}
    for m in moments(run, names, frames, together=True) if names else ():
        values[m.name] = getattr(m, what)
        if len(values) == len(names):
            yield None if m.before is None and what == "update" else values
            values = {}

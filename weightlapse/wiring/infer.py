"""From a tape of operators to axis types: each live call is handed to its rule, and every tensor gets types for its axes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weightlapse.wiring.dims import Dims
from weightlapse.wiring.operators import place_of, storage_of
from weightlapse.wiring.record import Call, Runs, Tape
from weightlapse.wiring.routes import guard

Source = frozenset[tuple[str, int]]  # (parameter, axis) that an axis of a weight comes from


@dataclass
class Typed:
    """Axis types of a tensor; ``source`` is None for activations, and per axis its origin for what is made of weights alone."""

    axes: list[int]
    source: list[Source] | None


class Inference:
    """Everything learned about one model; several tapes of the same model go through one inference."""

    def __init__(self, named: dict[str, Tensor], movable: set[str]) -> None:
        self.dims = Dims()
        self.types: dict[int, Typed] = {}
        self.places: dict[tuple[Any, ...], Typed] = {}
        self.params: dict[str, Typed] = {}
        self.roles: list[tuple[str, int, int, str]] = []  # (parameter, axis, type, role)
        self.labels: list[tuple[int, str]] = []  # (type, operator acting on it)
        self.blocks: list[tuple[int, str]] = []  # (type, why it cannot be widened)
        self.seen: set[str] = set()
        self.opaque: dict[str, int] = {}
        self.probed: dict[str, int] = {}
        self.tapes: list[Tape] = []
        self.made_by: dict[int, str] = {}  # tensor -> the operator that made it
        self._number = {name: i for i, name in enumerate(named)}
        self._keep: list[Any] = []
        self._call_types: dict[int, Typed] = {}
        self._storages: dict[int, list[str]] = {}
        for name, t in named.items():
            reason = None if name in movable else "not a floating-point tensor of the state dict"
            typed = Typed(
                [self.dims.fresh(n, reason if n > 1 else "size 1") for n in t.shape],
                [frozenset({(name, a)}) for a in range(t.ndim)],
            )
            self.params[name] = typed
            self.types[id(t)] = typed
            self.places[place_of(t)] = typed
            self._storages.setdefault(storage_of(t), []).append(name)
            self.dims.occur(typed.axes, weight=True)
            self._keep.append(t)
        self.notes: list[str] = []  # what went wrong with something optional
        self.picks: set[int] = set()  # calls that pick matrices from a stack, one for each row
        self._constants: dict[int, str] = {}  # memory of a buffer that is no weight -> its name

    def bind(self, named: dict[str, Tensor], constants: dict[str, Tensor]) -> None:
        """The same weights as other tensors: those of the twin that runs next."""
        for name, t in named.items():
            self.types[id(t)] = self.places[place_of(t)] = self.params[name]
            self._storages.setdefault(storage_of(t), []).append(name)
            self._keep.append(t)
        self._constants = {storage_of(t): name for name, t in constants.items()}
        self._keep += constants.values()

    # ---- what rules use

    def typed(self, t: Tensor) -> Typed:
        found = self._call_types.get(id(t)) or self.types.get(id(t)) or self._at_place(t)
        return found if found is not None else self._unknown(t)

    def _at_place(self, t: Tensor) -> Typed | None:
        return None if _is_expanded(t) else self.places.get(place_of(t))

    def axes(self, t: Tensor) -> list[int]:
        return list(self.typed(t).axes)

    def is_weight(self, t: Tensor) -> bool:
        return self.typed(t).source is not None

    def fixed(self, size: int, reason: str) -> int:
        return self.dims.fresh(size, reason)

    def role(self, t: Tensor, axis: int, role: str, part: int | None = None) -> None:
        """The parameters behind axis ``axis`` of ``t`` (if it is made of weights) play ``role`` there, or for one ``part`` of the axis's type."""
        typed = self.typed(t)
        if typed.source is not None:
            node = typed.axes[axis] if part is None else part
            weights = sorted(typed.source[axis], key=lambda weight: (self._number[weight[0]], weight[1]))
            self.roles += [
                (name, a, node, role) for name, a in weights
            ]  # in the network's order: the first one gives the units their name

    def label(self, node: int, name: str) -> None:
        self.labels.append((node, name))

    def block(self, node: int, why: str) -> None:
        self.blocks.append((node, why))

    def mixes(self, axes: Sequence[int], over: Iterable[int], name: str) -> None:
        """The operator computes something across the positions of ``over``: a hidden tensor without these axes."""
        gone = set(over)
        for a in gone:
            self.label(axes[a], name)
        self.dims.occur([x for i, x in enumerate(axes) if i not in gone])

    # ---- running a tape

    def run(self, tape: Tape, rule_of: Any) -> None:
        self.tapes.append(tape)
        for i, t in enumerate(tape.inputs):
            typed = Typed([self.fixed(n, "input") for n in t.shape], None)
            self.types[id(t)] = self.places[place_of(t)] = typed
            self._keep.append((i, t))
        self._tape = tape
        for t in tape.buffers:
            self._grown(t)
        for call in tape.calls:
            if call.live:
                self._step(call, rule_of)
        for t in tape.outputs:
            if storage_of(t) in tape.tracked:
                for a in self.axes(t):
                    self.dims.fix(a, "output")

    def _step(self, call: Call, rule_of: Any) -> None:
        constant = not call.flat and not any(self._is_known(t) for t in call.inputs)
        if constant or call.name.endswith("_like") or call.name.startswith("new_"):
            for t in call.outs:
                self._grown(t)
            return
        self._call_types = {}
        memory = {storage_of(t) for t in call.outs}
        for t in call.inputs:
            if not self._is_known(t):
                self._call_types[id(t)] = self._constant(call, t)
            elif self.dims.copied and (storage_of(t) not in memory or any(t is w for w in call.writes)):
                self._renew(t)  # not for views: what is written into one shows in the other
            typed = self.typed(t)
            if typed.source is not None:
                self.seen.update(name for s in typed.source for name, _ in s)
        results = self._results(call, rule_of)
        if self.dims.has_routes:
            guard(self, call, results)
        for t, axes in zip(call.outs, results, strict=True):
            self._set(call, t, axes)
        self._call_types = {}

    def _renew(self, t: Tensor) -> None:
        typed = self.typed(t)
        axes = [self.dims.renewed(a) for a in typed.axes]
        if axes != typed.axes:
            self._call_types[id(t)] = Typed(axes, typed.source)

    def _results(self, call: Call, rule_of: Any) -> list[list[int]]:
        try:
            found: list[list[int]] = rule_of(call)(self, call)
            if [len(axes) for axes in found] == [t.ndim for t in call.outs]:
                return found
            problem = "its rule does not fit this use of it"
        except Exception as error:  # noqa: BLE001  a form of the operator that its rule does not know: no symmetry is claimed
            problem = f"its rule fails on this use of it ({type(error).__name__}: {error})"
        self.notes.append(f"{call.name}: {problem}; the axes of its tensors are taken as fixed")
        self.opaque[call.name] = self.opaque.get(call.name, 0) + 1
        for t in call.inputs:
            for a in self.axes(t):
                self.dims.fix(a, f"opaque op {call.name}")
        return [[self.fixed(n, f"opaque op {call.name}") for n in t.shape] for t in call.outs]

    def _grown(self, t: Tensor) -> None:
        """A constant is of interest only when something is written into it later."""
        if id(t) in self._tape.grown:
            axes = self._constant_axes(t, self._tape.grown[id(t)])
            self.types[id(t)] = self.places[place_of(t)] = Typed(axes, None)

    def _constant_axes(self, t: Tensor, runs: Runs) -> list[int]:
        name = self._constants.get(storage_of(t))
        why = "constant tensor" if name is None else f"constant tensor {name} (no parameter: no wiring moves it)"
        axes = []
        for n, cuts in zip(t.shape, runs, strict=True):
            if cuts is None:
                axes.append(self.dims.fresh(n, why))
            else:  # where its values do not vary a constant constrains nothing
                axes.append(self.dims.sum([self.dims.copies(b - a) for a, b in itertools.pairwise((0, *cuts, n))]))
        return axes

    def _is_known(self, t: Tensor) -> bool:
        return id(t) in self.types or place_of(t) in self.places or storage_of(t) in self._tape.tracked

    def _constant(self, call: Call, t: Tensor) -> Typed:
        # Every use gets atoms of its own.
        axes = self._constant_axes(t, call.flat.get(id(t), (None,) * t.ndim))
        return Typed(axes, [frozenset()] * t.ndim)

    def _unknown(self, t: Tensor) -> Typed:
        """A view of known memory that no operator made (``.data``, ``as_strided`` outside the run): fix what it may show."""
        why = "seen through a view that no operator made"
        for name in self._storages.get(storage_of(t), ()):
            for a in self.params[name].axes:
                self.dims.fix(a, why)
        for key, typed in self.places.items():
            if key[0] == storage_of(t):
                for a in typed.axes:
                    self.dims.fix(a, why)
        typed = Typed([self.fixed(n, why) for n in t.shape], None)
        self.types[id(t)] = typed
        self._keep.append(t)
        return typed

    def _set(self, call: Call, t: Tensor, axes: list[int]) -> None:
        known = self.types.get(id(t)) or self._at_place(t)
        if known is not None and torch.Tag.inplace_view not in call.func.tags:
            for a, b in zip(known.axes, axes, strict=True):
                self.dims.unify(a, b)
            if any(self.typed(i).source is None for i in call.inputs):
                known.source = None
            if id(t) not in self.types:
                self.types[id(t)] = known
            self.dims.occur(known.axes)
            return
        typed = Typed(list(axes), self._source(call, axes))
        self.made_by[id(t)] = call.name
        self.types[id(t)] = typed
        if torch.Tag.inplace_view not in call.func.tags and not _is_expanded(t):
            self.places[place_of(t)] = typed
        self.dims.occur(typed.axes, weight=typed.source is not None)

    def _source(self, call: Call, axes: Sequence[int]) -> list[Source] | None:
        inputs = [self.typed(t) for t in call.inputs]
        if id(call) in self.picks:  # matrices picked from a stack are weights, whoever picks them
            inputs = inputs[:1]
        if any(i.source is None for i in inputs):
            return None
        out: list[Source] = []
        for node in axes:
            root = self.dims.find(node)
            exact = [
                s for i in inputs for a, s in zip(i.axes, i.source or (), strict=True) if self.dims.find(a) == root
            ]
            if not exact:
                leaves = self._origins(node)
                exact = [
                    s
                    for i in inputs
                    for a, s in zip(i.axes, i.source or (), strict=True)
                    if leaves & set(self.dims.leaves(a))
                ]
            out.append(frozenset().union(*exact))
        return out

    def _origins(self, node: int) -> set[int]:
        """The leaves of a type; for one case of an atom also that atom."""
        generic = self.dims.generic.get(node)
        leaves = set(self.dims.leaves(node)) | (self._origins(generic) if generic is not None else set())
        for part in self.dims.parts(node):
            leaves |= self._origins(part)
        return leaves


def _is_expanded(t: Tensor) -> bool:
    """Two such views of one place may be spread over different units: their place does not say what they are."""
    return t.layout is torch.strided and any(s == 0 and n > 1 for s, n in zip(t.stride(), t.shape, strict=True))

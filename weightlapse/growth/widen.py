"""A wider network that computes the same: Net2WiderNet for any module, proved at every call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from weightlapse.arguments import examples_of
from weightlapse.errors import CannotGrow, InvalidArgument
from weightlapse.growth.attributes import Setting, check_attributes, set_true
from weightlapse.growth.cells import Cells, Split, grown_cells
from weightlapse.growth.certificate import Certificate, Check, Trial, live_units
from weightlapse.growth.families import Family, chosen_families, consumers_of
from weightlapse.growth.module import copied, parameter_count, tensors_of, unwrapped
from weightlapse.growth.optimizer import grown_optimizer
from weightlapse.growth.readings import first_reading
from weightlapse.growth.refusals import averages, refuse_blocked, refuse_dead, refuse_other, unseen_notes
from weightlapse.growth.result import Growth, Model
from weightlapse.growth.running import base_of, check_finite
from weightlapse.growth.tensors import add_noise, grown_tensors, lengths_below, rows_of
from weightlapse.growth.untie import untied
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.double import shared_buffers
from weightlapse.wiring.programs.find import is_foreign


def widen(
    model: Model,
    sizes: Mapping[str, int],
    *examples: Any,
    example: Any = None,
    split: Split = "random",
    noise: float = 0.0,
    optimizer: Any = None,
    seed: int | None = None,
    wiring: Wiring | None = None,
    attributes: Mapping[str, Any] | None = None,
    untie: bool = False,
) -> Growth[Model]:
    """More units in the groups named by ``sizes``, the same function; the argument is not touched.

    ``sizes`` maps group or layer names to new totals; all are widened at once, from one wiring. Each example is one input (a
    tuple is its positional arguments; ``example=x`` is one alone); they are used to trace the wiring, unless ``wiring`` is given, and to certify. New
    units copy a parent's incoming weights, biases, gains and statistics; the parent's outgoing weights are divided among its
    replicas, ``split="random"`` in unequal parts (the replicas then separate in training), ``"equal"`` in equal ones (they
    never do). ``noise`` adds that many standard deviations of each tensor to the new units' incoming weights: the function
    then changes, and ``error`` says by how much. ``seed`` is of the parts and the noise; None draws anew each time.
    ``optimizer`` (Adam, AdamW, SGD, RMSprop, Adagrad) is carried along.

    Sizes that the code remembers in attributes are followed where that can be found out; ``attributes`` gives the others, by path:
    ``{"attn.num_heads": 7}``; they are set first and then left alone. ``untie`` gives layers of different kinds that share a parameter
    (an embedding that is also the output layer) tensors of their own first: a shared one cannot be copied and divided at once. That is
    not done unasked, for the grown network then has more weights and learns them apart.

    A Keras model comes back as a Keras model, made again from its configuration: compiled as before, its optimizer's state carried along; groups
    may be named by their layers ("dense_1").

    Raises CannotGrow with the group and the reason when the function would change, VacuousComparison when the network is dead
    or constant, so that nothing can be proved, InvalidArgument and UnknownTensor for sizes and names that cannot be meant.

    Chen, Goodfellow, Shlens, "Net2Net", ICLR 2016; here consumers are divided unequally, and nothing is taken on trust.

    >>> import torch, weightlapse as wl
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> g = wl.widen(net, {"0": 12}, torch.randn(16, 4))
    >>> g.model[0].out_features, g.error < 1e-12
    (12, True)
    """
    if noise < 0 or not np.isfinite(noise):
        raise InvalidArgument(f"noise must be a finite number of standard deviations, 0 or more; got {noise!r}")
    examples = examples_of(examples, example)
    _need_examples(examples)
    if is_foreign(model):
        refuse_other(model, attributes=attributes, untie=untie)
        from weightlapse.growth.foreign import widened

        return widened(model, sizes, examples, split=split, noise=noise, optimizer=optimizer, seed=seed, wiring=wiring)
    model, notes = unwrapped(model)
    check_finite(model)
    apart: dict[str, str] = {}
    start = model
    if untie:
        start, apart = untied(model)
        notes = (*notes, *(f"{new} is no longer {old}" for new, old in apart.items()))
    given = dict(attributes or {})
    check_attributes(start, given)
    if wiring is None or untie:  # a wiring of the tied network does not say who reads and who makes
        from weightlapse.wiring.trace import trace

        wiring = trace(start, *examples, verify=False)  # the certificate proves what is changed
    with shared_buffers():
        trial, families, cells, grown, checks, said = _widened(start, wiring, sizes, split, seed, examples, given)
        live = live_units(trial, consumers_of(families))
        refuse_dead(trial, families, live)
    if noise:
        add_noise(grown, cells, families, noise, seed)
        checks = trial.checks(copied, grown, own_only=True)
    mixed = [f for f, _ in families if averages(f)]
    carried, moments = grown_optimizer(optimizer, model, grown, cells, mixed=mixed, apart=apart)
    certificate = Certificate(
        checks=tuple(checks),
        tolerance=float("inf") if noise else trial.tolerance,
        live=live,
        parameters=(parameter_count(model), parameter_count(grown)),
        notes=(*notes, *trial.notes, *unseen_notes(wiring, families), *(f"set {s}" for s in said), *moments),
    )
    changes = ", ".join(f"{f.name} {f.size} -> {size}" for f, size in families)
    origin = {name: apart.get(name, name) for name in tensors_of(grown)}
    return Growth(grown, carried, cells.lineage, certificate, cells.parts, origin, note=f"widened {changes}")


_Widened = tuple[Trial, list[tuple[Family, int]], Cells, nn.Module, list[Check], list[Setting]]


def _widened(
    model: nn.Module,
    wiring: Wiring,
    sizes: Mapping[str, int],
    split: str,
    seed: int | None,
    examples: Sequence[Any],
    given: Mapping[str, Any],
) -> _Widened:
    """The names read as groups; where that cannot be, as layers whose units lie in blocks."""
    trials: list[Trial] = []

    def attempt(families: list[tuple[Family, int]]) -> _Widened:
        refuse_blocked(wiring, families)
        cells = grown_cells(wiring, families, split=split, rng=np.random.default_rng(seed))
        if not trials:
            trials.append(Trial.of(model, examples))  # only now: a refusal needs no run
        return trials[0], families, cells, *_first_that_holds(model, wiring, cells, trials[0], families, given)

    families = chosen_families(wiring, sizes)
    try:
        return attempt(families)
    except CannotGrow as first:
        try:
            inner = chosen_families(wiring, sizes, nested=True)
            if [f.name for f, _ in inner] != [f.name for f, _ in families]:
                return attempt(inner)
        except (CannotGrow, InvalidArgument):
            pass
        raise first from None


def grown_module(model: nn.Module, cells: Cells) -> tuple[nn.Module, list[Setting]]:
    """A copy of ``model`` with the tensors of ``cells`` and, in modules that are known, the attributes that fit."""
    grown = grown_tensors(base_of(model), cells)
    return grown, set_true(grown, rows_of(cells))


def _first_that_holds(
    model: nn.Module,
    wiring: Wiring,
    cells: Cells,
    trial: Trial,
    families: Sequence[tuple[Family, int]],
    given: Mapping[str, Any],
) -> tuple[nn.Module, list[Check], list[Setting]]:
    lengths = lengths_below(wiring, cells)
    reading = first_reading(lambda source: grown_module(source, cells), model, lengths, trial, trial.limit, given=given)
    if isinstance(reading, str):
        which = " and ".join(f"{f} from {f.size} to {size}" for f, size in families)
        guilty = _guilty(model, wiring, trial, families, given)
        raise CannotGrow(f"widening {which} would change the function: {reading}{guilty}")
    return reading


def _guilty(
    model: nn.Module, wiring: Wiring, trial: Trial, families: Sequence[tuple[Family, int]], given: Mapping[str, Any]
) -> str:
    """Which of several families cannot be widened even alone."""
    if not 1 < len(families) <= 8:
        return ""
    bad = []
    for pair in families:
        alone = grown_cells(wiring, [pair], split="random", rng=np.random.default_rng(0))
        try:
            _first_that_holds(model, wiring, alone, trial, [pair], given)
        except CannotGrow:
            bad.append(pair[0].name)
    return (
        f"; alone, {', '.join(map(repr, bad))} could not be widened either" if bad else "; each alone could be widened"
    )


def _need_examples(examples: Sequence[Any]) -> None:
    if not examples:
        raise InvalidArgument("give at least one example input: the wiring is traced and the result certified on it")

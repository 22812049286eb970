"""``wl.trace``: the wiring of any torch module that runs on an example."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from weightlapse.arguments import examples_of
from weightlapse.errors import CannotTrace, InvalidArgument
from weightlapse.wiring.bases import with_bases
from weightlapse.wiring.complete import missed
from weightlapse.wiring.contents import contents
from weightlapse.wiring.cost import affordable
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.experts import with_experts
from weightlapse.wiring.gauges import Gauges
from weightlapse.wiring.groups import GroupBuilder
from weightlapse.wiring.infer import Inference
from weightlapse.wiring.members import Group
from weightlapse.wiring.operators import tensors_among
from weightlapse.wiring.outputs import chooser
from weightlapse.wiring.programs.find import is_foreign, program_of
from weightlapse.wiring.programs.program import Program
from weightlapse.wiring.record import Call, hides_operators, quietly, record
from weightlapse.wiring.rules import indexing, linear, norm, opaque, shape  # noqa: F401  (fill the table)
from weightlapse.wiring.rules.table import RULES, Rule, is_pointwise, pointwise
from weightlapse.wiring.symmetries import with_symmetries
from weightlapse.wiring.tensors import entries, state_tensors
from weightlapse.wiring.twin import at_rest
from weightlapse.wiring.verify import Bench, verified

_BYTES = (torch.int8, torch.uint8)


def trace(
    model: Any,
    *examples: Any,
    example: Any = None,
    verify: bool | Literal["auto", "complete"] = "auto",
    outputs: str | Sequence[str] | Callable[[Any], Any] | None = None,
) -> Wiring:
    """Finds every group of interchangeable units of ``model`` by running it on ``examples``.

    Each of ``examples`` is one example: a tensor, a tuple of positional arguments or a dict of keyword arguments;
    ``example=x`` is one alone. Several
    examples are merged into one inference, so that branches and experts which one of them misses are seen by another. Use
    batches and sequences of at least 2: axes of size 1 say nothing. The model runs in eval mode without gradients and is left
    as it was (mode, gradients, buffers, attributes, random state).

    ``outputs`` chooses what must stay the same, by default everything returned; for Hugging Face outputs the logits and loss,
    or the last hidden state, but not caches and hidden states. It is a key, a list of keys, or a function of the result.

    ``verify`` runs a float64 copy with random weights, every group permuted (flipped, rescaled), at two batch sizes; what fails
    is dropped and named in ``.dropped``. "auto" does so when it takes no longer than tracing, about; ``.report["verified"]`` tells.
    "complete" also tries what was *not* claimed: for each tie to split it, for each fixed axis to free it. What experiment frees
    is named in ``.report["missed"]`` (``.report["complete"]`` is true when there is nothing). That takes thousands of runs.

    Raises CannotTrace when the model does not run on the example or returns no tensor, InvalidArgument for no example.

    >>> import torch, weightlapse as wl
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    >>> w = wl.trace(net, torch.randn(4, 3))
    >>> w.group("0").size
    8
    """
    started = time.perf_counter()
    model = unwrapped(model)
    if is_foreign(model):
        model = program_of(model)
    if not isinstance(model, torch.nn.Module):
        raise InvalidArgument(
            f"trace needs a torch.nn.Module, a Keras model, a Flax NNX or Equinox module, or functools.partial(function, parameters) of JAX, "
            f"not {type(model).__name__}; write a spec for other models (Wiring.from_spec)"
        )
    examples = examples_of(examples, example)
    if not examples:
        raise InvalidArgument(
            "trace needs at least one example: wl.trace(model, x), with a tuple for several arguments"
        )
    if verify not in (True, False, "auto", "complete"):
        raise InvalidArgument(f"verify must be True, False, 'auto' or 'complete', not {verify!r}")
    named, aliases = state_tensors(model)
    if not named:
        raise CannotTrace(f"{type(model).__name__} has no weights, so there is nothing to find")
    with quietly():
        if isinstance(model, Program):
            for one in examples:
                model.prove(one)
            examples = tuple(model.example(e) for e in examples)
        return _traced(model, examples, chooser(outputs), named, aliases, verify, started)


def _traced(
    model: torch.nn.Module,
    examples: Sequence[Any],
    choose: Callable[[Any], list[Tensor]],
    named: dict[str, Tensor],
    aliases: dict[str, list[str]],
    verify: bool | str,
    started: float,
) -> Wiring:
    inf = Inference(named, set(named))
    runs = [_recorded(model, example, inf, choose) for example in examples]
    subject = runs[-1].subject if all(run.still for run in runs) else None
    builder = GroupBuilder(inf, list(named))
    groups = builder.build()
    gauges = Gauges(inf, builder.atom_of.values())
    for tape in inf.tapes:
        gauges.read(tape)
    groups = with_symmetries(groups, gauges, builder.atom_of)
    if isinstance(model, Program):
        groups = [_with_statistics(g, model.statistics) for g in groups]
    inf.notes += [
        f"sign and scale of {name!r} are not known ({gauges.failed[atom]}); its units may be permuted"
        for name, atom in builder.atom_of.items()
        if atom in gauges.failed
    ]
    parameters = {id(p) for p in model.parameters()}
    unseen = tuple(n for n, t in named.items() if n not in inf.seen and id(t) in parameters)
    unseen += tuple(n for n in whole_numbers(model) if n not in named)
    shapes = {n: tuple(t.shape) for n, t in named.items()}
    report: dict[str, Any] = {
        "operators": sum(len(tape.calls) for tape in inf.tapes),
        "seconds": time.perf_counter() - started,
        "opaque": dict(inf.opaque),
        "probed": dict(inf.probed),
        "conflicts": list(inf.dims.conflicts),
        "notes": tuple(dict.fromkeys(inf.notes)),
        "verified": False,
    }
    wiring = Wiring(tuple(groups), aliases, unseen, shapes, builder.fixed, (), report)
    if verify in (True, "complete") or (
        verify == "auto" and affordable(inf.tapes, sum(t.numel() for t in named.values()))
    ):
        wiring = _verify(wiring, model, examples, choose, named, subject, verify, inf)
        report["verify_seconds"] = time.perf_counter() - started - report["seconds"]
    return wiring


def _with_statistics(group: Group, statistics: frozenset[str]) -> Group:
    """The group with the running statistics of other frameworks called so: there they are added and multiplied by plain operators."""
    members = tuple(replace(m, role="stat") if m.tensor in statistics else m for m in group.members)
    return replace(group, members=members)


@dataclass(frozen=True)
class _Run:
    subject: torch.nn.Module  # the twin that ran
    still: bool  # running it changed nothing


def _recorded(model: torch.nn.Module, example: Any, inf: Inference, choose: Callable[[Any], list[Tensor]]) -> _Run:
    """One example run on a twin of its own, and read by the inference."""
    recurrent = any(isinstance(m, torch.nn.RNNBase) for m in model.modules())
    for unfused in (True,) if recurrent else (False, True):
        with quietly(unfused=unfused):
            subject = at_rest(model)
            mine, _ = state_tensors(subject)
            ids = {id(t) for t in mine.values()}
            others = {n: t for n, t in [*subject.named_parameters(), *subject.named_buffers()] if id(t) not in ids}
            buffers = [t for t in others.values() if not isinstance(t, torch.nn.Parameter)]
            others |= plain_attributes(subject)
            before = contents(subject)
            tape = record(subject, example, list(mine.values()), buffers, choose)
            if unfused or not hides_operators(tape):
                break
    inf.bind(mine, others)
    inf.run(tape, rule_of)
    return _Run(subject, contents(subject) == before)


def _verify(
    wiring: Wiring,
    model: torch.nn.Module,
    examples: Sequence[Any],
    choose: Callable[[Any], list[Tensor]],
    named: dict[str, Tensor],
    subject: torch.nn.Module | None,
    verify: bool | str,
    inf: Inference,
) -> Wiring:
    insist = verify != "auto"
    bench = Bench.of(model, examples, choose, named, batches=2 if insist else 1, subject=subject)
    if bench is None:
        if insist and any(t.is_meta for t in named.values()):
            raise CannotTrace(
                f"{type(model).__name__} cannot be verified: its weights are on the meta device and have no values; trace it with "
                "verify=False, or give them memory first (model.to_empty(device='cpu'), any values will do)"
            )
        if insist:
            bad = [n for n, t in named.items() if not bool(torch.isfinite(t).all())]
            raise CannotTrace(
                f"{type(model).__name__} cannot be verified: a copy with random weights does not run, in float64 or in float32"
                + (f" ({bad[0]!r} holds NaN or Inf)" if bad else "")
                + "; pass verify=False to take the wiring as it was inferred"
            )
        return wiring
    wiring.report["verified"] = bool(wiring.groups)  # where nothing is claimed, nothing was tried
    wiring.report["tolerance"] = bench.tolerance
    wiring = with_bases(with_experts(verified(wiring, bench, sample=not insist), bench), bench, inf)
    if verify == "complete":
        alone = Bench(model, examples, choose, named, batches=1)
        wiring.report["missed"] = tuple(m.text for m in missed(wiring, alone))
        wiring.report["complete"] = not wiring.report["missed"]
    return wiring


def unwrapped(model: Any) -> Any:
    """The module inside ``torch.compile`` and data-parallel wrappers."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in ("DataParallel", "DistributedDataParallel"):
            inner = model.module
        if inner is None:
            return model
        model = inner


def plain_attributes(model: torch.nn.Module) -> dict[str, Tensor]:
    """Tensors that modules hold as attributes like any other value, neither parameters nor buffers."""
    return {
        f"{path}.{name}" if path else name: value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if type(value) is Tensor
    }


def whole_numbers(model: torch.nn.Module) -> list[str]:
    """Entries of the state dict that hold weights as whole numbers, alone or packed: no wiring can follow or move them."""
    found = []
    for name, value in entries(model):
        parts = (
            [value] if isinstance(value, Tensor) else tensors_among(value if isinstance(value, (list, tuple)) else ())
        )
        if isinstance(value, torch.ScriptObject) or any(
            t.is_quantized or (t.dtype in _BYTES and t.ndim > 1) for t in parts
        ):
            found.append(name.replace("_orig_mod.", ""))
    return found


def rule_of(call: Call) -> Rule:
    """The rule of an operator: by name, as element by element, or by trying it out."""
    if call.name in RULES:
        return RULES[call.name]
    return pointwise if is_pointwise(call) else opaque.probe

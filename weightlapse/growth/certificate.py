"""The proof that a grown network computes the same: both are run side by side, and what was seen is written down."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from weightlapse.errors import CannotGrow, VacuousComparison
from weightlapse.growth.module import tensors_of
from weightlapse.growth.running import (
    Precision,
    call,
    in_precision,
    outputs,
    prepared,
    random_like,
    randomised,
    same_draws,
    tensors_in,
)  # fmt: skip

TOLERANCE = 1e-12  # relative, in float64
LOW_TOLERANCE = 1e-5  # for networks that compute in float32 whatever their dtype
_SEED = 20160501


@dataclass(frozen=True)
class Check:
    """One run of both networks: ``weights`` "own" or "randomised" (biases, gains, statistics), ``mode`` "eval" or "train"."""

    inputs: str
    mode: str
    weights: str
    error: float
    binding: bool = True

    def __str__(self) -> str:
        remark = "" if self.binding else "  (told, not required)"
        return f"{self.mode:5} mode, {self.weights} weights, {self.inputs}: {self.error:.1e}{remark}"


@dataclass(frozen=True)
class Certificate:
    """What was compared and how far apart the networks were, relative to the largest output, in float64.

    ``live`` counts, per group that changed, the units that have any influence on the outputs for the inputs tried, and all
    units. ``notes`` says what could not be compared, and what else changed (attributes, wrappers).
    """

    checks: tuple[Check, ...]
    tolerance: float
    live: Mapping[str, tuple[int, int]]
    parameters: tuple[int, int]
    notes: tuple[str, ...] = ()

    @property
    def error(self) -> float:
        return max((c.error for c in self.checks if c.binding), default=float("nan"))

    def __str__(self) -> str:
        old, new = self.parameters
        lines = [
            f"{old:,} -> {new:,} parameters; largest relative difference {self.error:.1e}, allowed {self.tolerance:.0e}"
        ]
        lines += [f"  {check}" for check in self.checks]
        lines += [f"  {group}: {live} of {size} units live" for group, (live, size) in self.live.items()]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


@dataclass
class Trial:
    """The old network made ready for comparing: double precision, inputs, what it computes. Made once, used for many tries."""

    examples: Sequence[Any]
    rounds: list[tuple[str, str, str, nn.Module, Any, list[torch.Tensor]]]
    tolerance: float
    notes: list[str]
    doubles: dict[str, nn.Module]
    precision: torch.dtype = torch.float64

    @classmethod
    def of(cls, old: nn.Module, examples: Sequence[Any], *, train: bool = True) -> Trial:
        """Runs ``old`` on the examples and on random inputs, in both modes, with its own and with randomised constants.

        Raises VacuousComparison when its output never changes, CannotGrow when it does not run on the examples.
        """
        precision = torch.float64
        own, given = prepared(old, precision), [in_precision(e, precision) for e in examples]
        notes = []
        with Precision() as seen:
            first = _try(own, given)
        if isinstance(first, Exception):
            # Some fused operators exist in single precision only.
            precision = torch.float32
            own, given = prepared(old, precision), [in_precision(e, precision) for e in examples]
            again = _try(own, given)
            if isinstance(again, Exception):
                raise CannotGrow(f"the network does not run on the examples ({_short(first)})") from first
            notes.append(f"the network does not run in float64 ({_short(first)}); it was compared in float32")
            first = again
        elif seen.low:
            notes.append("the network computes partly in less than float64 whatever its dtype; rounding is larger")
        if not all(first):
            raise CannotGrow("the network returns no tensor, so nothing can be compared")
        generator = torch.Generator().manual_seed(_SEED)
        drawn = [random_like(e, generator) for e in given]
        tolerance = LOW_TOLERANCE if notes else TOLERANCE
        trial = cls(given, [], tolerance, notes, {"own": own, "randomised": randomised(own)}, precision)
        for weights, model in trial.doubles.items():
            for inputs, batch in (("examples", given), ("random inputs", drawn)):
                for mode in ("eval", "train") if train else ("eval",):
                    for example in batch:
                        trial._add(inputs, mode, weights, model, example)
        _must_vary(first, [o for i, m, w, _, _, o in trial.rounds if (m, w) == ("eval", "own") and i != "examples"])
        return trial

    def _add(self, inputs: str, mode: str, weights: str, model: nn.Module, example: Any) -> None:
        try:
            seen = _outputs(model, example, mode, 0)
            again = _outputs(model, example, mode, 1) if mode == "train" else seen
        except Exception as error:  # noqa: BLE001 - the user's own forward, on inputs of our making
            self._note(f"{mode} mode on {inputs} was not compared: the old network itself fails ({_short(error)})")
            return
        if not any(bool(torch.isfinite(t).any()) for t in seen):
            self._note(f"{mode} mode on {inputs} with {weights} weights was not compared: no output is finite")
        elif any(difference(a, b) > self.tolerance for a, b in zip(seen, again, strict=True)):
            self._note(f"{mode} mode was not compared: the old network is random there beyond dropout")
        else:
            self.rounds.append((inputs, mode, weights, model, example, seen))

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def checks(
        self,
        grow: Callable[[nn.Module], nn.Module],
        new: nn.Module,
        binding: Callable[[str, str], bool] = lambda _inputs, _mode: True,
        *,
        own_only: bool = False,
    ) -> list[Check]:
        """Runs the new network in every round; ``grow`` makes it again from the randomised old one (not with ``own_only``).

        Raises CannotGrow when it does not run, or puts out other shapes.
        """
        models = {"own": prepared(new, self.precision)}
        if not own_only:
            models["randomised"] = grow(self.doubles["randomised"])
        found: dict[tuple[str, str, str], float] = {}
        for inputs, mode, weights, _, example, seen in self.rounds:
            if weights not in models:
                continue
            try:
                got = _outputs(models[weights], example, mode, 0)
            except Exception as error:
                raise CannotGrow(
                    f"the changed network does not run ({_short(error)}): its code relies on what was changed"
                ) from error
            key = (inputs, mode, weights)
            found[key] = max(found.get(key, 0.0), _largest(seen, got))
        return [Check(i, m, w, error, binding(i, m)) for (i, m, w), error in found.items()]


def _try(model: nn.Module, examples: Sequence[Any]) -> list[list[torch.Tensor]] | Exception:
    try:
        return [outputs(model, e) for e in examples]
    except Exception as error:  # noqa: BLE001 - the user's own forward
        return error


def _outputs(model: nn.Module, example: Any, mode: str, seed: int) -> list[torch.Tensor]:
    """Outputs and, in train mode, nothing left behind: running statistics are put back."""
    if mode == "eval":
        return outputs(model, example, seed=seed)
    kept = {name: t.detach().clone() for name, (t, _) in tensors_of(model).items() if not isinstance(t, nn.Parameter)}
    try:
        return outputs(model, example, train=True, seed=seed)
    finally:
        with torch.no_grad():
            for name, (t, slots) in tensors_of(model).items():
                if name in kept:
                    if t.shape == kept[name].shape:
                        t.copy_(kept[name])
                    else:
                        for module, attribute in slots:
                            setattr(module, attribute, kept[name])


def _largest(old: Sequence[torch.Tensor], new: Sequence[torch.Tensor]) -> float:
    if len(old) != len(new) or any(a.shape != b.shape for a, b in zip(old, new, strict=False)):
        raise CannotGrow(
            f"the output changes its shape ({[tuple(t.shape) for t in old]} -> {[tuple(t.shape) for t in new]}): "
            "the units themselves are returned"
        )
    return max(difference(a, b) for a, b in zip(old, new, strict=True))


def difference(old: torch.Tensor, new: torch.Tensor) -> float:
    """max |old - new| / max |old| over finite values; infinity where finite values meet others. Whole numbers must be equal."""
    if not (old.is_floating_point() or old.is_complex()):
        return 0.0 if torch.equal(old, new) else 1.0
    finite = torch.isfinite(old)
    if not torch.equal(finite, torch.isfinite(new)):
        return float("inf")
    if not bool(finite.any()):
        return 0.0
    a, b = old[finite], new[finite]
    scale = a.abs().max().item()
    gap = (a - b).abs().max().item()
    return gap / scale if scale else (0.0 if gap == 0 else float("inf"))


def _must_vary(examples: Sequence[list[torch.Tensor]], others: Iterable[list[torch.Tensor]]) -> None:
    runs = [*examples, *others]
    if len(runs) < 2:
        return
    floating = [[t for t in run if t.is_floating_point() or t.is_complex()] for run in runs]
    for run in floating[1:]:
        for a, b in zip(floating[0], run, strict=False):
            if a.shape != b.shape or difference(a, b) > TOLERANCE:
                return
    raise VacuousComparison(
        "the network puts out the same whatever goes in (dead or constant), so any other dead network would look equal; "
        "nothing can be certified. Train it alive first: standardise the inputs, lower the learning rate"
    )


def live_units(
    trial: Trial, consumers: Mapping[str, Sequence[tuple[str, int, Any]]], weights: str = "own"
) -> dict[str, tuple[int, int]]:
    """Per group how many units reach the outputs: those whose outgoing weights get a gradient on any of the inputs.

    ``consumers[group]`` lists (tensor, axis, index) of the weights that read the units. Groups without any are left out.
    """
    model = trial.doubles[weights]
    tensors = {name: t for name, (t, _) in tensors_of(model).items() if t.is_floating_point() or t.is_complex()}
    wanted = sorted({t for places in consumers.values() for t, _, _ in places if t in tensors})
    reach = {name: torch.zeros_like(tensors[name]).abs() for name in wanted}
    for _inputs, mode, which, _, example, _ in trial.rounds:
        if (mode, which) != ("eval", weights) or not wanted:
            continue
        for name, slope in zip(wanted, _slopes(model, example, [tensors[n] for n in wanted]), strict=True):
            if slope is not None:
                reach[name] = torch.maximum(reach[name], slope.abs())
    counted = {}
    for group, places in consumers.items():
        alive: torch.Tensor | None = None
        for name, axis, index in places:
            if name not in reach:
                continue
            strength = (
                reach[name]
                .movedim(axis, 0)
                .reshape(reach[name].shape[axis], -1)
                .amax(1)[torch.as_tensor(index)]
                .amax(1)
            )
            alive = (strength > 0) if alive is None else alive | (strength > 0)
        if alive is not None:
            counted[group] = (int(alive.sum()), len(alive))
    return counted


def _slopes(model: nn.Module, example: Any, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
    model.eval()
    needed = [t.requires_grad for t in tensors]
    for t in tensors:
        t.requires_grad_(True)
    try:
        with torch.enable_grad(), same_draws():
            found = [t for t in tensors_in(call(model, example)) if t.requires_grad]
            results = [torch.view_as_real(t) if t.is_complex() else t for t in found]
            if not results:
                return [None] * len(tensors)
            probe = torch.Generator().manual_seed(_SEED)
            total = sum((t * torch.randn(t.shape, generator=probe, dtype=torch.float64).to(t)).sum() for t in results)
            return list(torch.autograd.grad(total, list(tensors), allow_unused=True))
    finally:
        for t, was in zip(tensors, needed, strict=True):
            t.requires_grad_(was)


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160] if lines else ''}"

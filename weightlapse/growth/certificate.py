"""The proof that a grown network computes the same: both are run side by side, and what was seen is written down."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from weightlapse.errors import CannotGrow, VacuousComparison
from weightlapse.growth.module import tensors_of
from weightlapse.growth.running import (
    HOW,
    Precision,
    Shaken,
    call,
    in_precision,
    last_run,
    outputs,
    prepared,
    random_like,
    randomised,
    running,
    same_draws,
    tensors_in,
    with_slopes,
    working_dtype,
)
from weightlapse.wiring.double import Double

TOLERANCE = 1e-12  # relative, in float64
SHALLOW = 10  # matrix products and convolutions for which that is right; more of them add up more rounding
ROUNDED = (
    16  # times what changing the last bit of every product does: that is rounding too, where a network magnifies it
)
MAGNIFIED = 1e-9  # but no more than that
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
        """The largest relative difference of outputs over all binding checks, measured in float64; NaN where none was possible."""
        return max((c.error for c in self.checks if c.binding), default=float("nan"))

    def __str__(self) -> str:
        old, new = self.parameters
        lines = [
            f"{old:,} -> {new:,} parameters; largest relative difference {self.error:.1e}, allowed {self.tolerance:.2g}"
        ]
        lines += [f"  {check}" for check in self.checks]
        lines += [f"  {group}: {live} of {size} units live" for group, (live, size) in self.live.items()]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


@dataclass
class Trial:
    """The old network made ready for comparing: double precision, inputs, what it computes. Made once, used for many tries.

    ``doubles`` are the networks that are run, with "own" and "randomised" weights; ``how`` says in what form, see `HOW`.
    ``tolerance`` is what rounding may change when anybody runs the two, ``limit`` what it may change in these runs (less, where they
    compute in float64 what the network itself does not). With ``modeless`` train mode does the same as eval mode, so that the rounds in eval mode stand for it.
    """

    examples: Sequence[Any]
    rounds: list[tuple[str, str, str, nn.Module, Any, list[torch.Tensor]]]
    tolerance: float
    notes: list[str]
    doubles: dict[str, nn.Module]
    how: str = "widened"
    limit: float = TOLERANCE
    modeless: bool = False
    last: nn.Module = field(default_factory=nn.Identity)  # the changed network that was run last

    @classmethod
    def of(cls, old: nn.Module, examples: Sequence[Any], *, share: bool = True) -> Trial:
        """Runs ``old`` on the examples and on random inputs, in both modes, with its own and with randomised constants.

        With ``share`` the runs read the weights where they are, where the network allows it; else copies in float64 are made.

        Raises VacuousComparison when its output never changes, CannotGrow when it does not run on the examples.
        """
        own, given, first, seen = _first_run(old, examples, HOW if share else HOW[1:])
        if not all(first):
            raise CannotGrow("the network returns no tensor, so nothing can be compared")
        generator = torch.Generator().manual_seed(_SEED)
        drawn = [random_like(e, generator) for e in given]
        trial = cls(given, [], seen.tolerance, [*seen.notes], {"own": own}, seen.how, limit=seen.limit)
        trial.modeless = trial._same_in_train_mode(own, given[-1], seen)
        trial.doubles["randomised"] = randomised(own)
        for weights, model in trial.doubles.items():
            for inputs, batch in (("examples", given), ("random inputs", drawn)):
                for mode in ("eval", "train") if not trial.modeless else ("eval",):
                    for i, example in enumerate(batch):
                        known = first[i] if (inputs, mode, weights) == ("examples", "eval", "own") else None
                        trial._add(inputs, mode, weights, model, example, known)
        _must_vary(first, [o for i, m, w, _, _, o in trial.rounds if (m, w) == ("eval", "own") and i != "examples"])
        return trial

    def _same_in_train_mode(self, model: nn.Module, example: Any, seen: _Seen) -> bool:
        """Whether train mode calls the same operators on the same numbers: then one run speaks for both."""
        if seen.steps is None:
            return False
        try:
            again = _outputs(model, example, "train", 0)
        except Exception:  # noqa: BLE001 - the user's own forward; told when the mode is tried in earnest
            return False
        same = len(again) == len(seen.first) and all(
            a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
            for a, b in zip(again, seen.first, strict=True)
        )
        now = last_run(model)
        if not same or now is None or now.steps != seen.steps:
            return False
        self._note("train mode does what eval mode does, operator by operator: one run stands for both")
        return True

    def _add(
        self, inputs: str, mode: str, weights: str, model: nn.Module, example: Any, known: list[torch.Tensor] | None
    ) -> None:
        try:
            seen = _outputs(model, example, mode, 0) if known is None else known
            again = _outputs(model, example, mode, 1) if mode == "train" else seen
        except Exception as error:  # noqa: BLE001 - the user's own forward, on inputs of our making
            self._note(f"{mode} mode on {inputs} was not compared: the old network itself fails ({_short(error)})")
            return
        if not any(bool(torch.isfinite(t).any()) for t in seen):
            self._note(f"{mode} mode on {inputs} with {weights} weights was not compared: no output is finite")
        elif again is not seen and any(difference(a, b) > self.tolerance for a, b in zip(seen, again, strict=True)):
            self._note(f"{mode} mode was not compared: the old network is random there beyond dropout")
        else:
            self.rounds.append((inputs, mode, weights, model, example, seen))

    def allows(self, worst: Check, limit: float) -> bool:
        """Whether ``worst`` is within ``limit``, or is what rounding does to this network in that round; the latter is noted."""
        if worst.error <= limit:
            return True
        if worst.error > MAGNIFIED:
            return False
        mode = "eval" if self.modeless else worst.mode
        own = max(
            _rounding(model, example, mode, seen)
            for i, m, w, model, example, seen in self.rounds
            if (i, m, w) == (worst.inputs, mode, worst.weights)
        )
        allowed = min(ROUNDED * own, MAGNIFIED)
        if worst.error > allowed:
            return False
        self.limit, self.tolerance = max(self.limit, allowed), max(self.tolerance, allowed)
        self._note(
            f"this network magnifies rounding: changing the last bit of its products changes its outputs by {own:.1e} ({worst.mode} mode, "
            f"{worst.weights} weights, {worst.inputs}); {allowed:.1e} is allowed"
        )
        return True

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
        models = {"own": prepared(new, self.how)}
        if not own_only:
            models["randomised"] = grow(self.doubles["randomised"])
        found: dict[tuple[str, str, str], float] = {}
        for inputs, mode, weights, _, example, seen in self.rounds:
            if weights not in models:
                continue
            self.last = models[weights]
            try:
                got = _outputs(models[weights], example, mode, 0)
            except Exception as error:
                raise CannotGrow(
                    f"the changed network does not run ({_short(error)}): its code relies on what was changed"
                ) from error
            for key in ((inputs, m, weights) for m in ((mode, "train") if self.modeless else (mode,))):
                found[key] = max(found.get(key, 0.0), _largest(seen, got))
        return [Check(i, m, w, error, binding(i, m)) for (i, m, w), error in found.items()]


@dataclass
class _Seen:
    """The first run of the old network: how it was run, what was seen, what difference its rounding may make."""

    how: str
    notes: list[str]
    tolerance: float
    limit: float
    first: list[torch.Tensor]
    steps: list[tuple[Any, ...]] | None


def _first_run(
    old: nn.Module, examples: Sequence[Any], ways: Sequence[str]
) -> tuple[nn.Module, list[Any], list[list[torch.Tensor]], _Seen]:
    """The network in the first form in which it runs, the examples in its precision, and their outputs."""
    failures: list[Exception] = []
    for how in ways:
        own, given = prepared(old, how), [in_precision(e, working_dtype(how)) for e in examples]
        precision = Precision()
        first: list[list[torch.Tensor]] = []
        runs: list[Double] = []
        try:
            with precision if how != "widened" else nullcontext():
                for example in given:
                    first.append(outputs(own, example))
                    runs += [run] if (run := last_run(own)) is not None else []
        except Exception as error:  # noqa: BLE001 - the user's own forward
            failures.append(error)
            continue
        notes: list[str] = []
        products = max((run.products for run in runs), default=precision.products)
        if how == "float32":
            # Some fused operators exist in single precision only.
            notes.append(f"the network does not run in float64 ({_short(failures[-1])}); it was compared in float32")
        elif precision.low or any(run.casts or run.rounds for run in runs):
            notes.append("the network computes partly in less than float64 whatever its dtype; rounding is larger")
        deep = TOLERANCE * max(1.0, products / SHALLOW)
        tolerance = LOW_TOLERANCE if notes else deep
        # What a network that is run widened casts to less is computed in float64 all the same.
        limit = deep if runs and not any(run.rounds for run in runs) else tolerance
        if TOLERANCE < tolerance < LOW_TOLERANCE:
            notes.append(
                f"rounding adds up with depth: {tolerance:.1e} is allowed in float64, {TOLERANCE:.0e} for every {SHALLOW} "
                f"of the {products} matrix products and convolutions"
            )
        return own, given, first, _Seen(how, notes, tolerance, limit, first[-1], runs[-1].steps if runs else None)
    raise CannotGrow(f"the network does not run on the examples ({_short(failures[-2])})") from failures[-2]


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


def _rounding(model: nn.Module, example: Any, mode: str, seen: Sequence[torch.Tensor]) -> float:
    """How much the outputs change when the last bit of every product changes, at random: the most of three runs."""
    worst = 0.0
    for seed in range(3):
        with Shaken(seed):
            worst = max(worst, _largest(seen, _outputs(model, example, mode, 0)))
    return worst


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
    if old.numel() and old.is_floating_point():
        low, high = torch.aminmax(old)
        scale, gap = max(-low.item(), high.item()), (old - new).abs_().max().item()
        if math.isfinite(scale + gap):
            return gap / scale if scale else (0.0 if gap == 0 else float("inf"))
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

    ``consumers[group]`` lists (tensor, axis, index) of the weights that read the units. Groups without any are left out. Where
    the code does not let gradients through, units cannot be counted, and only groups that are dead throughout are in the result.
    """
    wanted = sorted({t for places in consumers.values() for t, _, _ in places})
    model, tensors = with_slopes(trial.doubles[weights], wanted)
    reach = {name: torch.zeros_like(t).abs() for name, t in tensors.items()}
    for _inputs, mode, which, _, example, _ in trial.rounds:
        if (mode, which) != ("eval", weights) or not tensors or all(bool((r > 0).all()) for r in reach.values()):
            continue
        try:
            found = slopes(model, example, list(tensors.values()))
        except RuntimeError as error:  # autograd's own, where a forward overwrites what it needs
            trial._note(f"live units were not counted: no gradients can be taken ({_short(error)})")
            return _all_dead(trial, model, tensors, consumers)
        for name, slope in zip(tensors, found, strict=True):
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


def _all_dead(
    trial: Trial,
    model: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    consumers: Mapping[str, Sequence[tuple[str, int, Any]]],
) -> dict[str, tuple[int, int]]:
    """The groups that no input lets through: other weights in all that read them change no output."""
    examples = [e for _, mode, _, _, e, _ in trial.rounds if mode == "eval"]
    dead = {}
    for group, places in consumers.items():
        held = [(tensors[name], axis, index) for name, axis, index in places if name in tensors]
        if not held:
            continue
        with torch.no_grad():
            before = [outputs(model, e) for e in examples]
            kept = [t.detach().clone() for t, _, _ in held]
            for t, axis, index in held:
                t.index_fill_(axis, torch.as_tensor(index).flatten().to(t.device), 0.7)
            after = [outputs(model, e) for e in examples]
            for (t, _, _), old in zip(held, kept, strict=True):
                t.copy_(old)
        if all(difference(x, y) == 0 for a, b in zip(before, after, strict=True) for x, y in zip(a, b, strict=True)):
            dead[group] = (0, len(held[0][2]))
    return dead


def slopes(
    model: nn.Module, example: Any, tensors: Sequence[torch.Tensor], seed: int = _SEED
) -> list[torch.Tensor | None]:
    """The gradient of a random sum of the outputs (``seed`` draws it) with respect to each tensor; None where there is none."""
    with running(model), torch.enable_grad(), same_draws():
        found = [t for t in tensors_in(call(model, example)) if t.requires_grad]
        results = [torch.view_as_real(t) if t.is_complex() else t for t in found]
        if not results:
            return [None] * len(tensors)
        probe = torch.Generator().manual_seed(seed)
        total = sum((t * torch.randn(t.shape, generator=probe, dtype=torch.float64).to(t)).sum() for t in results)
        return list(torch.autograd.grad(total, list(tensors), allow_unused=True))


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160] if lines else ''}"

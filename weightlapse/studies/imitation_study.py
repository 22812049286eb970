"""Study: network B imitates network A. Does it learn A's function, or A's weights?"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weightlapse.capture.watch import watch
from weightlapse.ensembles.batches import imitation as lessons
from weightlapse.ensembles.ensemble import ensemble
from weightlapse.ensembles.polish import Polished, polish
from weightlapse.ensembles.stack import Stack, glorot
from weightlapse.film.movie import make_film
from weightlapse.progress import track
from weightlapse.recording.recording import Recording, load
from weightlapse.studies.imitation_figures import draw
from weightlapse.studies.referee import Sentence
from weightlapse.studies.results import Results
from weightlapse.symmetry.align import align
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.trace import trace

Array = NDArray[np.float64]
SIZES = (10, 8, 8, 1)
STEPS, BATCH, LR = 50, 50, 0.05
ZERO = 1e-12  # a student below this error is said to have reached zero


@dataclass(frozen=True)
class Budget:
    """How much of everything: pairs of the document, students brought to the end, their training, and the wider ones."""

    pairs: int
    students: int
    adam: int
    polish: int
    rows: int  # to polish on
    wide: int
    wide_adam: int
    wide_polish: int
    moments: int  # snapshots of each of the two phases


FULL = Budget(64, 32, adam=20_000, polish=1000, rows=2048, wide=8, wide_adam=20_000, wide_polish=450, moments=110)
QUICK = Budget(20, 8, adam=3_000, polish=240, rows=512, wide=1, wide_adam=300, wide_polish=20, moments=10)


@dataclass
class Snapshots:
    """What students looked like on the way: (moments, students) lists of states, with the step of each."""

    steps: list[int] = field(default_factory=list)
    states: list[dict[str, NDArray[Any]]] = field(default_factory=list)
    offset: int = 0

    def keep(self, step: int, stack: Stack) -> None:
        """A copy of all students as they are now, float64; ``step`` counts from the beginning of this phase."""
        self.steps.append(self.offset + step)
        self.states.append({k: v.detach().numpy().astype(np.float64) for k, v in stack.states.items()})

    def of(self, student: int) -> list[dict[str, NDArray[Any]]]:
        """One student's state at every moment, views of what is kept."""
        return [{k: v[student] for k, v in s.items()} for s in self.states]


def network(*hidden: int) -> Any:
    """Makes a dense tanh network from 10 inputs to 1 output, 8 and 8 hidden units unless said otherwise."""
    return glorot(SIZES[0], *(hidden or SIZES[1:-1]), SIZES[-1], output=nn.Tanh)


def flat(stack: Stack) -> Array:
    """(members, parameters) in float64."""
    return np.asarray(stack.theta.detach().double().numpy())


def distances(a: Stack, b: Stack) -> Array:
    """(members,) ||A - B|| / ||A|| over all parameters."""
    x, y = flat(a), flat(b)
    return np.asarray(np.linalg.norm(x - y, axis=1) / np.linalg.norm(x, axis=1))


def errors(a: Stack, b: Stack, count: int, seed: int) -> Array:
    """(members,) mean squared difference of the outputs on ``count`` fresh inputs, uniform in [-1, 1]."""
    x = torch.rand(count, SIZES[0], generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        parts = [
            ((a.to(torch.float64)(p) - b.to(torch.float64)(p)) ** 2).mean(dim=(1, 2)) * len(p) for p in x.split(2500)
        ]
    return np.asarray((torch.stack(parts).sum(dim=0) / count).numpy())


def aligned(a: Stack, b: Stack, wiring: Wiring, label: str) -> Array:
    """(members,) distance after the best order and signs of hidden units."""
    return np.asarray([align(a.state(i), b.state(i), wiring).distance_after for i in track(range(len(a)), label)])


def study(out: Path, quick: bool) -> Results:
    """Run the study into ``out``."""
    budget = QUICK if quick else FULL
    results = Results(
        "imitation",
        "Does the imitator learn the weights?",
        "Network B is trained to answer like network A. After 50 steps the document sees a small error and quite different weights, and concludes that B learns the "
        "function but not the weights. Is that so when B is trained to the end?",
        quick,
        out,
        seeds=budget.pairs,
        recipe="print(wl.compare(a, b, data=x).explain())            # same function? same weights up to order and sign? why not?\n"
        "brought = wl.align(a, b, data=x)                     # brought.state is b in a's order of units\n"
        "wl.make_film(run_a, 'film.mp4', other=run_b)         # a, b, b aligned and the difference, side by side",
    )
    teachers = Stack.make(network(), budget.pairs, seeds=range(10_000, 10_000 + budget.pairs))
    wiring = trace(teachers.member(0), torch.rand(8, SIZES[0]))
    path = Snapshots()
    students = _document_part(results, teachers, budget, path)
    losses = _to_the_end(results, teachers[: budget.students], students[: budget.students], wiring, budget, path)
    recorded = _record(results, teachers, path, wiring, losses)
    _other_sizes(results, teachers, wiring, budget)
    draw(results, *recorded)
    _judge(results)
    return results


def _document_part(results: Results, teachers: Stack, budget: Budget, path: Snapshots) -> Stack:
    """Fifty steps of Adam on fresh batches of fifty, as the document has it."""
    start = Stack.make(network(), budget.pairs, seeds=range(budget.pairs))
    path.keep(0, start)
    done = ensemble(start, fresh=lessons(teachers, BATCH, seed=1), steps=STEPS, lr=LR, eps=1e-7, callback=path.keep)
    value = results.value
    value("final_error", done.losses[-1], "mse", "Error of the 50th batch, before its update", 0.0059)
    value("fresh_error", errors(teachers, done.stack, 20_000, 2), "mse", "Error on 20 000 fresh inputs after 50 steps")
    value("first_error", done.losses[0], "mse", "Error of the first batch")
    value("raw_distance_before", distances(teachers, start), "relative", "Distance of the weights before the 50 steps")
    value("raw_distance_after", distances(teachers, done.stack), "relative", "Distance of the weights after them")
    return done.stack


def _finish(
    teachers: Stack,
    students: Stack,
    adam: int,
    steps: int,
    rows: int,
    seed: int,
    path: Snapshots | None = None,
    moments: int = 100,
) -> Polished:
    """Adam with cosine decay on fresh batches, then Levenberg-Marquardt in float64 on fixed inputs: down to the last decades of the loss."""
    keep = None if path is None else path.keep
    rough = ensemble(
        students, fresh=lessons(teachers, 256, seed=seed), steps=adam, lr=0.01, schedule="cosine", callback=keep, record_every=max(1, adam // moments)
    )  # fmt: skip
    if path is not None:
        path.offset += adam
    x = torch.rand(rows, SIZES[0], generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        y = teachers.to(torch.float64)(x)
    return polish(rough, x, y, steps=steps, callback=keep, record_every=max(1, steps // moments))


def _to_the_end(
    results: Results, teachers: Stack, students: Stack, wiring: Wiring, budget: Budget, path: Snapshots
) -> Array:
    """The same students trained until their weights stand still: (students,) errors at the end; distances raw and aligned are entered."""
    path.states = [{k: v[: budget.students] for k, v in s.items()} for s in path.states]
    path.offset = STEPS
    done = _finish(teachers, students, budget.adam, budget.polish, budget.rows, 3, path, budget.moments)
    stack = done.stack
    exact = teachers.to(torch.float64)
    losses, raw, near = (
        errors(exact, stack, 5000, 4),
        distances(exact, stack),
        aligned(exact, stack, wiring, "aligning students"),
    )
    zero = losses < ZERO
    control = Stack.make(network(), budget.students, seeds=range(20_000, 20_000 + budget.students)).to(torch.float64)
    value = results.value
    value("student_loss", losses, "mse", "Students at the end: error on inputs they were not polished on")
    value("student_raw_distance", raw, "relative", "Students at the end: distance to the teacher's weights")
    value(
        "student_aligned_distance",
        near,
        "relative",
        "Students at the end: the same after alignment (order and sign of units)",
    )
    value(
        "zero_loss_raw_distance",
        raw[zero] if zero.any() else [np.nan],
        "relative",
        "Students that reached zero: raw distance",
    )
    value(
        "zero_loss_aligned_distance",
        near[zero] if zero.any() else [np.nan],
        "relative",
        "Students that reached zero: aligned distance",
    )
    value("control_raw_distance", distances(exact, control), "relative", "Untrained networks instead: raw distance")
    value(
        "control_aligned_distance",
        aligned(exact, control, wiring, "aligning controls"),
        "relative",
        "Untrained networks instead: aligned distance",
    )
    below = done.losses < ZERO
    reached = np.where(below.any(axis=0), below.argmax(axis=0).astype(np.float64), np.nan)
    value(
        "polishing_to_zero",
        reached,
        "steps",
        "Students: polishing steps until the error is zero (none: not within the budget)",
    )
    budgets = [budget.polish // 8, budget.polish // 4, budget.polish // 2, budget.polish]
    kinds = [c.kind for i, c in enumerate(done.certificates) if not zero[i]]
    results.facts |= {
        "polishing_budgets": budgets, "zero_by_budget": [int((reached <= b).sum()) for b in budgets], "budget": budget.polish,
        "zero_half": int((reached <= budgets[2]).sum()), "zero_second_half": int((reached > budgets[2]).sum()),
        "others": len(kinds), "stationary": kinds.count("stationary"), "diverging": kinds.count("diverging"), "unfinished": kinds.count("budget spent") + kinds.count("zero"),
        "minima": sum(c.minimum for i, c in enumerate(done.certificates) if not zero[i]), "certificates": [str(c) for c in done.certificates],
    }  # fmt: skip
    results.facts |= {
        "students": budget.students, "teachers": budget.students, "zero_loss": int(zero.sum()), "zero_loss_fraction": float(zero.mean()),
        "all_zero_loss_aligned": bool(zero.any() and (near[zero] < 1e-3).all()), "parameters": stack.parameters, "zero_means": f"error below {ZERO:g}",
    }  # fmt: skip
    return losses


def _record(
    results: Results, teachers: Stack, path: Snapshots, wiring: Wiring, losses: Array
) -> tuple[Recording, Recording, Array, Wiring]:
    """The first student that reached zero as a recording beside its teacher's, the film of both, and the three curves."""
    reached = np.flatnonzero(losses < ZERO)
    chosen = int(reached[0]) if reached.size else int(np.argmin(losses))
    teacher = {k: v.numpy().astype(np.float64) for k, v in teachers.state(chosen).items()}
    states = path.of(chosen)
    x = torch.rand(2000, SIZES[0], generator=torch.Generator().manual_seed(4), dtype=torch.float64) * 2 - 1
    exact = teachers[chosen : chosen + 1].to(torch.float64)
    losses_then = _errors_over_time(exact, states, x)
    moments = [i for i, step in enumerate(path.steps) if step > STEPS or step % 5 == 0]
    with watch(teacher, results.out / "A", wiring=wiring):
        pass
    found = {i: align(teacher, states[i], wiring) for i in track(moments, "aligning in time")}
    with watch(states[0], results.out / "B", wiring=wiring, meta={"study": "imitation"}) as recorder:
        for i, step in enumerate(path.steps):
            if i:
                recorder.step(states[i], step=step)
            recorder.log(loss=float(losses_then[i]))
            if i in found:
                recorder.log(raw_distance=found[i].distance_before, aligned_distance=found[i].distance_after)
            if step == STEPS:
                recorder.mark("here the document stops")
            if step == path.offset:
                recorder.mark("second-order polishing begins")
    seen = np.asarray([(losses_then[i], found[i].distance_before, found[i].distance_after) for i in moments])
    when = [path.steps[i] for i in moments]
    for i, name in enumerate(("loss", "raw_distance", "aligned_distance")):
        results.curve(name, when, seen[None, :, i])
    run_a, run_b = load(results.out / "A"), load(results.out / "B")
    film = make_film(
        run_a,
        results.out / "film.mp4",
        other=run_b,
        fps=20,
        size=(640, 360) if results.quick else (1280, 720),
        title="A teaches B: is B, in A's order of units, A?",
    )
    results.files |= {"recording": "B", "film": "film.mp4", "recording_teacher": "A"}
    results.facts |= {
        "recorded_seed": chosen,
        "frames": run_b.frames,
        "film_frames": film.frames,
        "polishing_from_step": path.offset,
    }
    return run_a, run_b, np.column_stack([when, seen]), wiring


def _errors_over_time(teacher: Stack, states: list[dict[str, NDArray[Any]]], x: Tensor) -> Array:
    """(moments,) error of every state on ``x``, all run at once."""
    together = Stack.make(network(), len(states), dtype=torch.float64).with_states(
        {k: np.stack([s[k] for s in states]) for k in states[0]}
    )
    with torch.no_grad():
        return np.asarray(((together(x) - teacher(x)) ** 2).mean(dim=(1, 2)).numpy())


def _other_sizes(results: Results, teachers: Stack, wiring: Wiring, budget: Budget) -> None:
    """Students that are wider than the teacher, folded, and students that are too small."""
    some = teachers[: budget.wide]
    exact = some.to(torch.float64)
    for name, hidden in (("wider", (12, 12)), ("smaller", (5, 5))):
        start = Stack.make(network(*hidden), budget.wide, seeds=range(30_000, 30_000 + budget.wide))
        done = _finish(some, start, budget.wide_adam, budget.wide_polish, budget.rows, 5).stack
        losses = errors(exact, done, 5000, 4)
        results.value(f"{name}_loss", losses, "mse", f"Students 10-{hidden[0]}-{hidden[1]}-1 at the end: error")
        if name == "wider":
            own = trace(done.member(0), torch.rand(8, SIZES[0], dtype=torch.float64))
            near, left = [], []
            for i in track(range(budget.wide), "folding"):
                found = align(exact.state(i), done.state(i), wiring, wiring_b=own, merge=1e-3)
                near.append(found.distance_after)
                left.append(float(sum(max(0, n) for n in _surplus(found))))
            results.value(
                "wider_folded_distance",
                near,
                "relative",
                "Wider students, superfluous units folded away and aligned: distance to the teacher",
            )
            results.value(
                "wider_surplus_units",
                left,
                "units",
                "Wider students: hidden units left over after folding (of 8 more than the teacher's)",
            )


def _surplus(found: Any) -> list[int]:
    """How many units more than the teacher each hidden layer has left."""
    return [int(np.shape(v)[0]) - 8 for k, v in found.state.items() if k.endswith("bias") and np.shape(v)[0] > 1]


def _judge(results: Results) -> None:
    results.facts["document_steps"] = STEPS
    same = Sentence(
        "every", ("zero_loss_aligned_distance",),
        "Every one of the {zero_loss} of {students} students that reached zero error has A's weights, up to order and sign of hidden units: aligned, they are {zero_loss_aligned_distance} "
        "apart, raw {zero_loss_raw_distance}, like untrained networks ({control_raw_distance}).",
        "{others} of the {n} students that reached zero error have other weights than A ({zero_loss_aligned_distance} apart when aligned).",
        bounds={"high": 1e-3},
    )  # fmt: skip
    budget = Sentence(
        "fact", ("zero_second_half",),
        "How many reach it is a matter of the budget: {zero_half} in the first half of {budget} polishing steps, {zero_second_half} more in the second.",
        "None came in the second half of {budget} polishing steps.",
        bounds={"low": 1},
    )  # fmt: skip
    rest = Sentence(
        "fact", ("others",),
        "Of the {others} others {stationary} are stationary by gradient and curvature ({minima} of them minima), {diverging} run off to infinity, and {unfinished} were stopped by the budget.",
        "All students reached it.",
        bounds={"low": 1},
    )  # fmt: skip
    early = Sentence(
        "within", ("final_error",),
        "After {document_steps} steps the error is as published, {final_error}, from {first_error} at the first.",
        "After {document_steps} steps the error is not as published: {final_error}.",
        "After {document_steps} steps the error is {final_error}; {n} seeds do not decide more.",
        {"low": 0.003, "high": 0.012},
    )  # fmt: skip
    apart = Sentence(
        "less", ("raw_distance_before", "raw_distance_after"),
        "The weights are then further from A than at the start ({raw_distance_after} against {raw_distance_before}; ratio {times:.2f}, interval {times_interval}): nothing of the end can be seen.",
        "The weights are then not further from A than at the start ({raw_distance_after} against {raw_distance_before}).",
        "The weights are then {raw_distance_after} from A, {raw_distance_before} at the start; {n} seeds do not decide more.",
    )  # fmt: skip
    results.claim("B learns A's function but not its weights", same, yes="no", no="partly")
    results.claim("after 50 steps B answers like A", early, apart, yes="partly")
    results.claim(
        "more training would not change that",
        Sentence(
            "fact",
            ("zero_loss",),
            "{zero_loss} of {students} students reach zero.",
            "No student reaches zero.",
            bounds={"low": 1},
        ),
        budget,
        yes="no",
        no="partly",
    )
    results.conclude(same, budget, rest, apart)

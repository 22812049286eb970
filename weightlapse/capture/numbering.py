"""Which number a step bears, and where a recording goes on."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from weightlapse.capture.schedule import Schedule
from weightlapse.errors import InvalidArgument
from weightlapse.store.reader import Store

Missing = Literal["refuse", "gap"]
Values = Mapping[str, NDArray[Any]]  # weights by name, in stored dtypes


def whole(value: Any) -> int | None:
    """``value`` as a whole number, of whatever library it is; None when it is none.

    >>> whole(np.int64(3)), whole(4.0), whole(True), whole("5"), whole(2.5)
    (3, 4, None, None, None)
    """
    if isinstance(value, (bool, np.bool_, str, bytes)):
        return None
    try:
        return operator.index(value)
    except TypeError:
        pass
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    return int(number) if number.is_integer() else None


def check_step(name: str, value: Any) -> int | None:
    """The argument ``name`` as a number of steps, None when it was not given."""
    if value is None:
        return None
    number = whole(value)
    if number is None or number < 0:
        raise InvalidArgument(f"{name}={value!r}: give the number of optimizer steps made so far, 0 or more")
    return number


@dataclass(frozen=True)
class ResumePoint:
    """Where a recording begins, or goes on: the model has had ``step`` steps. ``new``: nothing was there before.

    ``rewind_to``: frames after this step become a branch. ``take``: the network as it is now becomes the frame of ``step``. ``gap``: steps that
    are missing for good. ``doubt``: what does not fit, in words.
    """

    step: int
    new: bool = False
    rewind_to: int | None = None
    take: bool = False
    gap: tuple[int, int] | None = None
    doubt: str = ""


def resume_point(
    store: Store, at: int | Literal["weights"] | None, present: Values, wants: Schedule, missing: Missing
) -> ResumePoint:
    """Where the recording in ``store`` goes on with a model that has the ``present`` weights and has had ``at`` steps.

    ``at=None`` goes on after the last frame, "weights" after the frame that holds the present weights. Raises :class:`InvalidArgument` for a
    number that neither continues nor rewinds.
    """
    steps = store.steps
    if len(steps) == 0:
        return ResumePoint(at if isinstance(at, int) else 0, take=True)
    last = int(steps[-1])
    if not isinstance(at, int):
        return _by_weights(store, present, search=at == "weights")
    if at > last:
        return _beyond(store, at, last, wants, missing)
    found = np.flatnonzero(steps == at)
    differs = len(found) > 0 and _holds(store, int(found[0]), present) is False
    if at < steps[0] or (differs and at == steps[0]):
        what = "begins" if at < steps[0] else "begins with other weights"
        raise InvalidArgument(
            f"{store.location} {what} at step {steps[0]}: step {at} of this model does not belong to it. Choose another path, or pass overwrite=True"
        )
    if len(found) == 0:
        return ResumePoint(at, rewind_to=at, take=wants.wants(at))
    if differs:
        doubt = f"the weights are not those that were recorded at step {at}: its frame was taken anew"
        return ResumePoint(at, rewind_to=at - 1, take=True, doubt=doubt)
    return ResumePoint(at, rewind_to=at if at < last else None)


def _beyond(store: Store, at: int, last: int, schedule: Schedule, missing: Missing) -> ResumePoint:
    absent = [step for step in range(last + 1, at + 1) if schedule.wants(step)]
    if not absent:
        return ResumePoint(at)
    if missing == "refuse":
        raise InvalidArgument(
            f"{store.location} ends at step {last}: going on at step {at} neither continues nor rewinds it, the steps {last + 1} to {at} would be "
            f"missing. Restore a checkpoint of step {last} or earlier, pass missing='gap' to have them noted as a gap, or choose another path"
        )
    take = absent[-1] == at
    gap = (last + 1, at - 1 if take else at)
    return ResumePoint(at, take=take, gap=gap if gap[0] <= gap[1] else None)


def _by_weights(store: Store, present: Values, *, search: bool) -> ResumePoint:
    frames = len(store.steps)
    last = int(store.steps[-1])
    if _holds(store, frames - 1, present) is not False:
        return ResumePoint(last)
    frame = _frame_with(store, present)
    if frame is None:
        return ResumePoint(last, doubt=f"the weights are not those of the last frame, step {last}, nor of any other")
    step = int(store.steps[frame])
    if search:
        return ResumePoint(step, rewind_to=step)
    return ResumePoint(
        last,
        doubt=f"the weights are those of step {step}, and the recording goes on after step {last}: pass resume_at={step} to rewind it",
    )


def _holds(store: Store, frame: int, present: Values) -> bool | None:
    """Whether a frame holds the present weights, within its bound; None when it holds other tensors."""
    layout = store.layout_at(frame)
    names = [t.name for t in layout.tensors if t.stream == "weights"]
    if set(names) != set(present) or any(layout.tensors[layout.index[n]].shape != present[n].shape for n in names):
        return None
    return all(_same(store.read_frame(frame, [n])[n], present[n], store.bound(n, frame)) for n in names)


def _frame_with(store: Store, present: Values) -> int | None:
    """The latest frame that holds the present weights: tensor by tensor, the smallest first, ever fewer frames come into question."""
    if _holds(store, len(store.steps) - 1, present) is None:
        return None
    frames = np.arange(store.epochs[-1].start, len(store.steps))
    for name in sorted(present, key=lambda n: present[n].size):
        if len(frames) == 0:
            return None
        values = store.read(name, frames)
        bound = store.bound(name)
        frames = frames[[_same(value, present[name], bound) for value in values]]
    return int(frames[-1]) if len(frames) else None


def _same(stored: NDArray[Any], present: NDArray[Any], bound: float) -> bool:
    if stored.dtype != present.dtype:
        return False
    if bound == 0 or stored.dtype.kind not in "fc":
        return stored.tobytes() == present.tobytes()
    with np.errstate(invalid="ignore", over="ignore"):
        near = np.abs(stored.astype(np.complex128) - present) <= bound * (1 + 1e-6)
    return bool(np.all(near | (stored == present) | (np.isnan(stored) & np.isnan(present))))

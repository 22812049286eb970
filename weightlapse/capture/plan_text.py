"""A plan in words: the table of :attr:`Plan.text`, the sentence of :meth:`Plan.warning`, and the settings that would do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from weightlapse.capture.expected import SOURCE
from weightlapse.capture.schedule import every
from weightlapse.store.sizes import size

if TYPE_CHECKING:
    from weightlapse.capture.plan import Plan

_WIDTH = 16
_NICE = (1, 2, 5)
_UNITS = (("µs", 1e-6, 1e-3), ("ms", 1e-3, 1.0), ("s", 1.0, 90.0), ("min", 60.0, 5400.0), ("h", 3600.0, 172800.0))
_NOTICED = 0.1  # of the time of training, from which on copies are worth a word
_LONG_CLOSE = 60.0  # seconds
_FEW = 3  # tensors that one would name to leave them out
_MOST_WAITING = 256  # frames that a ring has at most
_MORE_MEMORY = 4  # times what the recorder would use is still worth proposing


def duration(seconds: float) -> str:
    """A time for people, two digits.

    >>> duration(0.0723), duration(93), duration(7200), duration(2e-5)
    ('72 ms', '1.6 min', '2 h', '20 µs')
    """
    for unit, scale, below in _UNITS:
        if seconds < below:
            return f"{_two(seconds / scale)} {unit}"
    return f"{_two(seconds / 86400)} days"


def rate(value: float) -> str:
    """Bytes a second in words, such as ``1.2 GB/s``."""
    return f"{size(value, digits=3)}/s"


def _two(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _percent(share: float) -> str:
    return f"{_two(100 * share)} %"


def how(plan: Plan) -> str:
    """``every`` and ``tolerance`` in words."""
    words = repr(plan.schedule)
    often = (
        "every step"
        if words == "every(1)"
        else f"{words.removesuffix(')').replace('(', '=')}"
        if words.startswith("every(")
        else words
    )
    return f"{often}, {'bit-exact' if plan.tolerance is None else f'tolerance={plan.tolerance:g}'}"


def tell(plan: Plan) -> str:
    """The table in words."""
    kinds = sorted({spec.dtype for spec in plan.layout.tensors})
    tensors = len(plan.layout.tensors)
    lines = [
        f"{plan.name}: {tensors:,} tensor{'s' if tensors != 1 else ''}, {plan.values:,} values of {' and '.join(kinds)}; {how(plan)}. Nothing is recorded.",
        "",
    ]
    lines += [f"  {label:<{_WIDTH}}{text}".rstrip() for label, text in _rows(plan)]
    return "\n".join(lines)


def _rows(plan: Plan) -> Iterator[tuple[str, str]]:
    frame, rates, steps = plan.layout.row_nbytes, plan.rates, plan.steps
    yield "a frame", f"{size(plan.frame_nbytes)} before compression"
    for n in dict.fromkeys((1000, steps)):
        low, high = plan.stored_range(n)
        stored = f"{size(low)} to {size(high)}" if size(low) != size(high) else size(low)
        yield (
            f"{n:,} step{'s' if n != 1 else ''}",
            f"{plan.frames(n):,} frames: {size(plan.log_nbytes(n))} in the log until they are compressed, then {stored}",
        )
    low, high = plan.stored_range(steps)
    raw = plan.frames(steps) * plan.frame_nbytes
    where = "as in this recording" if plan.known_ratio is not None else f"as measured, see {SOURCE}"
    yield "", f"({raw / high:.2g} to {raw / low:.2g} times smaller, {where}; about {size(plan.stored_nbytes(steps))})"
    still = sum(spec.nbytes for spec in plan.layout.tensors if spec.name in plan.frozen)
    if still:
        yield (
            "not trained",
            f"{size(still)} of a frame ({_percent(still / max(plan.frame_nbytes, 1))}) that no step changes: name what is trained in tensors=",
        )
    for written, nbytes in (plan.other_streams or {}).items():
        yield "with more", f"{written}: {size(nbytes)} a frame, {nbytes / max(plan.frame_nbytes, 1):.2g} times as much"
    yield "", ""
    found = f"measured in {rates.seconds:.2f} s" if rates.measured else "typical rates, nothing was measured"
    yield (
        "this machine",
        found + ("" if plan.free_nbytes is None else f"; {size(plan.free_nbytes)} are free on the disk"),
    )
    thread = "in the training thread" if plan.device == "cpu" else f"from {plan.device}, beside the next step"
    yield "copy", f"{rate(rates.copy)}, {duration(plan.copy_seconds)} a frame, {thread}"
    yield "disk", f"{rate(rates.disk)}, {duration(frame / rates.disk)} a frame"
    cores = f"{rate(rates.encode_all)} on all {rates.threads}" if rates.threads > 1 else "and there is only one"
    yield "compress", f"{rate(rates.encode)} on one core, {cores}: {duration(frame / rates.encode_all)} a frame"
    yield "memory", f"{size(plan.memory)}: {_ring(plan)}"
    yield "", ""
    for apart in dict.fromkeys((plan.distance, 10.0, 100.0)):
        if apart >= plan.distance:
            often = (
                "every step"
                if apart == 1
                else f"every {apart:g} steps"
                if apart == int(apart)
                else f"every {apart:.3g} steps on average"
            )
            yield (
                "kept up with" if apart == plan.distance else "",
                f"{often}: when a step takes {duration(plan.slowest_step(apart))} or longer",
            )
    if plan.step_seconds is not None:
        yield from _at(plan, plan.step_seconds)
    for note in plan.notes:
        yield "note", note


def _ring(plan: Plan) -> str:
    if plan.ring_frames < 2:
        return f"too little, two frames and room to compress need memory={plan.memory_needed}"
    return f"{plan.ring_frames} frames wait there for the disk, {size(plan.memory_needed)} is the least for this model"


def _at(plan: Plan, step_seconds: float) -> Iterator[tuple[str, str]]:
    """What happens with steps of so many seconds."""
    flow, frames = plan.flow(step_seconds), plan.frames(plan.steps)
    yield "", ""
    copies = f"copies add {_percent(max(plan.overhead(step_seconds), 0))}"
    if flow.kept_up:
        yield f"at {duration(step_seconds)}", f"kept up with; {copies}"
    elif not flow.held_up(frames):
        yield (
            f"at {duration(step_seconds)}",
            f"the ring holds what the disk cannot take in {plan.steps:,} steps; {copies}. A longer training would wait",
        )
    else:
        waits = f"training would take {1 + flow.slower_by(frames):.2g} times as long, or leave out {_percent(flow.gap(frames))} of the frames"
        yield f"at {duration(step_seconds)}", f'not kept up with; {copies}; {waits} with backpressure="stretch"'
    yield (
        "at the end",
        f"close() takes {duration(flow.closes_in(frames))}; the disk holds {size(flow.most_nbytes(frames))} at the most",
    )
    for setting in settings(plan, step_seconds, plan.steps):
        yield "would do", setting


def settings(plan: Plan, step_seconds: float | None, steps: int) -> list[str]:
    """The settings with which the recording would be kept up with and have room, each by itself; empty when it is as it is.

    Without ``step_seconds`` room alone counts.
    """
    found: list[str] = []
    if will_do(plan, step_seconds, steps):
        slow = step_seconds is not None and plan.flow(step_seconds).closes_in(plan.frames(steps)) > _LONG_CLOSE
        return ['compact="never" closes at once; weightlapse compact then compresses later'] if slow else []
    for n in _rising(math.ceil(plan.distance)):
        if n > steps:
            break
        if will_do(replace(plan, schedule=every(n), known_ratio=None), step_seconds, steps):
            found.append(f"every={n}")
            break
    found += _smaller(plan, step_seconds, steps)
    if step_seconds is not None:
        flow, frames = plan.flow(step_seconds), plan.frames(steps)
        need = frames - math.floor((frames - 1) * flow.period / flow.frame_seconds) + 1
        nbytes = -(-need * plan.layout.row_nbytes * 4 // 3)
        room = plan.free_nbytes is None or flow.most_nbytes(frames) <= plan.free_nbytes
        if room and flow.held_up(frames) and need <= _MOST_WAITING and nbytes <= _MORE_MEMORY * plan.memory:
            found.append(
                f'memory="{math.ceil(nbytes / 1e6)}MB" (the ring then holds what the disk cannot take in {steps:,} steps)'
            )
    if not found and plan.tolerance is None:
        found.append('tolerance="film" (what is stored is many times smaller; the log is not)')
    return found


def will_do(plan: Plan, step_seconds: float | None, steps: int) -> bool:
    """Whether so many steps are recorded without waiting, and have room on the disk."""
    frames = plan.frames(steps)
    most = plan.stored_range(steps)[1]
    if step_seconds is not None:
        flow = plan.flow(step_seconds)
        if flow.held_up(frames):
            return False
        most = flow.most_nbytes(frames)
    return plan.free_nbytes is None or most <= plan.free_nbytes


def _rising(first: int) -> Iterator[int]:
    """1, 2, 5, 10, 20, ... from ``first`` on."""
    power = 1
    while True:
        yield from (power * n for n in _NICE if power * n >= first)
        power *= 10


def _smaller(plan: Plan, step_seconds: float | None, steps: int) -> Iterator[str]:
    """Which tensors to leave out so that the rest is kept up with and has room."""
    fits = math.inf if step_seconds is None else plan.rates.disk * plan.distance * step_seconds
    if plan.free_nbytes is not None:
        fits = min(fits, plan.free_nbytes / plan.frames(steps))
    specs = sorted((s for s in plan.layout.tensors if s.name not in plan.frozen), key=lambda s: -s.nbytes)
    trained = sum(spec.nbytes for spec in specs)
    if plan.frozen and 0 < trained <= fits:
        yield f"tensors= of what is trained alone ({size(trained)} a frame)"
        return
    left = plan.frame_nbytes
    for count, spec in enumerate(specs[:_FEW], 1):
        left -= spec.nbytes
        if 0 < left <= fits:
            out = ", ".join(f'"!{s.name}"' for s in specs[:count])
            yield f'tensors=["*", {out}] ({size(left)} a frame)'
            return
    if specs and specs[-1].nbytes <= fits < plan.frame_nbytes:
        yield f"tensors= that take {size(fits)} a frame or less, {_percent(fits / plan.frame_nbytes)} of it"


def announce(plan: Plan) -> str:
    """In a sentence, what recording costs with these rates, what is kept up with, and the settings that would be where that is not enough."""
    frame, rates = plan.layout.row_nbytes, plan.rates
    slowest = plan.slowest_step()
    costs = (
        f"a frame of {plan.name} has {size(plan.frame_nbytes)}: copied in {duration(plan.copy_seconds)} ({rate(rates.copy)}), written in "
        f"{duration(frame / rates.disk)} ({rate(rates.disk)}), compressed in {duration(frame / rates.encode_all)} ({rate(rates.encode_all)})"
    )
    often = how(plan).partition(",")[0]
    kept = (
        f"{often} is kept up with when a step takes {duration(slowest)} or longer"
        if slowest > 0
        else f"{often} is kept up with"
    )
    waits = f"memory={size(plan.memory)} lets {plan.ring_frames} frames wait"
    if slowest <= 0:
        return f"{costs}; {kept}; {waits}"
    further = f"every={math.ceil(10 * plan.distance)} from {duration(plan.slowest_step(10 * plan.distance))} on"
    return (
        f"{costs}; {kept}, {further}, fewer tensors (tensors=...) or a tolerance with less to write and keep; {waits}"
    )


def warn(plan: Plan, step_seconds: float | None, steps: int) -> str | None:
    """What a person should read before training, None when there is nothing."""
    frame = f"a frame of {plan.name} has {size(plan.frame_nbytes)}"
    if plan.ring_frames < 2:
        return f"{frame}, and memory={plan.memory} holds less than two: pass memory={plan.memory_needed} or more, or record fewer tensors (tensors=...)"
    found = []
    if step_seconds is not None:
        flow, frames = plan.flow(step_seconds), plan.frames(steps)
        took = "measured" if plan.rates.measured else "typical"
        if flow.held_up(frames):
            found.append(
                f"the disk ({rate(plan.rates.disk)}, {took}) takes {duration(flow.frame_seconds)} for it and training makes one each {duration(flow.period)}: "
                f"it would wait and take {1 + flow.slower_by(frames):.2g} times as long"
            )
        elif plan.overhead(step_seconds) > _NOTICED:
            found.append(
                f"copying it takes {duration(plan.copy_seconds)} ({rate(plan.rates.copy)}, {took}), "
                f"{_percent(plan.overhead(step_seconds))} of the time of training"
            )
        most = flow.most_nbytes(frames)
    else:
        most = float(plan.stored_range(steps)[1])
    if plan.free_nbytes is not None and most > plan.free_nbytes:
        found.append(f"{steps:,} steps need {size(most)} on the disk, where {size(plan.free_nbytes)} are free")
    if not found:
        return None
    would = settings(plan, step_seconds, steps)
    if not would or will_do(plan, step_seconds, steps):  # nothing waits and nothing is full: only the copies take long
        would = [f"every={next(_rising(math.ceil(plan.distance) + 1))} or more", "fewer tensors (tensors=...)"]
    return f"{frame}; {'; and '.join(found)}. What would do: {'; or '.join(would)}"

"""``weightlapse.plan``: what recording a model would cost, before anything is recorded."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from weightlapse.adapters.headers import is_checkpoint, shapes_in
from weightlapse.adapters.shapes import Held, chosen, shapes_of
from weightlapse.adapters.source import ArrayInfo, Selection
from weightlapse.capture.arguments import check_memory, check_tolerance
from weightlapse.capture.expected import Range, stored_range
from weightlapse.capture.flow import Flow
from weightlapse.capture.layouts import layout_of
from weightlapse.capture.memory import auto_memory, needed
from weightlapse.capture.plan_text import announce, tell, warn
from weightlapse.capture.ranks import model_is_sharded, process_group
from weightlapse.capture.rates import TYPICAL, Rates, free_nbytes, measure
from weightlapse.capture.ring import MAX_ROWS, MIN_ROWS
from weightlapse.capture.schedule import Schedule, every, schedule
from weightlapse.errors import InvalidArgument
from weightlapse.store.layout import Layout
from weightlapse.store.ranks import RankedStore, open_store
from weightlapse.store.reader import Store
from weightlapse.store.remote import is_url
from weightlapse.store.sizes import size
from weightlapse.store.threads import usable_cores


@dataclass(frozen=True)
class Plan:
    """What a recording would cost; ``text`` says it as a table in words. Made by :func:`weightlapse.plan`; nothing is recorded.

    Bytes and seconds everywhere. ``frame_nbytes`` are the values of a frame, before compression.
    """

    name: str
    layout: Layout
    tolerance: float | None
    schedule: Schedule
    steps: int
    step_seconds: float | None
    memory: int
    rates: Rates
    frozen: frozenset[str] = frozenset()
    device: str = "cpu"
    other_streams: Mapping[str, int] | None = None  # bytes of a frame with other streams=, by how they are written
    known_ratio: float | None = None  # what this very recording was compressed by
    free_nbytes: int | None = None  # on the disk of the target
    notes: Sequence[str] = ()

    @property
    def frame_nbytes(self) -> int:
        """Bytes of one frame before compression."""
        return self.layout.value_nbytes

    @property
    def values(self) -> int:
        """How many numbers a frame has."""
        return sum(spec.size for spec in self.layout.tensors)

    @property
    def distance(self) -> float:
        """Steps between two frames, on average over ``steps``."""
        return self.schedule.n if isinstance(self.schedule, every) else self.steps / max(self.frames(self.steps) - 1, 1)

    def frames(self, steps: int) -> int:
        """Frames of a training of so many steps, the one before the first step included."""
        if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 0:
            raise InvalidArgument(f"steps={steps!r}: give a whole number of optimizer steps")
        if isinstance(self.schedule, every):
            return int(steps) // self.schedule.n + 1
        return sum(map(self.schedule.wants, range(int(steps) + 1)))

    def log_nbytes(self, steps: int) -> int:
        """Bytes that so many steps write to the log, before they are compressed."""
        return self.frames(steps) * self.layout.row_nbytes

    def stored_range(self, steps: int) -> Range:
        """The fewest and the most bytes that so many steps take on disk once compressed, as trainings of the kind did."""
        frames = self.frames(steps)
        near = self.distance < 2
        return stored_range(
            self.layout.tensors, self.frozen, frames, self.tolerance, every_step=near, known=self.known_ratio
        )

    def stored_nbytes(self, steps: int) -> int:
        """Bytes that so many steps are expected to take on disk once compressed: the geometric middle of :meth:`stored_range`."""
        low, high = self.stored_range(steps)
        return min(math.ceil(math.sqrt(low * high)), math.floor(high)) if high > low else math.ceil(low)

    @property
    def ratio(self) -> float:
        """How many times smaller than raw the stored recording is expected to be."""
        return self.frames(self.steps) * self.frame_nbytes / max(self.stored_nbytes(self.steps), 1)

    @property
    def ring_frames(self) -> int:
        """Frames that the ring holds; below two, watch() refuses the memory."""
        return min(MAX_ROWS, self.memory * 3 // 4 // max(self.layout.row_nbytes, 1))

    @property
    def memory_needed(self) -> int:
        """The least ``memory=`` that watch() takes for this model."""
        return needed(self.layout.row_nbytes)

    @property
    def copy_seconds(self) -> float:
        """What copying a frame into the ring takes."""
        return self.layout.row_nbytes / self.rates.copy

    def flow(self, step_seconds: float) -> Flow:
        """How frames would come and go with steps of so many seconds.

        A copy on the CPU is time of the training thread; one from a device runs beside the next step, which waits for it where it takes longer.
        """
        if not 0 < step_seconds < math.inf:
            raise InvalidArgument(
                f"step_seconds={step_seconds!r}: give the seconds that a step takes without recording"
            )
        beside = self.device != "cpu"
        busy = max(step_seconds, self.copy_seconds) if beside else step_seconds + self.copy_seconds
        return Flow(
            frame_nbytes=max(self.layout.row_nbytes, 1),
            period=(self.distance - 1) * step_seconds + busy,
            disk=self.rates.disk,
            encode=0.0
            if beside or usable_cores() == 1
            else self.rates.encode,  # of weights on a device at the end alone
            encode_all=self.rates.encode_all,
            ratio=max(self.ratio, 1.0),
            ring=max(self.ring_frames, MIN_ROWS),
        )

    def overhead(self, step_seconds: float) -> float:
        """What the copies add to training, as a fraction of its time."""
        return self.flow(step_seconds).period / (self.distance * step_seconds) - 1

    def slowest_step(self, distance: float | None = None) -> float:
        """Seconds of a step from which on the disk keeps up, with a frame every ``distance`` steps."""
        apart = self.distance if distance is None else distance
        write, copy = self.layout.row_nbytes / self.rates.disk, self.copy_seconds
        return max(0.0, write - copy) / apart if self.device == "cpu" else write / apart

    @cached_property
    def text(self) -> str:
        """The plan as a table in words."""
        return tell(self)

    def warning(self, step_seconds: float | None = None, steps: int | None = None) -> str | None:
        """A sentence for before training when the rates will not do: what is too slow or too small, and which settings would do. Else None."""
        return warn(
            self, self.step_seconds if step_seconds is None else step_seconds, self.steps if steps is None else steps
        )

    def __str__(self) -> str:
        return self.text

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(self.text)

    def to_json(self) -> dict[str, Any]:
        """Everything that the text says, as numbers."""
        low, high = self.stored_range(self.steps)
        found: dict[str, Any] = {
            "name": self.name,
            "tensors": len(self.layout.tensors),
            "values": self.values,
            "every": repr(self.schedule),
            "tolerance": self.tolerance,
            "steps": self.steps,
            "frames": self.frames(self.steps),
            "frame_nbytes": self.frame_nbytes,
            "log_nbytes": self.log_nbytes(self.steps),
            "stored_nbytes": self.stored_nbytes(self.steps),
            "stored_range": [round(low), round(high)],
            "frozen_nbytes": sum(t.nbytes for t in self.layout.tensors if t.name in self.frozen),
            "other_streams": dict(self.other_streams or {}),
            "memory": self.memory,
            "memory_needed": self.memory_needed,
            "ring_frames": self.ring_frames,
            "rates": {
                key: getattr(self.rates, key) for key in ("copy", "disk", "encode", "encode_all", "threads", "measured")
            },
            "copy_seconds": self.copy_seconds,
            "slowest_step": self.slowest_step(),
            "free_nbytes": self.free_nbytes,
            "notes": list(self.notes),
        }
        if self.step_seconds is not None:
            flow, frames = self.flow(self.step_seconds), self.frames(self.steps)
            found["at"] = {
                "step_seconds": self.step_seconds,
                "kept_up": flow.kept_up,
                "overhead": self.overhead(self.step_seconds),
                "slower_by": flow.slower_by(frames),
                "gap": flow.gap(frames),
                "closes_in": flow.closes_in(frames),
                "most_nbytes": round(flow.most_nbytes(frames)),
            }
        found["warning"] = self.warning()
        return found


def plan(
    model: Any,
    every: int | Schedule | Iterable[int] = 1,
    tolerance: float | str | None = None,
    optimizer: Any = None,
    *,
    tensors: str | Iterable[str] = "*",
    streams: Iterable[str] | None = None,
    memory: int | str = "auto",
    path: str | os.PathLike[str] | None = None,
    steps: int = 1000,
    step_seconds: float | None = None,
    measure: bool = True,
) -> Plan:
    """What recording ``model`` would cost: bytes a frame and stored, what this machine keeps up with, and settings that would do.

    Nothing is recorded and no value is read: ``model`` is whatever :func:`weightlapse.watch` takes, also without values (torch modules on the meta
    device, what ``jax.eval_shape`` gives), a recording, or the path of a recording, of a checkpoint (``.safetensors``, ``.pt``, ``.npz``, Keras) or
    of a folder of shards, of which the headers are read.

    - ``every``, ``tolerance``, ``tensors``, ``streams``, ``memory``: as in ``watch()``. ``optimizer``: a torch optimizer (or several); the plan then also
      says what ``streams=("weights", "optimizer")`` would cost. ``memory="auto"``: room for some frames, at most a quarter of
      what is free, and at least what the model needs.
    - ``path``: where the recording would go; its disk is measured, that of the working folder by default.
    - ``steps``: of the training. ``step_seconds``: what a step takes without recording.
    - ``measure``: take half a second to measure how fast this machine copies, encodes and writes (in a temporary folder beside the target);
      False takes typical rates.

    Raises :class:`InvalidArgument` or :class:`CannotRecord` where ``watch()`` would refuse the model.

    >>> import numpy as np, weightlapse as wl
    >>> plan = wl.plan({"fc.weight": np.zeros((512, 256), np.float32)}, every=10, measure=False)
    >>> plan.frame_nbytes, plan.frames(1000), plan.stored_nbytes(1000) < 101 * plan.frame_nbytes
    (524288, 101, True)
    """
    when, bound = schedule(every), check_tolerance(tolerance)
    if isinstance(model, type):
        raise InvalidArgument(f"model={model.__name__}: this is the class; give an instance of it")
    optimizers = list(optimizer) if isinstance(optimizer, (list, tuple)) else [] if optimizer is None else [optimizer]
    with_state = optimizers and all(hasattr(o, "param_groups") for o in optimizers)
    if streams is not None and "optimizer" in Selection(tensors, streams).streams and optimizers and not with_state:
        raise InvalidArgument('streams="optimizer" is only there for torch modules with a torch optimizer')
    known, others, place = None, {}, Path.cwd() if path is None else Path(path)
    store = _store_of(model)
    if store is not None:
        held, known = _recorded(store, tensors, streams, when, bound)
        name = str(store.location)
    elif isinstance(model, (str, os.PathLike)):
        held, name = shapes_in(Path(model), Selection(tensors, streams or ("weights",))), str(model)
    else:
        selection = Selection(tensors, streams or ("weights",))
        if "optimizer" in selection.streams and not optimizers:
            raise InvalidArgument(
                'streams names "optimizer": give the optimizer too, optimizer=..., so that its state can be counted'
            )
        rank = process_group()[0] if model_is_sharded(model) else 0
        held = shapes_of(model, selection, optimizers, rank)
        name = type(model).__name__
        if with_state and streams is None and held.framework == "torch":
            more = shapes_of(model, Selection(tensors, ("weights", "optimizer")), optimizers, rank)
            others['streams=("weights", "optimizer")'] = layout_of(more.arrays).value_nbytes
    layout = layout_of(held.arrays)
    rates, notes = TYPICAL, []
    if measure:
        try:
            rates = measured(place, layout, bound, held.device)
        except OSError as error:
            notes.append(f"nothing can be written at {place} ({error.strerror or error}), so these are typical rates")
    budget = check_memory(memory) or auto_memory(layout.row_nbytes)
    made = Plan(
        name,
        layout,
        bound,
        when,
        steps,
        step_seconds,
        max(budget, 1),
        rates,
        held.frozen,
        held.device,
        others,
        known,
        free_nbytes(place),
        notes,
    )
    made.frames(steps)  # refuses what is no number of steps
    if step_seconds is not None:
        made.flow(step_seconds)
    return made


def before_training(
    path: Path, name: str, layout: Layout, tolerance: float | None, when: Schedule, memory: int, device: str
) -> str:
    """A sentence for a person who begins to record to ``path``: what a frame costs here, what is kept up with, and the settings that would be.

    Takes about a third of a second to measure this machine. Raises :class:`OSError` where nothing can be written.
    """
    rates = measured(path, layout, tolerance, device)
    free = free_nbytes(path)
    return announce(Plan(name, layout, tolerance, when, 1000, None, memory, rates, device=device, free_nbytes=free))


def packed_before_training(name: str, layout: Layout, device: str) -> str:
    """The sentence for frames that are made small where the weights are."""
    return (
        f"a frame of {name} has {size(layout.value_nbytes)}, and is packed on {device} before it is copied and written"
    )


def measured(place: Path, layout: Layout, bound: float | None, device: str) -> Rates:
    """The rates of this machine for frames of this layout, measured on the dtype that takes the most bytes."""
    sizes: dict[str, int] = {}
    for spec in layout.tensors:
        sizes[spec.dtype] = sizes.get(spec.dtype, 0) + spec.nbytes
    dtype = max(sizes, key=lambda kind: sizes[kind])
    return measure(place, dtype=dtype, tolerance=bound, device=device)


def _store_of(model: Any) -> Store | RankedStore | None:
    """The recording that is meant: an open one, or one at a path or URL that is no checkpoint's."""
    if isinstance(getattr(model, "_store", None), (Store, RankedStore)):
        return model._store  # type: ignore[no-any-return]
    if is_url(model) or (isinstance(model, (str, os.PathLike)) and not is_checkpoint(Path(model))):
        return open_store(model)
    return None


def _recorded(
    store: Store | RankedStore, tensors: Any, streams: Any, when: Schedule, bound: float | None
) -> tuple[Held, float | None]:
    """What a recording holds, and by how much it was compressed where it was recorded as it is planned."""
    specs = store.layouts[-1][1].tensors
    selection = Selection(tensors, streams or tuple(dict.fromkeys(spec.stream for spec in specs)))
    entries = [(t.name, t.stream, ArrayInfo(t.name, t.dtype, t.shape, t.stream, t.aliases), False) for t in specs]
    held = chosen(entries, selection, str(store.meta.get("framework", "recording")), any_stream=True)
    whole = len(held.arrays) == len(specs) and isinstance(store, Store) and not store.raw_segments and not store.doubled
    alike = isinstance(when, every) and len(store.steps) > 8 and bool((np.diff(store.steps) == when.n).all())
    known = store.raw_nbytes / store.stored_nbytes if whole and alike and store.tolerance == bound else None
    return held, known

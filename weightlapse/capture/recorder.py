"""The recorder: what :func:`weightlapse.watch` returns.

Its work in the training thread is one copy of each tensor into a ring. A failure of its own never reaches the training: it warns once,
says so in the recording, and stops recording. With ``WEIGHTLAPSE_STRICT=1`` it raises instead.
"""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from numpy.typing import NDArray

from weightlapse.adapters.source import Source
from weightlapse.capture.layouts import difference, layout_of
from weightlapse.capture.mirroring import Mirroring
from weightlapse.capture.nesting import inside_another_step, may_nest
from weightlapse.capture.pump import Pump
from weightlapse.capture.ring import Ring
from weightlapse.capture.schedule import Schedule
from weightlapse.errors import CannotRecord, InvalidArgument, WeightlapseError
from weightlapse.store.mirror import Mirror
from weightlapse.store.writer import Writer

Backpressure = Literal["block", "stretch"]


class RecordingStopped(UserWarning):
    """A recorder had to stop; training goes on without it. The message says why."""


class Recorder:
    """Records a model while it trains. Made by :func:`weightlapse.watch`; see there.

    ``path`` is the folder of the recording, ``frames`` the number of frames so far.
    """

    def __init__(
        self,
        source: Source,
        writer: Writer,
        ring: Ring,
        schedule: Schedule,
        *,
        memory: int,
        backpressure: Backpressure = "block",
        first_step: int = -1,
    ) -> None:
        self.path: Path = writer.path
        self.failed: str | None = None
        self.strict = os.environ.get("WEIGHTLAPSE_STRICT") == "1"
        self._source = source
        self._layout = writer.layout
        self._ring = ring
        self._schedule = schedule
        self._memory = memory
        self._stretch = backpressure == "stretch"
        self._device: Any = source if getattr(source, "on_device", False) else None
        self._settles = False  # whether hooks call settle() before each update
        self._gap: tuple[int, int] | None = None
        self._last = first_step  # number of the last step seen, recorded or not
        self._base = writer.frames - ring.filled  # frames of the recording before this ring's first
        self._pump = Pump(writer, ring)
        self._closed = False
        self._nesting: set[int] = set()  # optimizers whose step may call another step of theirs
        self._handles: list[Any] = []
        self._finalizer = weakref.finalize(
            self, Pump.close, self._pump
        )  # also at exit: a forgotten close() loses nothing
        source.bind(ring.capacity, self._views())

    def _views(self) -> Callable[[int, int], NDArray[Any]]:
        rows, layout = self._ring.rows, self._layout
        return lambda slot, tensor: layout.view(rows[slot : slot + 1], tensor)[0, ...]

    @property
    def frames(self) -> int:
        """Frames recorded so far, the first one included."""
        return self._base + self._ring.filled

    @property
    def last_step(self) -> int:
        """Number of the last step seen, recorded or not."""
        return max(self._last, 0)

    @property
    def active(self) -> bool:
        """False once the recorder is closed or had to stop."""
        return not self._closed and self.failed is None

    @contextmanager
    def guard(self) -> Iterator[None]:
        """What fails inside stops the recorder, not the training: for callbacks that prepare what they record."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 — a recorder never kills a training run
            self._fail(error)

    def __repr__(self) -> str:
        state = f"stopped: {self.failed}" if self.failed else "closed" if self._closed else "recording"
        return f"<Recorder {self.path}: {self.frames} frames, {state}>"

    # ---- frames ----------------------------------------------------------------------------------------------------

    def step(self, params: Any = None, *, step: int | None = None, **scalars: float) -> None:
        """One update has been made: record a frame if the schedule wants this step.

        ``params`` are the present values, for models that do not hold them themselves (mappings of arrays, JAX pytrees). ``step`` numbers
        the update; by default it is one more than the last. ``scalars`` are logged with the frame.
        """
        try:
            self._step(params, step)
            if scalars:
                self._log(scalars)
        except Exception as error:  # noqa: BLE001 — a recorder never kills a training run
            self._fail(error)

    def first_frame(self, params: Any, step: int = 0) -> None:
        """Record the network before its first update (or as it is at ``step``)."""
        self._source.before_any(self._ring.slot)
        if not self._source.copy(self._ring.slot, params):
            raise CannotRecord(
                "the model's tensors change while they are being read: record from the thread that trains"
            )
        self._last = step
        self._publish(step)

    def after_optimizer_step(self, optimizer: Any, *_: Any) -> None:
        """The hook of ``torch.optim.Optimizer.register_step_post_hook``."""
        try:
            if id(optimizer) in self._nesting and inside_another_step(optimizer):
                return
            skipped = getattr(
                optimizer, "found_inf", None
            )  # set while a gradient scaler drives an optimizer that skips by itself
            if skipped is None or not bool(skipped):
                self._step(None, None)
        except Exception as error:  # noqa: BLE001 — a recorder never kills a training run
            self._fail(error)

    def before_optimizer_step(self, *_: Any) -> None:
        """The hook of ``torch.optim.Optimizer.register_step_pre_hook``: gradients are read before the update can change them."""
        try:
            if self.failed is None and not self._closed and self._schedule.wants(self._last + 1) and self._has_room():
                self._source.before(self._ring.slot)
        except Exception as error:  # noqa: BLE001 — a recorder never kills a training run
            self._fail(error)

    def _step(self, params: Any, step: int | None) -> None:
        if self._closed or self.failed is not None:
            return
        if step is None:
            step = self._last + 1
        elif step <= self._last:
            raise InvalidArgument(
                f"step={step} after step {self._last}: step numbers must rise, or frames could not be told apart"
            )
        self._last = int(step)
        if not self._schedule.wants(step):
            return
        if self._source.takes_params and params is None:
            raise InvalidArgument(
                "rec.step() needs the present values here, because the watched object does not hold them: rec.step(params)"
            )
        ring = self._ring
        if ring.filled - ring.taken >= ring.capacity and not self._has_room():
            self._gap = (self._gap[0] if self._gap else step, step)
            return
        if self._gap is not None:
            self._end_gap()
        if not self._source.copy(ring.slot, params):
            self._relayout(params, step)
        self._publish(step)
        if self._pump.failure is not None:
            raise self._pump.failure

    def _publish(self, step: int) -> None:
        """Give the row to the recorder's thread; where it is still being copied from a device, that thread waits for it."""
        if self._device is None:
            self._ring.publish(step)
            return
        self._ring.publish(step, self._device.pending)
        if not self._settles:  # nobody will say when the next update begins: it might be at once
            self._device.settle()

    def _before_update(self, *_: Any) -> None:
        """The pre-step hook of optimizers whose weights are on a device: the update waits there for the copies, not here."""
        try:
            self._device.settle()
        except Exception as error:  # noqa: BLE001 — a recorder never kills a training run
            self._fail(error)

    def _has_room(self) -> bool:
        ring = self._ring
        if not ring.has_room() and not self._stretch:
            ring.wait_for_room(self._pump.thread)
        return ring.has_room()

    def _end_gap(self) -> None:
        assert self._gap is not None
        (first, last), self._gap = self._gap, None
        self._pump.note(lambda writer: writer.gap(first, last, "the disk could not keep up (backpressure='stretch')"))

    def grow(self, growth: Any, optimizer: Any = None) -> None:
        """Go on with the grown network: ``rec.grow(wl.widen(model, {"fc1": 256}, x, optimizer=optimizer))``.

        From the next step on the frames are those of ``growth.model``, in a new layout epoch that knows which unit came from which; the
        step is marked. Steps of ``growth.optimizer`` are recorded from now on (of ``optimizer``, where a new one was made).
        """
        try:
            self._grow(growth, optimizer)
        except Exception as error:  # noqa: BLE001 — a recorder never kills a training run
            self._fail(error)

    def _grow(self, growth: Any, optimizer: Any) -> None:
        if self._closed or self.failed is not None:
            return
        follow = getattr(self._source, "follow", None)
        if follow is None:
            raise InvalidArgument("only the recording of a torch module can go on with a grown network")
        new = optimizer if optimizer is not None else growth.optimizer
        gradients = bool(getattr(self._source, "graded", False))
        if self._handles and new is None:
            raise InvalidArgument(
                "this recording follows an optimizer and the growth has none: give optimizer= to wl.widen, or the new one to rec.grow"
            )
        attached = bool(self._handles)
        self._detach()
        follow(growth.model, [] if new is None else [new])
        lineage = {group: [int(p) for p in parents] for group, parents in growth.lineage.items()}
        self._relayout(None, max(self._last, 0), note=growth.note, lineage=lineage)
        if attached:
            self.attach([new], gradients=gradients)

    def _relayout(self, params: Any, step: int, *, note: str = "", lineage: Any = None) -> None:
        """The arrays are no longer those of the layout: from this frame on another layout holds."""
        if self._source.shards:
            raise CannotRecord("a sharded model changed its tensors, which cannot be recorded on many processes")
        before = {t.name: t for t in self._layout.tensors}
        layout = layout_of(self._source.arrays(params))
        note = note or difference(before, {t.name: t for t in layout.tensors})
        ring = Ring(layout.row_nbytes, self._memory, getattr(self._source, "allocate", None))
        self._base = self.frames

        def begin(writer: Writer) -> None:
            writer.relayout(layout, note, lineage)
            writer.event(step, note)

        self._pump.exchange(ring, begin)
        self._layout, self._ring = layout, ring
        self._source.bind(ring.capacity, self._views())
        if not self._source.copy(ring.slot, params):
            raise CannotRecord(
                "the model's tensors change while they are being read: record from the thread that trains"
            )

    # ---- the rest --------------------------------------------------------------------------------------------------

    def log(self, **scalars: float) -> None:
        """Add numbers to the newest frame: ``rec.log(loss=loss.item(), lr=0.1)``."""
        try:
            self._log(scalars)
        except Exception as error:  # noqa: BLE001 — a recorder never kills a training run
            self._fail(error)

    def _log(self, scalars: dict[str, float]) -> None:
        if self._closed or self.failed is not None:
            return
        frame = self.frames - 1
        for name, value in scalars.items():
            try:
                number = _number(value)
            except (TypeError, ValueError, RuntimeError):
                raise InvalidArgument(f"{name}={value!r} is not a number: scalars are single numbers") from None
            self._pump.log(frame, name, number)

    def mark(self, text: str) -> None:
        """Write an event at the present step: ``rec.mark("learning rate dropped")``."""
        if not self._closed and self.failed is None:
            step = max(self._last, 0)
            self._pump.note(lambda writer: writer.event(step, str(text)))

    def gap(self, first: int, last: int, reason: str) -> None:
        """Say that the steps from ``first`` to ``last`` are missing in the recording, and why."""
        if not self._closed and self.failed is None:
            self._pump.note(lambda writer: writer.gap(first, last, reason))

    def flush(self) -> None:
        """Return when all frames so far are with the operating system: ``kill -9`` can no longer take them."""
        if not self._closed and self.failed is None:
            self._pump.flush()
            if self._pump.failure is not None:
                self._fail(self._pump.failure)

    def close(self) -> None:
        """End the recording. Safe to call twice; called by itself at exit and when the recorder is no longer held."""
        if self._closed:
            return
        if self._gap is not None:
            self._end_gap()
        self._closed = True
        self._detach()
        self._finalizer()
        if self._pump.failure is not None and self.failed is None:
            self._fail(self._pump.failure)

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def attach(self, optimizers: Iterable[Any], *, gradients: bool) -> None:
        """Record after every step of these torch optimizers. Hooks hold the recorder, so it lives as long as they do."""
        for optimizer in optimizers:
            if may_nest(optimizer):
                self._nesting.add(id(optimizer))
            self._handles.append(optimizer.register_step_post_hook(self.after_optimizer_step))
            if self._device is not None:
                self._handles.append(optimizer.register_step_pre_hook(self._before_update))
                self._settles = True
            if gradients:
                self._handles.append(optimizer.register_step_pre_hook(self.before_optimizer_step))

    def mirror(self, mirror: Mirror) -> None:
        """Keep a copy of the recording there while it grows."""
        self._pump.after_close.append(Mirroring(mirror, self.path).finish)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.mark(f"training ended with {type(error).__name__}: {error}")
        self.close()

    def _fail(self, error: BaseException) -> None:
        """Stop recording: write what is held, say why in the recording, warn once."""
        first = self.failed is None
        if first:
            self.failed = str(error) or type(error).__name__
            step, reason = max(self._last, 0), self.failed
            if self._pump.failure is None:
                self._pump.note(lambda writer: writer.stopped(step, reason))
            self._detach()
            self._finalizer()
        if self.strict:
            raise error
        if first:
            kind = "" if isinstance(error, WeightlapseError) else f"{type(error).__name__}: "
            warnings.warn(
                f"weightlapse stopped recording to {self.path} at step {max(self._last, 0)}: {kind}{self.failed} "
                "Training goes on; what was recorded until here is kept.",
                RecordingStopped,
                stacklevel=3,
            )


def _number(value: Any) -> float:
    """A Python number, or the one number in an array of any framework, without a gradient."""
    if hasattr(value, "detach"):
        value = value.detach()
    return float(value.item() if hasattr(value, "item") else value)

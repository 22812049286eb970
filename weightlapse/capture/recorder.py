"""The recorder: what :func:`weightlapse.watch` returns.

Its work in the training thread is one copy of each tensor into a ring. No mistake and no failure of its own reaches the training, and only a store
that can take no more ends it: what is wrong with one number or one frame costs that number or that frame, and is said once, with a warning and in
the recording. With ``WEIGHTLAPSE_STRICT=1`` it raises instead.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from weightlapse.adapters.find import find_steps
from weightlapse.adapters.source import Source, Steps, left_out_text
from weightlapse.capture.camera import Camera
from weightlapse.capture.findings import Findings, tell
from weightlapse.capture.keeping import KeepingWriter
from weightlapse.capture.mirroring import Mirroring
from weightlapse.capture.null import inactive_copy
from weightlapse.capture.numbering import ResumePoint, whole
from weightlapse.capture.numbers import Numbers
from weightlapse.capture.observer import Observer
from weightlapse.capture.packed_ring import Packing
from weightlapse.capture.plain import number_of
from weightlapse.capture.processes import closed, opened
from weightlapse.capture.ring import Ring
from weightlapse.capture.schedule import Schedule, every
from weightlapse.capture.witness import Witness, listed
from weightlapse.errors import InvalidArgument, RecordingStopped, WeightlapseError
from weightlapse.store.mirror import Mirror
from weightlapse.store.writer import Writer

Backpressure = Literal["block", "stretch"]
_STRETCHED = "the disk could not keep up (backpressure='stretch')"


class Recorder:
    """Records a model while it trains. Made by :func:`weightlapse.watch`; see there.

    ``path`` is the folder of the recording, ``frames`` the number of frames so far, ``stopped`` why it had to stop, None while it need not.
    A copy of a recorder (``copy.deepcopy``, ``pickle``) records nothing and says so at its first step.
    """

    def __init__(
        self,
        source: Source,
        writer: Writer | KeepingWriter,
        ring: Ring,
        schedule: Schedule,
        *,
        memory: int | None,
        packing: Packing | None = None,
        backpressure: Backpressure = "block",
        last_step: int = 0,
        held: Any = None,
    ) -> None:
        """``held``: the object given to watch(), where it does not hold its values itself but may be changed in place."""
        self.path: Path = Path(os.path.abspath(writer.path))
        self.identity = writer.identity  # the id of the recording, 16 bytes
        self.stopped: str | None = None
        self.strict = os.environ.get("WEIGHTLAPSE_STRICT") == "1"
        self._source = source
        self._schedule = schedule
        self._always = isinstance(schedule, every) and schedule.n == 1  # asked at every step
        self._held = held
        self._in_place = False  # whether it has been seen to change: from then on equal values are a frame like others
        self._gap: tuple[int, int, str] | None = None
        self._last = last_step
        self._number: Callable[[], int] | None = None
        self._findings = Findings(self.path, lambda write: self._pump.note(write))
        self._witness = Witness(source, self._findings)
        self._numbers = Numbers(writer.last_step)
        self._observer: Observer | None = None
        stretch = backpressure == "stretch"
        self._steps: Steps | None = None
        self._camera = Camera(
            source,
            writer,
            ring,
            memory=memory,
            packing=packing,
            stretch=stretch,
            renewed=self._witness.bind,
            replaced=self._look_for_others,
        )
        self._pump = self._camera.pump
        self._witness.start(None)
        self._closed = False
        self._disowned = ""
        # however it ends, what was recorded is written
        self._finalizer = weakref.finalize(self, self._pump.abandon)
        opened(self, self._pump, self.path)

    @property
    def frames(self) -> int:
        """Frames recorded so far, the first one included."""
        return self._camera.frames

    @property
    def last_step(self) -> int:
        """Number of the last step seen, recorded or not."""
        return self._last

    @property
    def failed(self) -> str | None:
        """The same as ``stopped``."""
        return self.stopped

    @property
    def active(self) -> bool:
        """False once the recorder is closed or had to stop, and in a forked child."""
        return not self._closed and self.stopped is None and not self._disowned

    def __repr__(self) -> str:
        state = f"stopped: {self.stopped}" if self.stopped else "closed" if self._closed else "recording"
        return f"<Recorder {self.path}: {self.frames} frames, {state}>"

    def __reduce__(self) -> Any:
        return inactive_copy, (str(self.path),)

    # ---- steps -----------------------------------------------------------------------------------------------------

    def step(self, params: Any = None, *, step: int | None = None, **scalars: float) -> None:
        """One update has been made: record a frame if the schedule wants this step.

        ``params`` are the present values, for models that do not hold them themselves (JAX pytrees, mappings that are made anew; a mapping that is
        changed in place need not be given). ``step`` numbers the update; by default it is one more than the last. ``scalars`` are logged with it: they
        are kept where this step is a frame.
        """
        if self._steps is not None:
            self._steps.wait()
        try:
            if self._ready() and self._by_hand(params, step) and scalars:
                self._log_own(scalars)
        except Exception as error:  # noqa: BLE001 — a recorder never kills a training run
            self._meet(error)
        if self._findings.pending:
            self._findings.tell()

    def _by_hand(self, params: Any, step: Any) -> bool:
        """A step that the user says; False when it is none, so that numbers that come with it belong nowhere."""
        number = self._last + 1 if step is None else whole(step)
        if number is None:
            return self._refuse("numbering", f"step={step!r} is no number of a step: its frame is left out")
        if self._steps is not None and self._seen_already(params, step):
            return True
        if self._steps is not None and (self._witness.still() or self._steps.told()):
            text = "rec.step() is called besides optimizer=, which has seen this update already: it adds no frame. Leave one of the two out"
            self._findings.say("numbering", self._last, text)
            return True
        if number <= self._last:
            return self._refuse(
                "numbering",
                f"step={number} after step {self._last}: numbers must rise over the whole run, or frames could not be told apart; its frame is left "
                "out. Was an earlier checkpoint restored? Then close the recorder and call watch(..., resume=True, resume_at=...)",
            )
        if params is None and self._source.elsewhere:
            return self._refuse(
                "unreadable",
                "rec.step() needs the present values, which the model does not hold since they were given: rec.step(params)",
            )
        if params is not None or not self._source.takes_params:
            self._held = None
        elif (params := self._held) is None:
            return self._refuse(
                "unreadable",
                "rec.step() needs the present values, which the watched object does not hold: rec.step(params)",
            )
        self._frame(number, params)
        if self._steps is not None and self._steps.iteration is not None:
            self._steps.iteration.ended_by_hand()
        return self._gap is None

    def _wait(self) -> None:
        """Let updates that are still being computed become frames, before anything is added to the newest."""
        if self._steps is not None:
            self._steps.wait()

    def _seen_already(self, params: Any, step: Any) -> bool:
        """Whether rec.step() only adds numbers to a frame that was taken without it, as it is meant to."""
        if self._steps is None or params is not None or step is not None:
            return False
        if self._steps.iteration is not None:
            return self._witness.still() and not self._steps.iteration.under_way
        return not self._steps.given and self._steps.told()

    def doubt(self, text: str) -> None:
        """What is followed does not show everything: say so once."""
        self._refuse("unseen_updates", text)

    def before(self) -> None:
        """The optimizer that is followed begins an update."""
        try:
            camera = self._camera
            if self._closed or self._disowned or self.stopped is not None:
                return
            if camera.on_device:
                camera.settle()
            self._witness.before()
            if camera.reads_gradients and self._schedule.wants(self._next()) and camera.has_room():
                camera.before(self._next())
        except Exception as error:  # noqa: BLE001 — a recorder never kills a training run
            self._meet(error)

    def after(self, *, sure: bool) -> None:
        """The optimizer that is followed has made an update, or (not ``sure``) may have made one."""
        try:
            if self._ready() and (sure or self._witness.is_update()):
                self._witness.after(self._last)
                self._frame(self._next(), None)
        except Exception as error:  # noqa: BLE001 — a recorder never kills a training run
            self._meet(error)
        if self._findings.pending:
            self._findings.tell()

    def wants_next(self) -> bool:
        """Whether the next update becomes a frame."""
        return self.active and self._schedule.wants(self._next())

    def skip(self, count: int, why: str) -> None:
        """``count`` updates have been made that cannot be recorded: their numbers are passed over."""
        self.gap(self._last + 1, self._last + count, why)
        self._last += count

    def count_by(self, number: Callable[[], int]) -> None:
        """Number updates as a trainer does: ``number()`` is that of the update under way."""
        self._number = number

    def _next(self) -> int:
        if self._number is None:
            return self._last + 1
        number = int(self._number())
        if number <= self._last:
            text = f"the trainer numbers an update {number} after step {self._last}: it is recorded as step {self._last + 1}"
            self._findings.say("numbering", self._last, text)
        return max(number, self._last + 1)

    def begin(self, point: ResumePoint, params: Any) -> None:
        """Begin, or go on, at ``point``: where it says so the network as it is now becomes a frame."""
        if point.gap is not None:
            self.gap(*point.gap, f"the recording ended before, and training went on at step {point.step}")
        if point.take:
            slot = self._camera.ring.slot
            self._camera.before_any()
            self._camera.copy(params, point.step)
            self._publish(point.step)
            self._witness.start(slot)
        if self._observer is not None:
            self._observer.frame(point.step)
        self._say_left_out(point.step)
        if point.doubt:
            self._findings.say("resumed_elsewhere", point.step, f"{point.doubt}.")

    @property
    def follows(self) -> Steps | None:
        """The optimizers that are followed now."""
        return self._steps

    def observe(self, look: Callable[[], dict[str, Any]]) -> None:
        """At a few frames, have what ``look()`` sees of the network written beside them."""
        self._observer = Observer(look, self._pump.note)

    def tell(self) -> None:
        """Warn of what was said since the last time."""
        self._findings.tell()

    def _frame(self, step: int, params: Any) -> None:
        """The update ``step`` has been made: its frame, or the reason why there is none."""
        camera, self._last = self._camera, step
        if not (self._always or self._schedule.wants(step)):
            self._witness.passed()
            return
        if self._pump.paused is not None:
            self._say_paused(self._pump.paused)
        ring = camera.ring
        if (not ring.has_rows or ring.filled - ring.taken >= ring.capacity) and not camera.has_room():
            self._lose(step, self._pump.paused or _STRETCHED)
            return
        try:
            camera.copy(params, step)
        except Exception as error:
            self._lose(step, f"{type(error).__name__}: {error}")
            raise
        if self._source.left_out:
            self._say_left_out(step)
        ring = camera.ring  # perhaps another one, of another layout
        slot = ring.filled % ring.capacity
        by_itself = params is not None and params is self._held and not self._in_place
        if by_itself and self._witness.unchanged(slot):
            why = "rec.step() was called without values, and the mapping given to watch() has not been changed in place: call rec.step(params)"
            self._lose(step, why)
            self._refuse("unreadable", f"step {step} is missing: {why}")
            return
        self._in_place |= by_itself
        if self._gap is not None:
            self._end_gap()
        self._witness.frame(slot, step)
        if camera.on_device:
            camera.publish(step)
        else:
            ring.publish(step)
        self._numbers.frame(step)
        if self._observer is not None:
            self._observer.frame(step)

    def _publish(self, step: int) -> None:
        """The row that was filled is the frame of ``step``."""
        self._camera.publish(step)
        self._numbers.frame(step)

    # ---- what cannot be recorded -----------------------------------------------------------------------------------

    def gap(self, first: int, last: int, reason: str) -> None:
        """Say that the steps from ``first`` to ``last`` are missing in the recording, and why."""
        if self.active:
            self._pump.note(lambda writer: writer.gap(first, last, reason))

    def _lose(self, step: int, reason: str) -> None:
        """The frame of this step is missing; neighbours that are missing for the same reason are one gap."""
        if self._gap is not None and self._gap[2] != reason:
            self._end_gap()
        self._gap = (self._gap[0] if self._gap else step, step, reason)
        self._witness.passed()

    def _end_gap(self) -> None:
        if self._gap is not None:
            gap, self._gap = self._gap, None
            self.gap(*gap)

    def _refuse(self, kind: str, text: str, about: str = "") -> Literal[False]:
        """A mistake in a call: it costs what it was about, and is said once."""
        if self.strict:
            raise InvalidArgument(text)
        self._findings.say(kind, self._last, text, about=about)
        return False

    def _say_paused(self, why: str) -> None:
        text = f"the store takes nothing at the moment ({why}). Training goes on, and the recording as soon as it can; what memory cannot hold will be a gap"
        self._findings.say("paused", self._last, text)

    def _ready(self) -> bool:
        """Whether there is something to record into; says once when there is not."""
        if not self._disowned and self._pump.failure is None:
            return not self._closed and self.stopped is None
        if self._disowned.strip():
            why, self._disowned = self._disowned, " "
            tell(f"weightlapse, recording to {self.path}: {why}.")
        elif self._pump.failure is not None and self.stopped is None:
            self._stop(self._pump.failure)
        return self.active

    @contextmanager
    def guard(self) -> Iterator[None]:
        """What fails inside costs a frame or a number, not the training: also for callbacks that prepare what they record."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 — a recorder never kills a training run
            self._meet(error)
        self._findings.tell()

    def _meet(self, error: Exception) -> None:
        if isinstance(error, Warning):  # where the user wants warnings to be errors
            raise error
        if self._pump.failure is not None and self.stopped is None:
            self._stop(self._pump.failure)
        elif self.strict:
            raise error
        else:
            kind = "" if isinstance(error, WeightlapseError) else f"{type(error).__name__}: "
            text = f"step {self._last} could not be recorded ({kind}{error}); what can be recorded later will be, and the gaps are noted"
            self._findings.say("unreadable", self._last, text)

    def _stop(self, error: BaseException) -> None:
        """The store takes no more: say why, once, and let the training go on without a recorder."""
        self.stopped = str(error) or type(error).__name__
        self._let_go()
        if self.strict:
            raise error
        kind = "" if isinstance(error, WeightlapseError) else f"{type(error).__name__}: "
        lost = (
            f"the last {self._pump.lost} taken could not be written"
            if self._pump.lost
            else "none that was taken is missing"
        )
        text = f"weightlapse stopped recording to {self.path} at step {self._last}: {kind}{self.stopped}. Training goes on; "
        tell(f"{text}{self._pump.writer.recorded} frames are in the recording, {lost}.", RecordingStopped)

    def disown(self, why: str) -> None:
        """From now on record nothing, in a process that is not the recorder's; ``why`` is said at the next step."""
        self._disowned = why

    # ---- what is followed ------------------------------------------------------------------------------------------

    def attach(self, steps: Steps | None) -> None:
        """Record after every update of what is followed. It holds the recorder, which so lives as long as it does."""
        if steps is None:
            return
        self._steps = steps
        self._camera.announced = steps.plain
        self._witness.attached = True
        steps.follow(self)
        self._look_for_others()

    def _look_for_others(self) -> None:
        """Which trainable parameters no optimizer holds that is followed?"""
        held = None if self._steps is None else self._steps.parameters()
        known = None if held is None else self._source.held(held)
        if known is None:
            return
        self._witness.not_held = names = known[1]
        if names:
            text = f"no optimizer given to watch() holds {listed(names)}, which can be trained: if another one moves them, give it too (optimizer=[...])"
            self._findings.say("not_held", self._last, text, about=" ".join(names))

    def _say_left_out(self, step: int) -> None:
        if self._source.left_out:
            text = left_out_text(self._source.left_out)
            self._findings.say("left_out", step, text, about=text)

    def grow(self, growth: Any, optimizer: Any = None) -> None:
        """Go on with the grown network: ``rec.grow(wl.widen(model, {"fc1": 256}, x, optimizer=optimizer))``.

        From the next step on the frames are those of ``growth.model``, in a new layout that knows which unit came from which; the
        step is marked. Steps of ``growth.optimizer`` are recorded from now on (of ``optimizer``, where a new one was made).
        """
        with self.guard():
            if self._ready():
                self._grow(growth, optimizer)

    def _grow(self, growth: Any, optimizer: Any) -> None:
        if self._source.framework != "torch":
            raise InvalidArgument("only the recording of a torch module can go on with a grown network")
        new = optimizer if optimizer is not None else growth.optimizer
        if self._steps is not None and new is None:
            raise InvalidArgument(
                "this recording follows an optimizer and the growth has none: give optimizer= to wl.widen, or the new one to rec.grow"
            )
        steps = None if self._steps is None else find_steps(growth.model, [new])
        self._leave()
        self._source.follow(growth.model, [] if new is None else [new])
        lineage = {group: [int(p) for p in parents] for group, parents in growth.lineage.items()}
        self._camera.relayout(None, self._last, note=growth.note, lineage=lineage)
        self._witness.start(None)
        if steps is not None:
            self.attach(steps)

    # ---- the rest --------------------------------------------------------------------------------------------------

    def log(self, **scalars: float) -> None:
        """Add numbers to the newest frame: ``rec.log(loss=loss.item(), lr=0.1)``.

        Where not every step is a frame, the newest takes a number of a later step if it has none of that name, and keeps what it has: of the losses of
        the steps 10 to 19, with ``every=10``, frame 10 has that of step 10.
        """
        self._wait()
        with self.guard():
            if self._ready():
                self._witness.logged(self._last)
                if self._gap is None:  # else they would be added to a frame that they do not belong to
                    self._log(scalars)

    def _log_own(self, scalars: dict[str, Any]) -> None:
        """Numbers of the present step, and of no other."""
        if self._numbers.step == self._last:
            self._log(scalars)
            return
        text = f"{listed(list(scalars))} of step {self._last}: left out, for that step is no frame (the newest is that of step {self._numbers.step})"
        self._findings.say(
            "between_frames", self._last, f"{text}. So are those of further steps that are no frames", warn=False
        )

    def _log(self, scalars: dict[str, Any]) -> None:
        frame, numbers = self._camera.taken - 1, self._numbers
        for name, value in scalars.items():
            number = number_of(value)
            if number is not None:
                if numbers.takes(name, self._last):
                    self._pump.log(frame, name, number)
                    if numbers.step != self._last:
                        text = f"{name} of step {self._last} stands at the newest frame, of step {numbers.step}, which has none of its own"
                        self._findings.say(
                            "between_frames",
                            self._last,
                            f"{text}. So it will be at further frames",
                            about=f"{name} later",
                            warn=False,
                        )
                    continue
                text = f"{name} of step {self._last}: left out, for the newest frame, of step {numbers.step}, has one and keeps it"
                self._findings.say(
                    "between_frames", self._last, f"{text}. So it will be at further steps", about=name, warn=False
                )
            else:
                self._refuse(
                    "not_a_number",
                    f"{name}={value!r:.80} is not a number, and is left out: scalars are single numbers",
                    about=name,
                )

    def mark(self, text: str) -> None:
        """Write an event at the present step: ``rec.mark("learning rate dropped")``."""
        self._wait()
        if self.active:
            step = self._last
            self._pump.note(lambda writer: writer.event(step, str(text)))

    def flush(self) -> None:
        """Return when all frames so far are with the operating system: ``kill -9`` can no longer take them. A store that takes nothing is not waited for."""
        self._wait()
        with self.guard():
            if self._ready() and not self._pump.flush():
                if self._pump.failure is not None:
                    raise self._pump.failure
                self._say_paused(str(self._pump.paused))

    def announce(self, text: Callable[[], str]) -> None:
        """Tell the person at the terminal, and the recording, what recording will cost; never at the cost of the recording."""
        try:
            said = text()
        except Exception as error:  # noqa: BLE001 — a machine that cannot be measured can still be recorded on
            said = f"what recording costs could not be measured ({type(error).__name__}: {error})"
        print(f"weightlapse, recording to {self.path}: {said}.", file=sys.stderr)
        self.mark(said)

    def mirror(self, mirror: Mirror) -> None:
        """Keep a copy of the recording there while it grows."""
        self._pump.after_close.append(Mirroring(mirror, self.path).finish)

    def close(self, *, last_frame: bool = True) -> None:
        """End the recording. Safe to call twice; called by itself at exit and when the recorder is no longer held.

        Where the weights have moved since the last step that was seen, they become a last frame, unless ``last_frame`` is False (a trainer that puts
        other weights into the model at its end).
        """
        if self._closed:
            return
        self._wait()
        try:
            if self.active:
                self._look_back(last_frame)
        except Exception as error:  # noqa: BLE001 — a recorder never kills a training run
            self._meet(error)
        finally:
            self._closed = True
            self._let_go()
        with self.guard():
            if self._pump.failure is not None and self.stopped is None:
                self._stop(self._pump.failure)

    def _look_back(self, last_frame: bool) -> None:
        """The last look at the weights: a last frame, if it is needed, and what only the end shows."""
        self._end_gap()
        if self._observer is not None:
            self._observer.look(self._last)
        if self._camera.has_room() and not self._source.elsewhere:
            names = self._witness.moved(self._held)
            if names is not None:
                kind, text = self._witness.last(self._last, names, taken=last_frame)
                if last_frame or kind != "last_frame":
                    self._findings.say(kind, self._last, text)
                else:
                    self.mark(text)
                if last_frame:
                    self._camera.copy(self._held, self._last + 1)
                    self._publish(self._last + 1)
        self._witness.ended(self._last)

    def _let_go(self) -> None:
        self._leave()
        self._finalizer.detach()
        self._pump.close()
        closed(self, self.path)

    def _leave(self) -> None:
        if self._steps is not None:
            self._steps.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.mark(f"training ended with {type(error).__name__}: {error}")
        self.close()

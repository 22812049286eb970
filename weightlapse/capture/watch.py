"""``weightlapse.watch``: from now on every update of this model is a frame of a recording."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from weightlapse.adapters.find import find_source, find_steps
from weightlapse.adapters.source import Selection
from weightlapse.capture.arguments import (
    check_choice,
    check_memory,
    check_meta,
    check_objects,
    check_switches,
    check_tolerance,
    check_wiring,
    refuse_strangers,
)
from weightlapse.capture.keeping import KeepingWriter, check_keep, frames_held, sparse_schedule
from weightlapse.capture.late import LateRecorder
from weightlapse.capture.layouts import layout_of
from weightlapse.capture.memory import ring_memory
from weightlapse.capture.null import NullRecorder
from weightlapse.capture.numbering import Missing, ResumePoint, check_step
from weightlapse.capture.observer import find_look
from weightlapse.capture.packed_ring import make_ring, packing_of
from weightlapse.capture.processes import open_at
from weightlapse.capture.ranks import model_is_sharded, process_group, record_together
from weightlapse.capture.recorder import Backpressure, Recorder
from weightlapse.capture.resuming import cannot_be_written, go_on, is_there, present_weights, recorded_names
from weightlapse.capture.schedule import Schedule, schedule
from weightlapse.capture.schedule import every as all_steps
from weightlapse.errors import InvalidArgument, suggesting
from weightlapse.store.mirror import Mirror
from weightlapse.store.ranks import rank_folder
from weightlapse.store.remote import is_url
from weightlapse.store.repair import withdraw
from weightlapse.store.writer import Fsync, Writer

_SPOKEN_OF = 32_000_000  # bytes of a frame from which on it is said before training what it costs


@suggesting
def watch(
    model: Any,
    path: str | os.PathLike[str],
    *,
    optimizer: Any = None,
    every: int | Schedule | Iterable[int] = 1,
    tensors: str | Iterable[str] = "*",
    streams: Iterable[str] = ("weights",),
    tolerance: float | str | None = None,
    wiring: Any = None,
    example: Any = None,
    meta: Mapping[str, Any] | None = None,
    memory: int | str = "auto",
    overwrite: bool = False,
    resume: bool = False,
    resume_at: int | Literal["weights"] | None = None,
    first_step: int | None = None,
    missing: Missing = "refuse",
    frame: Literal["step", "iteration"] | None = None,
    every_rank: bool = False,
    mirror: str | None = None,
    compact: Literal["auto", "live", "after", "never"] = "auto",
    backpressure: Backpressure = "block",
    fsync: Fsync = "close",
    pack: bool | Literal["auto"] = "auto",
    keep: Literal["all", "around_events"] = "all",
) -> Recorder | NullRecorder | LateRecorder:
    """Record ``model`` into the folder ``path`` while it trains. The network as it is now becomes frame 0.

    - ``optimizer``: the object that your loop steps (a torch optimizer, a wrapper around one, SAM, an engine), or several: every update becomes
      a frame without any other change to the loop. Without one, call ``rec.step()`` after each update (``rec.step(params)`` for models that are
      plain arrays).
    - ``model``: a torch.nn.Module, a keras.Model, a JAX pytree, an nnx.Module, a scikit-learn estimator, a mapping of names to arrays; or a mapping or list
      of models, which become one recording with the keys before the names ("g.0.weight").
    - ``frame``: "step" makes every update a frame. "iteration" makes one of all given optimizers together: the first iteration is over when each
      has stepped, the one that stepped last then ends every iteration; ``rec.step()`` ends one earlier. Of scikit-learn estimators, whose own
      count is by iterations (the default), "step" records every batch within them.
    - ``every``: record every n-th step, or a schedule: ``wl.every(10)``, ``wl.log_spaced(per_decade=50)``, ``wl.at([0, 1, 2, 5, 10])``.
    - ``tensors``: a glob or a list of globs over tensor names. ``streams``: any of "weights", "buffers", "gradients" (as they are before
      the update; NaN where there is none) and "optimizer" (zeros before the first update); the last two under the names
      ``gradients:NAME`` and ``optimizer:NAME.KEY``.
    - ``tolerance``: None stores every bit; a number allows that error, as a fraction of a tensor's standard deviation; "film" is 1e-2.
    - ``wiring``: a :class:`weightlapse.Wiring` (or its text spec) to store with the recording. ``example``: an example input, or a tuple of
      them, from which the wiring is traced instead.
    - ``meta``: your own facts; scalars and small arrays of any library, paths and dates become what JSON can hold. ``memory``: bytes that the recorder may use;
      "auto" is room for some frames, at most a quarter of what is free, and always enough for the model.
    - ``overwrite`` replaces a recording at ``path``, never anything else. ``resume`` goes on with it, after its last step; where there is none yet
      it begins one. With ``resume_at=N`` (or ``first_step=N``) the model has had N steps: the frames after N become a branch, which stays
      readable. ``resume_at="weights"`` goes on after the frame that holds the model's weights. A number beyond the last step is refused, unless
      ``missing="gap"`` says that the steps between are to be noted as missing.
    - ``first_step``: the number of optimizer steps that the model has had already, where that is not 0.
    - ``backpressure``: what happens when the disk cannot keep up: "block" lets training wait, "stretch" leaves steps out and notes each gap.
    - ``compact``: when the log is compressed: "live" beside training, in a thread of the lowest priority; "after", when the recording is
      closed; "auto": live while a core is free, the rest at the end (of weights on a GPU all of it, because the one thread that queues the work of the GPU would
      wait for the interpreter: before that only where the log takes more than a quarter of what is free on the disk); "never", for ``weightlapse compact``
      to do it later.
    - ``pack``: whether frames are made small where the weights are, before they cross the bus: "auto" on a GPU where a tolerance is given (10 to 20 times
      less to copy and to write), True also exact ones and on the CPU, False never.
    - ``keep``: "all" records what ``every`` says. "around_events" takes every step into memory and writes those of ``every`` (where that is 1, every hundredth)
      and all steps around an event: up to 64 before it, as far as half of ``memory`` holds them, and 32 after. An event is a logged loss (a scalar with "loss" in
      its name) that goes beyond twice the largest of the 20 before it, or to a level of three times its start and its best, or is no number; or NaN or Inf among
      weights that had none; or another layout. Steps that are left out are no gaps; the numbers logged with them are left out too. ``flush()`` keeps all that is held.
    - ``mirror``: an fsspec URL ("s3://bucket/run") that gets a copy: finished blocks while recording, the rest at the end.
    - ``fsync``: when to force bytes to the device: "close", "flush" or "never" (a power cut may then lose the end; a crash never does).

    On several processes of torch.distributed every rank calls ``watch`` with the same path. A replicated model (DDP) is recorded once, by rank
    0, and the other ranks get a recorder that does nothing; ``every_rank=True`` lets each rank record, each to a path of its own. Of a model
    that is sharded (FSDP2, DTensor) each rank records its own part, and reading merges them.

    What the recorder has to say (updates that it does not see, frames that change nothing, parameters that no optimizer holds, ...) it says once, as a
    :class:`RecorderWarning` and in the recording, where ``weightlapse info`` and ``doctor`` show it.

    A refused call leaves no folder behind. Raises :class:`InvalidArgument` or :class:`CannotRecord` with the reason.

    >>> import numpy as np, tempfile, weightlapse as wl
    >>> weights = {"W": np.zeros((2, 2))}
    >>> with wl.watch(weights, tempfile.mkdtemp()) as rec:
    ...     for k in range(3):
    ...         weights["W"] += 1
    ...         rec.step(weights, loss=1 / (k + 1))
    >>> rec.frames
    4
    """
    if os.environ.get("WEIGHTLAPSE_MODE") == "off":
        return NullRecorder(path)
    if is_url(path):
        raise InvalidArgument(
            f"{path}: recordings are written to a local folder (copy it elsewhere when it is done; load() reads URLs)"
        )
    check_objects(model, path)
    when = schedule(every)
    bound = check_tolerance(tolerance)
    budget = check_memory(memory)
    check_choice("backpressure", backpressure, "block", "stretch")
    check_choice("compact", compact, "auto", "live", "after", "never")
    check_choice("fsync", fsync, "close", "flush", "never")
    if pack != "auto" and not isinstance(pack, bool):
        raise InvalidArgument(f"pack={pack!r}: choose 'auto', True or False")
    check_choice("missing", missing, "refuse", "gap")
    check_choice("keep", keep, "all", "around_events")
    check_switches(overwrite=overwrite, resume=resume, every_rank=every_rank)
    own = check_meta(meta)
    if mirror is not None and not isinstance(mirror, str):
        raise InvalidArgument(f"mirror={mirror!r:.80}: give an fsspec URL as text, such as 's3://bucket/run'")
    at = _resumed_at(overwrite, resume, resume_at, first_step)
    selection = Selection(tensors, streams)
    steps = find_steps(model, None if optimizer is None else _listed(optimizer), frame)
    if frame == "iteration" and "gradients" in selection.streams and len(_listed(optimizer)) > 1:
        raise InvalidArgument(
            "frame='iteration' is one frame after several updates, each with gradients of its own: record them with frame='step'"
        )
    rank, count = process_group()
    sharded = count > 1 and model_is_sharded(model)
    keeping = check_keep(keep, pack=pack, sharded=sharded)
    when = sparse_schedule(when) if keeping else when
    if rank > 0 and not sharded and not every_rank:
        return NullRecorder(path)
    if sharded and example is not None:
        raise InvalidArgument(
            "example= cannot be traced through a sharded model: trace before sharding and pass wiring="
        )

    def record(where: Path, given: Any = None, step: int = 0) -> Recorder:
        source = find_source(
            model, selection, getattr(steps, "leaves", ()), rank if sharded else 0, followed=optimizer is not None
        )
        refuse_strangers(source, steps, model)
        if resume and is_there(where):
            source.adopt(recorded_names(where))
        first = model if source.takes_params else given
        layout = layout_of(source.arrays(first))
        packing = packing_of(False if keeping else pack, bound, where if resume and is_there(where) else None)
        ring = make_ring(source, layout, budget // 2 if keeping and budget else budget, packing)
        spec = _wiring_spec(model, wiring, example)
        facts = {"framework": source.framework, "model": type(model).__name__, "every": repr(when), **own}
        if keeping:
            facts["keep"] = keep
            frames_held(layout.row_nbytes, budget)  # refuses before anything is made
        if sharded:
            facts["distributed"] = {"rank": rank, "world_size": count, "shards": source.shards}
        copy = None if mirror is None else Mirror(_rank_url(mirror, rank, sharded), replace=overwrite or resume)
        if (overwrite or resume) and (open_here := open_at(where)) is not None:
            open_here.mark("closed, because the same path is watched anew")
            open_here.close()
        for_all = budget or ring_memory(ring, layout.row_nbytes)
        spared = compact == "auto" and source.on_device
        settings: dict[str, Any] = {"memory": for_all, "compact": "spare" if spared else compact, "fsync": fsync}
        with cannot_be_written(where):
            if resume and is_there(where):
                present = lambda: present_weights(source, layout, ring, first)  # noqa: E731
                writer, point = go_on(where, layout, facts, at, present, when, missing, settings)
            else:
                point = ResumePoint(at if isinstance(at, int) else step, new=True, take=True)
                writer = Writer.create(
                    where,
                    layout,
                    meta=facts,
                    tolerance=bound,
                    overwrite=overwrite,
                    packed=not ring.has_rows,
                    **settings,
                )
        rec = Recorder(
            source,
            KeepingWriter(writer, when, budget) if keeping else writer,
            ring,
            all_steps(1) if keeping else when,
            memory=budget,
            packing=packing,
            backpressure=backpressure,
            last_step=point.step,
            held=first if source.takes_params else None,
        )
        try:
            if spec is not None:
                writer.set_wiring(spec)
            if (look := find_look(source, example, lambda: rec.follows or steps)) is not None:
                rec.observe(look)
            rec.begin(point, first)
            rec.attach(steps)
        except BaseException:
            rec.close(last_frame=False)
            if point.new:
                withdraw(where, writer.identity)
            raise
        if why := source.unpacked:
            rec.mark(f"frames are not packed: {why}")
        if copy is not None:
            rec.mirror(copy)
        if layout.row_nbytes >= _SPOKEN_OF and rank == 0:
            device = source.device
            plan, name = importlib.import_module("weightlapse.capture.plan"), type(model).__name__
            if ring.has_rows:
                rec.announce(lambda: plan.before_training(where, name, layout, bound, when, for_all, device))
            else:  # how small frames become is only known when they are
                rec.announce(lambda: plan.packed_before_training(name, layout, device))
        return rec

    target = Path(os.path.abspath(path))  # the program may change its folder while it trains
    if getattr(steps, "late", False):
        if is_there(target) and not (overwrite or resume):
            raise InvalidArgument(
                f"{target} already holds a recording or other files: choose another path, overwrite=True or resume=True"
            )
        late = LateRecorder(target, lambda given, step: record(target, given, step), type(model).__name__)
        steps.wait_for_weights(late.start)  # type: ignore[union-attr]
        return late
    rec = record_together(target, rank, count, record, keep=resume) if sharded else record(target)
    rec.tell()
    return rec


def _listed(optimizer: Any) -> list[Any]:
    return list(optimizer) if isinstance(optimizer, (list, tuple)) else [optimizer]


def _resumed_at(overwrite: bool, resume: bool, resume_at: Any, first_step: Any) -> int | Literal["weights"] | None:
    """How many steps the model has had, as far as the arguments say so."""
    if overwrite and resume:
        raise InvalidArgument("overwrite=True replaces the recording and resume=True goes on with it: choose one")
    if resume_at is not None and not resume:
        raise InvalidArgument(
            f"resume_at={resume_at!r} goes with resume=True, which goes on with the recording at the path"
        )
    at: int | Literal["weights"] | None = "weights"
    if not (isinstance(resume_at, str) and resume_at == "weights"):
        at = check_step("resume_at", resume_at)
    first = check_step("first_step", first_step)
    if at is not None and first is not None and at != first:
        raise InvalidArgument(
            f"resume_at={at} and first_step={first} say two things: give the number of steps that the model has had once"
        )
    return first if at is None else at


def _rank_url(mirror: str, rank: int, sharded: bool) -> str:
    return f"{mirror.rstrip('/')}/{rank_folder(rank)}" if sharded and rank > 0 else mirror


def _wiring_spec(model: Any, wiring: Any, example: Any) -> str | None:
    """The text of the wiring to store, traced from ``example`` when none is given."""
    if wiring is not None:
        return check_wiring(wiring)
    if example is None:
        return None
    trace = importlib.import_module("weightlapse.wiring.trace").trace
    return str(trace(model, example).to_spec())

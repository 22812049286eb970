"""``weightlapse.watch``: from now on every update of this model is a frame of a recording."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from weightlapse.adapters.find import find_source
from weightlapse.adapters.source import Selection, left_out_text
from weightlapse.capture.arguments import check_memory, check_tolerance
from weightlapse.capture.layouts import layout_of
from weightlapse.capture.null import NullRecorder
from weightlapse.capture.ranks import model_is_sharded, process_group, record_together
from weightlapse.capture.recorder import Backpressure, Recorder
from weightlapse.capture.ring import Ring
from weightlapse.capture.schedule import Schedule, schedule
from weightlapse.errors import CannotRecord, InvalidArgument
from weightlapse.store.mirror import Mirror
from weightlapse.store.ranks import rank_folder
from weightlapse.store.reader import Store
from weightlapse.store.remote import is_url
from weightlapse.store.writer import Compact, Fsync, Writer


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
    memory: int | str = "256MB",
    overwrite: bool = False,
    resume: bool = False,
    first_step: int = 0,
    every_rank: bool = False,
    mirror: str | None = None,
    compact: Compact = "auto",
    backpressure: Backpressure = "block",
    fsync: Fsync = "close",
) -> Recorder | NullRecorder:
    """Record ``model`` into the folder ``path`` while it trains. The network as it is now becomes frame 0.

    - ``optimizer``: a torch optimizer, or several: every optimizer step becomes a frame without any other change to the loop. Without
      one, call ``rec.step()`` after each update (``rec.step(params)`` for models that are plain arrays).
    - ``every``: record every n-th step, or a schedule: ``wl.every(10)``, ``wl.log_spaced(per_decade=50)``, ``wl.at([0, 1, 2, 5, 10])``.
    - ``tensors``: a glob or a list of globs over tensor names. ``streams``: any of "weights", "buffers", "gradients" (as they are before
      the update; NaN where there is none) and "optimizer" (zeros before the first update); the last two under the names
      ``gradients:NAME`` and ``optimizer:NAME.KEY``.
    - ``tolerance``: None stores every bit; a number allows that error, as a fraction of a tensor's standard deviation; "film" is 1e-2.
    - ``wiring``: a :class:`weightlapse.Wiring` (or its text spec) to store with the recording. ``example``: an example input, or a tuple of
      them, from which the wiring is traced instead.
    - ``meta``: your own facts, as JSON. ``memory``: bytes that the recorder may use.
    - ``overwrite`` replaces a recording at ``path``, never anything else. ``resume`` goes on with it, after its last step.
    - ``first_step``: the number of optimizer steps that the model has had already, where that is not 0.
    - ``backpressure``: what happens when the disk cannot keep up: "block" lets training wait, "stretch" leaves steps out and notes each gap.
    - ``compact``: when the log is compressed: "live" beside training, in a thread of the lowest priority; "after", when the recording is
      closed; "auto": live while a core is free, the rest at the end; "never", for ``weightlapse compact`` to do it later.
    - ``mirror``: an fsspec URL ("s3://bucket/run") that gets a copy: finished blocks while recording, the rest at the end.
    - ``fsync``: when to force bytes to the device: "close", "flush" or "never" (a power cut may then lose the end; a crash never does).

    On several processes of torch.distributed every rank calls ``watch`` with the same path. A replicated model (DDP) is recorded once, by rank
    0, and the other ranks get a recorder that does nothing; ``every_rank=True`` lets each rank record, each to a path of its own. Of a model
    that is sharded (FSDP2, DTensor) each rank records its own part, and reading merges them.

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
    when = schedule(every)
    bound = check_tolerance(tolerance)
    budget = check_memory(memory)
    if backpressure not in ("block", "stretch"):
        raise InvalidArgument(
            f"backpressure={backpressure!r}: 'block' lets training wait for the disk, 'stretch' leaves steps out"
        )
    if compact not in ("auto", "live", "after", "never"):
        raise InvalidArgument(f"compact={compact!r}: choose 'auto', 'live', 'after' or 'never'")
    if overwrite and resume:
        raise InvalidArgument("overwrite=True replaces the recording and resume=True goes on with it: choose one")
    if isinstance(first_step, bool) or not isinstance(first_step, int) or first_step < 0:
        raise InvalidArgument(f"first_step={first_step!r}: give the number of optimizer steps made so far, 0 or more")
    selection = Selection(tensors, streams)
    optimizers = _optimizers(optimizer)
    rank, count = process_group()
    sharded = count > 1 and model_is_sharded(model)
    if rank > 0 and not sharded and not every_rank:
        return NullRecorder(path)
    if sharded and example is not None:
        raise InvalidArgument(
            "example= cannot be traced through a sharded model: trace before sharding and pass wiring="
        )

    said: list[str] = []

    def record(where: Path) -> Recorder:
        source = find_source(model, selection, optimizers, rank if sharded else 0)
        first = model if source.takes_params else None
        layout = layout_of(source.arrays(first))
        ring = Ring(layout.row_nbytes, budget, getattr(source, "allocate", None))
        spec = _wiring_spec(model, wiring, example)
        facts = {"framework": source.framework, "model": type(model).__name__, "every": repr(when), **(meta or {})}
        if sharded:
            facts["distributed"] = {"rank": rank, "world_size": count, "shards": source.shards}
        copy = None if mirror is None else Mirror(_rank_url(mirror, rank, sharded), replace=overwrite or resume)
        writer, last = _open(where, layout, facts, bound, budget, overwrite, resume, compact, fsync)
        if spec is not None:
            writer.set_wiring(spec)
        if source.left_out:
            writer.event(max(last, first_step), f"[left_out] {left_out_text(source.left_out)}")
            said.append(left_out_text(source.left_out))
        rec = Recorder(source, writer, ring, when, memory=budget, backpressure=backpressure, first_step=last)
        if last < 0:
            rec.first_frame(first, first_step)
        if copy is not None:
            rec.mirror(copy)
        return rec

    target = Path(os.path.abspath(path))  # the program may change its folder while it trains
    rec = record_together(target, rank, count, record, keep=resume) if sharded else record(target)
    rec.path = Path(path)
    rec.attach(optimizers, gradients="gradients" in selection.streams)
    for text in said:
        warnings.warn(f"weightlapse, recording to {path}: {text}", stacklevel=2)
    return rec


def _rank_url(mirror: str, rank: int, sharded: bool) -> str:
    return f"{mirror.rstrip('/')}/{rank_folder(rank)}" if sharded and rank > 0 else mirror


def _open(
    path: Path,
    layout: Any,
    facts: dict[str, Any],
    bound: float | None,
    budget: int,
    overwrite: bool,
    resume: bool,
    compact: Compact,
    fsync: Fsync,
) -> tuple[Writer, int]:
    """The writer, and the last step that is already there (-1 in a new recording)."""
    try:
        if resume and path.exists() and (not path.is_dir() or any(path.iterdir())):
            writer = Writer.resume(path, layout, memory=budget, compact=compact, fsync=fsync)
            before = Store.open(path)
            if before.meta.get("distributed") != facts.get("distributed"):
                writer.close()
                raise InvalidArgument(
                    f"{path} was recorded with other processes or shards: it cannot be resumed with these"
                )
            last = int(before.steps.max(initial=-1))
            writer.event(max(last, 0), "the recording was resumed")
            return writer, last
        writer = Writer.create(
            path, layout, meta=facts, tolerance=bound, memory=budget, compact=compact, overwrite=overwrite, fsync=fsync
        )
        return writer, -1
    except OSError as error:
        raise CannotRecord(f"{path} cannot be written ({error.strerror or error}): choose another path") from error


def _optimizers(optimizer: Any) -> list[Any]:
    """The torch optimizers among what was given, taken out of wrappers that only pass steps on."""
    if optimizer is None:
        return []
    given = list(optimizer) if isinstance(optimizer, (list, tuple)) else [optimizer]
    found = []
    for each in given:
        while not hasattr(each, "register_step_post_hook") and hasattr(each, "optimizer"):
            each = each.optimizer
        if not hasattr(each, "register_step_post_hook"):
            raise InvalidArgument(
                f"optimizer={type(each).__name__}: a torch.optim.Optimizer (or a list of them) is needed; "
                "in other frameworks call rec.step() after each update or use the framework's WatchCallback"
            )
        found.append(each)
    return found


def _wiring_spec(model: Any, wiring: Any, example: Any) -> str | None:
    """The text of the wiring to store, traced from ``example`` when none is given."""
    if wiring is not None:
        return wiring if isinstance(wiring, str) else str(wiring.to_spec())
    if example is None:
        return None
    trace = importlib.import_module("weightlapse.wiring.trace").trace
    return str(trace(model, example).to_spec())

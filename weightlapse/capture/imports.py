"""A series of checkpoints that somebody already has, as a recording."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from weightlapse.adapters.checkpoints import file_or_folder, read_checkpoint, step_of
from weightlapse.capture.recorder import Recorder
from weightlapse.capture.watch import watch
from weightlapse.errors import InvalidArgument
from weightlapse.progress import track


def import_checkpoints(
    files: Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    steps: Sequence[int] | None = None,
    streams: Iterable[str] = ("weights", "buffers"),
    **arguments: Any,
) -> int:
    """Write the checkpoints ``files`` as a recording to ``path``, a frame each; returns the number of frames.

    ``steps`` gives the optimizer step of each file; by default it is the last number in its name. Further ``arguments`` are those of
    :func:`weightlapse.watch`. A file that cannot be read without running code in it is refused, before anything is written.

    >>> import numpy as np, tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for step in (10, 20):
    ...     np.savez(folder / f"model-{step}.npz", w=np.full(3, step))
    >>> import_checkpoints(sorted(folder.glob("*.npz")), folder / "run")
    2
    """
    if not files:
        raise InvalidArgument("no checkpoint files were given: there is nothing to import")
    if steps is not None and len(steps) != len(files):
        raise InvalidArgument(f"{len(steps)} steps were given for {len(files)} files: each file needs one")
    for file in files:
        file_or_folder(Path(file))  # what is not there is said before anything about its name
    numbers = [int(step) for step in steps] if steps is not None else [step_of(Path(file)) for file in files]
    if any(abs(number) >= 1 << 62 for number in numbers):
        raise InvalidArgument(f"{max(numbers, key=abs)} is no step number: they are kept as 64-bit integers")
    ordered = sorted(zip(numbers, map(Path, files)))
    for (step, file), (after, other) in itertools.pairwise(ordered):
        if step == after:
            raise InvalidArgument(f"{file} and {other} both say step {step}: give the steps with --steps (steps=[...])")
    for _, file in track(ordered, "checking"):
        read_checkpoint(file)  # refuses before anything is written; the data itself is mostly mapped, not read
    step, file = ordered[0]
    rec = watch(
        read_checkpoint(file), path, streams=streams, first_step=step, **{"meta": {"imported": len(files)}, **arguments}
    )
    if not isinstance(rec, Recorder):
        return 0
    rec.strict = True  # nobody trains here: what fails must be said
    with rec:
        for step, file in track(ordered[1:], "importing"):
            rec.step(read_checkpoint(file), step=step)
    return rec.frames

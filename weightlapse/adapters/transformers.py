"""Hugging Face ``Trainer``: a callback, on as many processes as there are.

Frames come from hooks on the optimizer, so accumulated batches and steps that a gradient scaler skips count as what they are.
"""

from __future__ import annotations

import os
from typing import Any

from transformers import TrainerCallback

from weightlapse.adapters.trainer import Watching


class WatchCallback(Watching, TrainerCallback):
    """Record ``trainer.train()``: a frame per optimizer step, the network before its first update included.

    Takes the path (by default ``recording`` in the trainer's output folder) and the keyword arguments of :func:`weightlapse.watch`. Steps bear the
    numbers of the trainer's ``global_step``. What the trainer logs becomes scalars. When the trainer goes on from a checkpoint and the path holds
    a recording, that one goes on at the step of the checkpoint; what was recorded after it becomes a branch.

    ``Trainer(..., callbacks=[WatchCallback("run")])``
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, **watch: Any) -> None:
        self.prepare(path, watch)
        self._state: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begins the recording, or goes on with the one at the path where training goes on from a checkpoint."""
        self._state = state
        path = self.path if self.path is not None else os.path.join(args.output_dir, "recording")
        goes_on = state.global_step > 0 and os.path.exists(os.path.join(path, "manifest.json"))
        more = {"resume": True} if goes_on and not self.keywords.get("overwrite") else {}
        self.begin(kwargs["model"], path, lambda: int(self._state.global_step), optimizer=kwargs["optimizer"], **more)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keeps the trainer's state, whose ``global_step`` numbers the frames."""
        self._state = state

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Numbers that the trainer logs become scalars of the newest frame; texts are left out."""
        if self.active:
            self.recorder.log(**{k: float(v) for k, v in (logs or {}).items() if isinstance(v, (int, float))})

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Lets all frames so far reach the store, when a checkpoint is written."""
        if self.recorder is not None:
            self.recorder.flush()  # what leads up to a checkpoint is there when training goes on from it

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Closes the recording; the best checkpoint, which the trainer may load now, is no step and makes no frame."""
        self.end()

"""Hugging Face ``Trainer``: a callback, on as many processes as there are.

Frames come from hooks on the optimizer, so accumulated batches and steps that a gradient scaler skips count as what they are.
"""

from __future__ import annotations

import os
from typing import Any

from transformers import TrainerCallback


class WatchCallback(TrainerCallback):
    """Record ``trainer.train()``: a frame per optimizer step, the network before its first update included.

    Takes the path (by default ``recording`` in the trainer's output folder) and the keyword arguments of :func:`weightlapse.watch`. What the
    trainer logs becomes scalars.

    ``Trainer(..., callbacks=[WatchCallback("run")])``
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, **watch: Any) -> None:
        self.path = path
        self.recorder: Any = None
        self._watch = watch

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        import weightlapse  # the public face: callbacks are users of it

        path = self.path if self.path is not None else os.path.join(args.output_dir, "recording")
        optimizer = kwargs["optimizer"]
        self.recorder = weightlapse.watch(
            kwargs["model"], path, optimizer=getattr(optimizer, "optimizer", optimizer), **self._watch
        )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.recorder is not None and self.recorder.active:
            self.recorder.log(**{k: float(v) for k, v in (logs or {}).items() if isinstance(v, (int, float))})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.recorder is not None:
            self.recorder.close()

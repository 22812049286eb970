"""Lightning: a callback for ``Trainer``.

Frames come from hooks on the trainer's optimizers, so accumulated batches, skipped steps and manual optimization count as what they are.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
    from pytorch_lightning import Callback  # the same library under its older name
else:
    from lightning.pytorch import Callback  # type: ignore[no-redef]


class WatchCallback(Callback):
    """Record ``trainer.fit``: a frame per optimizer step, the network before its first update included.

    Takes the path and the keyword arguments of :func:`weightlapse.watch`. The training loss of every step and the metrics of every validation
    become scalars. When a fit is resumed from a checkpoint of a fit with this callback, the recording goes on too.

    ``Trainer(callbacks=[WatchCallback("run")])``
    """

    def __init__(self, path: str | os.PathLike[str], **watch: Any) -> None:
        self.path = path
        self.recorder: Any = None
        self._watch = watch
        self._frames = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        import weightlapse  # the public face: callbacks are users of it

        self.recorder = weightlapse.watch(pl_module, self.path, optimizer=trainer.optimizers, **self._watch)
        self._frames = self.recorder.frames

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        recorder = self.recorder
        if recorder is None or not recorder.active or recorder.frames == self._frames:
            return
        self._frames = recorder.frames
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if loss is not None:
            recorder.log(loss=loss)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if self.recorder is not None and self.recorder.active and not trainer.sanity_checking:
            self.recorder.log(**trainer.callback_metrics)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self.recorder is not None:
            self.recorder.mark(f"training ended with {type(exception).__name__}: {exception}")
            self.recorder.close()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self.recorder is not None:
            self.recorder.close()

    def state_dict(self) -> dict[str, Any]:
        return {"path": str(self.path)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict.get("path") == str(self.path) and not self._watch.get("overwrite"):
            self._watch["resume"] = True

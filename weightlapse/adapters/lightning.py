"""Lightning: a callback for ``Trainer``.

Frames come from hooks on the trainer's optimizers, so accumulated batches, skipped steps and manual optimization count as what they are.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from weightlapse.adapters.trainer import Watching

if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
    from pytorch_lightning import Callback  # the same library under its older name
else:
    from lightning.pytorch import Callback  # type: ignore[no-redef]


class WatchCallback(Watching, Callback):
    """Record ``trainer.fit``: a frame per optimizer step, the network before its first update included.

    Takes the path and the keyword arguments of :func:`weightlapse.watch`. Steps bear the numbers of ``trainer.global_step``. The training loss of
    every step and the metrics of every validation become scalars. When a fit is resumed from a checkpoint of a fit with this callback, the
    recording goes on at the step of the checkpoint; what was recorded after it becomes a branch.

    ``Trainer(callbacks=[WatchCallback("run")])``
    """

    def __init__(self, path: str | os.PathLike[str], **watch: Any) -> None:
        self.prepare(path, watch)
        self._frames = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begins the recording, of the module with the trainer's optimizers; a copy of a callback that has recorded begins none."""
        # counted when the optimizer has returned: during a step, the number before it
        if self.begin(pl_module, self.path, lambda: int(trainer.global_step), optimizer=trainer.optimizers):
            self._frames = self.recorder.frames

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """The loss becomes a scalar of the newest frame, where the batch made one."""
        if not self.active or self.recorder.frames == self._frames:
            return
        self._frames = self.recorder.frames
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if loss is not None:
            self.recorder.log(loss=loss)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """All metrics of the trainer become scalars; not those of the sanity check before training."""
        if self.active and not trainer.sanity_checking:
            self.recorder.log(**trainer.callback_metrics)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Lets all frames so far reach the store, before the checkpoint is written."""
        if self.recorder is not None:
            self.recorder.flush()  # what leads up to a checkpoint is there when training goes on from it

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Marks the exception in the recording and closes it."""
        self.fail(exception)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Closes the recording, without a frame of what is put into the module after the last step."""
        self.end()

    def state_dict(self) -> dict[str, Any]:
        """The path, which goes into the trainer's checkpoints."""
        return {"path": str(self.path)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lets the recording be resumed, where the checkpoint is of a fit that recorded to the same path and nothing says overwrite=True."""
        if state_dict.get("path") == str(self.path) and not self.keywords.get("overwrite"):
            self.keywords["resume"] = True

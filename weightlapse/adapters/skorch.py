"""skorch: a callback for ``NeuralNet`` and its kin."""

from __future__ import annotations

import os
from typing import Any

from skorch.callbacks import Callback


class WatchCallback(Callback):
    """Record ``net.fit``: a frame per optimizer step, the network before its first update included.

    Takes the path and the keyword arguments of :func:`weightlapse.watch`. The loss of every training batch becomes a scalar.

    ``NeuralNetClassifier(Module, callbacks=[WatchCallback("run")])``
    """

    def __init__(self, path: str | os.PathLike[str], **watch: Any) -> None:
        self.path = path
        self.recorder: Any = None
        self.watch = watch

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        import weightlapse  # the public face: callbacks are users of it

        self.recorder = weightlapse.watch(net.module_, self.path, optimizer=net.optimizer_, **self.watch)

    def on_batch_end(self, net: Any, batch: Any = None, training: bool = False, **kwargs: Any) -> None:
        if training and self.recorder is not None and self.recorder.active and "loss" in kwargs:
            self.recorder.log(loss=kwargs["loss"])

    def on_train_end(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        if self.recorder is not None:
            self.recorder.close()

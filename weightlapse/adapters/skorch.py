"""skorch: a callback for ``NeuralNet`` and its kin."""

from __future__ import annotations

import os
from typing import Any

from skorch.callbacks import Callback

from weightlapse.adapters.trainer import Watching


class WatchCallback(Watching, Callback):
    """Record ``net.fit``: a frame per optimizer step, the network before its first update included.

    Takes the path and the keyword arguments of :func:`weightlapse.watch`. The loss of every training batch becomes a scalar. A net that was fitted
    may be copied, pickled and cloned: the copies of its callback record nothing, and say so when they are fitted.

    ``NeuralNetClassifier(Module, callbacks=[WatchCallback("run")])``
    """

    def __init__(self, path: str | os.PathLike[str], **watch: Any) -> None:
        recorder = watch.pop("recorder", None)  # a copy that records nothing, among the parameters of a clone
        self.prepare(path, watch)
        self.recorder = recorder

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """For ``clone``: the arguments it was made with, and, of one that has recorded, its recorder, so that the clone records nothing over it."""
        used = {} if self.recorder is None else {"recorder": self.recorder}
        return {"path": self.path, **self.keywords, **used}

    def set_params(self, **params: Any) -> WatchCallback:
        """Makes it anew with these arguments, the others kept."""
        self.__init__(**{**self.get_params(), **params})  # type: ignore[misc]
        return self

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Begins the recording, of the net's module with its optimizer."""
        self.begin(net.module_, self.path, optimizer=net.optimizer_)

    def on_batch_end(self, net: Any, batch: Any = None, training: bool = False, **kwargs: Any) -> None:
        """The loss of a training batch becomes a scalar of the newest frame; validation batches are left out."""
        if training and self.active and "loss" in kwargs:
            self.recorder.log(loss=kwargs["loss"])

    def on_train_end(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Closes the recording, without a frame of what is put into the module after the last step."""
        self.end()

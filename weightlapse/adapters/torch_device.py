"""Copies from a CUDA device that neither the training nor the device waits for.

After an update the weights stay as they are through the whole next forward and backward pass. The copies of a frame therefore run on a
stream of their own, beside those, into pinned memory:

    start    the side stream waits for the work queued so far (the update), then copies; the training thread goes on at once
    settle   before the next update: the stream that will run it waits, on the device, until the copies are through
    finished the recorder's thread waits for the event of a frame before it writes the frame

There is one side stream for each device that holds weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def pinned(shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Page-locked memory as an array: what a device can copy into without waiting."""
    return torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()


def _copy(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    torch._foreach_copy_(list(targets), list(sources), non_blocking=True)


class SideStreams:
    """Copies frames beside the training. ``backend`` has ``Stream``, ``Event``, ``stream`` and ``current_stream`` as ``torch.cuda`` has."""

    def __init__(self, backend: Any = torch.cuda, copy: Callable[..., None] = _copy) -> None:
        self._backend = backend
        self._copy = copy
        self._streams: dict[Any, Any] = {}
        self._running: dict[Any, Any] = {}  # device -> the event after the last copies started there

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor lies on a device."""
        return tensor.device.type != "cpu"

    def start(self, targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> Callable[[], None]:
        """Begin to copy; returns a function that waits until all is copied. Call :meth:`settle` before the sources change."""
        by_device: dict[Any, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
        for target, source in zip(targets, sources):
            mine = by_device.setdefault(source.device, ([], []))
            mine[0].append(target)
            mine[1].append(source)
        events = []
        for device, (there, here) in by_device.items():
            if device.type == "cpu":
                self._copy(there, here)
                continue
            side = self._streams.get(device)
            if side is None:
                side = self._streams[device] = self._backend.Stream(device)
            side.wait_stream(self._backend.current_stream(device))
            with self._backend.stream(side):
                self._copy(there, here)
                event = self._backend.Event()
                event.record(side)
            self._running[device] = event
            events.append(event)

        def finished() -> None:
            for event in events:
                event.synchronize()

        return finished

    def settle(self) -> None:
        """Let whatever is queued next wait, on the device, for the copies that are under way."""
        for device, event in self._running.items():
            self._backend.current_stream(device).wait_event(event)
        self._running.clear()

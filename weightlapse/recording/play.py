"""Frame after frame, read ahead by a second thread."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.store.layout import Layout, TensorSpec, widen
from weightlapse.store.ranks import RankedStore
from weightlapse.store.reader import Store

Frame = tuple[int, dict[str, NDArray[Any]]]


def play(store: Store | RankedStore, frames: range, names: list[str] | None, memory: int) -> Iterator[Frame]:
    """See :meth:`Recording.play`."""
    stretches = _stretches(store, frames, names, memory)
    with ThreadPoolExecutor(1, thread_name_prefix="weightlapse-play") as reader:
        coming = None
        for stretch in stretches:
            ready, coming = coming, reader.submit(_read, store, stretch, names)
            if ready is not None:
                yield from _told(store, *ready.result())
                del ready
        if coming is not None:
            yield from _told(store, *coming.result())


def _specs(layout: Layout, names: list[str] | None) -> list[TensorSpec]:
    """The wanted tensors of a layout; a name that it does not have is found, and told, when it is read."""
    if names is None:
        return [t for t in layout.tensors if t.stream in ("weights", "buffers")]
    return [layout.tensors[layout.index[name]] for name in names if name in layout.index]


def _stretches(store: Store | RankedStore, frames: range, names: list[str] | None, memory: int) -> Iterator[range]:
    """The frames cut where the layout changes and where half of the memory is full: the other half is being read."""
    at = 0
    while at < len(frames):
        layout = store.layout_at(frames[at])
        nbytes = sum(spec.nbytes for spec in _specs(layout, names))
        stop = min(at + max(memory // 2 // max(nbytes, 1), 1), len(frames))
        same = 1
        while at + same < stop and store.layout_at(frames[at + same]) is layout:
            same += 1
        yield frames[at : at + same]
        at += same


def _read(
    store: Store | RankedStore, frames: range, names: list[str] | None
) -> tuple[range, list[TensorSpec], list[Any]]:
    layout = store.layout_at(frames[0])
    numbers = np.array(frames, np.int64)
    if names is not None and any(name not in layout.index for name in names):
        store.read_frame(frames[0], names)  # raises, naming the nearest
    specs = _specs(layout, names)
    if len(frames) == 1:
        read = store.read_frame(frames[0], [spec.name for spec in specs])
        return frames, specs, [read[spec.name][None] for spec in specs]
    return frames, specs, [store.read(spec.name, numbers) for spec in specs]


def _told(store: Store | RankedStore, frames: range, specs: list[TensorSpec], values: list[Any]) -> Iterator[Frame]:
    for i, frame in enumerate(frames):
        state = {}
        for spec, own in zip(specs, values):
            state[spec.name] = widen(own[i], spec.dtype)
            state.update(dict.fromkeys(spec.aliases, state[spec.name]))
        yield int(store.steps[frame]), state

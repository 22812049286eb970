"""How the tensors of a module get into a row, each the way that is cheapest for it:

- those in CPU memory together, with one call for all (:class:`GatherBytes`); large ones by torch, which uses its threads;
- those that are not laid out in C order each by NumPy;
- those on a device by copies that run beside the training (``torch_device.py``).

All of it is prepared once; a frame makes no view but of what is large, or on a device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from weightlapse.adapters.rows import ALIGNMENT, GatherBytes, Rows
from weightlapse.adapters.torch_device import SideStreams
from weightlapse.adapters.torch_kinds import as_array, over, plain

_LARGE = 1 << 18  # bytes from which on a call for one tensor alone is little beside its copy


class Copies:
    """Copies ``tensors``, which stay where they are, into rows, where they are the first arrays."""

    def __init__(
        self, rows: Rows, tensors: Sequence[torch.Tensor], names: Sequence[str], side: SideStreams | None
    ) -> None:
        """``tensors``: detached and local; ``names``: their recorded dtypes; ``side``: what copies from devices, where it is needed."""
        self._side = side
        small: list[int] = []
        self._large = []  # (places in all rows, bytes)
        self._strided = []  # (places in all rows, array)
        self._far: list[int] = []  # numbers of those that are not in CPU memory
        for i, tensor in enumerate(tensors):
            if side.holds(tensor) if side is not None else tensor.device.type != "cpu":
                self._far.append(i)
            elif not tensor.is_contiguous():
                self._strided.append((rows.column(i), as_array(tensor)))
            elif rows.nbytes(i) >= _LARGE:
                flat = torch.from_numpy(as_array(tensor).reshape(-1).view(np.uint8))
                self._large.append((rows.bytes_of(i), flat))
            else:
                small.append(i)
        self._gather = GatherBytes(rows, small, [as_array(tensors[i]) for i in small]) if small else None
        if self._far:
            self._rows, self._names = rows, names
            self._sources = [_bytes_of(tensors[i]) for i in self._far]
            sizes = [rows.nbytes(i) for i in range(len(rows.offsets))]
            self._pieces = [n for size in sizes for n in (size, -size % ALIGNMENT)]  # each with what pads it

    def copy(self, slot: int) -> Callable[[], None] | None:
        """Copy all values into the row ``slot``; what is returned waits until those from a device are there."""
        if self._gather is not None:
            self._gather.copy(slot)
        for places, flat in self._large:
            torch.from_numpy(places[slot]).copy_(flat)
        for places, array in self._strided:
            np.copyto(places[slot, ...], array)
        if not self._far:
            return None
        pieces = torch.from_numpy(self._rows.memory[slot]).split_with_sizes(self._pieces)
        targets = [
            pieces[2 * i] if flat else over(self._rows.column(i)[slot, ...], self._names[i])
            for i, (_, flat) in zip(self._far, self._sources)
        ]
        sources = [source for source, _ in self._sources]
        if self._side is not None:
            return self._side.start(targets, sources)
        torch._foreach_copy_(targets, sources)
        return None


def _bytes_of(tensor: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """A tensor as its bytes, where it lies in C order; and whether it does."""
    tensor = plain(tensor)
    return (tensor.view(-1).view(torch.uint8), True) if tensor.is_contiguous() else (tensor, False)

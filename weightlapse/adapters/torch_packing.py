"""Frames made small on the device that holds them, before they cross the bus. ``docs/format.md`` (*Packed frames*) says what comes out.

In plain torch operations, which run on any device; ``torch_packing_triton.py`` does the three passes over all values in one kernel each and gives
the same bytes. Nothing here waits for the device: what a frame takes is known there alone, and comes to the host with its *report*, a few numbers
for each tensor, by which the host chooses the grids of later frames. What must hold for every value is checked on the device, in the same pass:

- with a tolerance a value becomes a grid code; decoded as the reader will, it is within the bound; and the bound is at most tolerance times the
  deviation that the tensor has in this very frame. A tensor of which that is not true, or with a NaN, is exact in this frame;
- numbers are the difference to the frame before, which is kept on the device, or keys: in the first frame of a segment, and of a tensor
  wherever its grid changed.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from weightlapse.adapters.source import ArrayInfo

LANES = 32
GROUP = 32 * LANES
MOST_CODE = 1 << 21  # of a grid code: sums of squares stay whole numbers
_SLAB = 1 << 14  # groups that the plain way works on at a time
_TIGHTER = 0.92  # of the bound: a deviation may shrink by that much before the grid must change
_BAND = (0.96, 1.25)  # times the deviation that a grid was chosen for, within which it stays
_PROBES = 8  # exact tensors of which the deviation is looked at in one frame, at the most
_GRIDDED = {torch.float32: 23, torch.bfloat16: 7}  # bits of the mantissa
_REPORT = 6  # numbers a tensor: 1 on a grid (+ 2: its codes are right), is a key, sum and sum of squares of codes, first word of its widths, of its numbers


def numbers_in(info: ArrayInfo, tensor: torch.Tensor) -> int:
    """How many 32-bit numbers stand for a tensor."""
    size, item = math.prod(info.shape), tensor.element_size()
    return size if item == 2 else -(-size * item // 4)


def words_of(tensor: torch.Tensor) -> torch.Tensor:
    """The bits of a tensor, flat: int16 where its values have two bytes, else int32."""
    flat = tensor.reshape(-1)
    if flat.is_complex():
        flat = torch.view_as_real(flat).reshape(-1)
    if tensor.element_size() == 2:
        return flat.view(torch.int16)
    if flat.element_size() >= 4:
        return flat.view(torch.int32)
    data = flat.view(torch.uint8)
    padded = data.new_zeros(-(-len(data) * data.element_size() // 4) * 4)
    padded[: len(data)] = data
    return padded.view(torch.int32)


def has_room_to_pack(infos: Sequence[ArrayInfo], tensors: Sequence[torch.Tensor], *, slots: int) -> bool:
    """Whether what a :class:`Packer` holds takes no more than half of what is free on the device of these tensors."""
    if tensors[0].device.type != "cuda":
        return True
    groups = sum(-(-numbers_in(info, t) // GROUP) for info, t in zip(infos, tensors))
    return 4 * groups * GROUP * (2 + slots) * 1.1 <= torch.cuda.mem_get_info(tensors[0].device)[0] / 2


def _shares(view: torch.Tensor, tensor: torch.Tensor) -> bool:
    return view.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()


def _width(largest: torch.Tensor) -> torch.Tensor:
    """Bits of non-negative int64 numbers below 2**32."""
    return torch.frexp(largest.double())[1].long()


class Plain:
    """The passes over all values in plain torch operations. ``ends`` (tensors + 1,): where the groups of each tensor begin; ``sizes``: its numbers."""

    def __init__(
        self,
        sources: Sequence[torch.Tensor],
        ends: NDArray[np.int64],
        sizes: NDArray[np.int64],
        tolerance: float | None,
    ) -> None:
        self._device = sources[0].device
        self._tolerance = tolerance
        self._places = [(int(a) * GROUP, int(n)) for a, n in zip(ends, sizes)]
        self._tensor_of = torch.from_numpy(np.repeat(np.arange(len(sizes)), np.diff(ends))).to(self._device)
        self._ends = torch.from_numpy(ends).to(self._device)
        self._counts = torch.from_numpy(np.maximum(sizes, 1)).to(self._device)
        self._outer_words = -(-int(ends[-1]) // 4)
        self._stat_ends, self._size_ends = (
            torch.zeros((rows, int(ends[-1]) + 1), dtype=torch.int64, device=self._device) for rows in (3, 2)
        )
        self._values: torch.Tensor | None = None
        self.bind(sources)

    def bind(self, sources: Sequence[torch.Tensor]) -> None:
        """From now on pack these tensors, of the same shapes and dtypes."""
        self._sources = list(sources)
        self._words: dict[tuple[int, ...], tuple[list[torch.Tensor | None], dict[int, list[torch.Tensor]]]] = {}
        self._short = [t.dtype == torch.bfloat16 for t in sources]
        self._short_groups = (
            torch.tensor(self._short, device=self._device)[self._tensor_of] if any(self._short) else None
        )

    def pack(
        self,
        now: torch.Tensor,
        last: torch.Tensor,
        out: torch.Tensor,
        grid: torch.Tensor,
        keys: torch.Tensor,
        was_gridded: torch.Tensor,
        gridded: Sequence[bool],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Numbers into ``now`` and their words into ``out``; returns which tensors are on their grid (bool), and the report."""
        count = len(keys)
        totals = torch.zeros((3, count), dtype=torch.int64, device=self._device)
        on_grid = torch.zeros(count, dtype=torch.bool, device=self._device)
        if any(gridded):
            totals = self._by_tensor(self.codes(now, grid, gridded))
            on_grid = self._is_right(totals, grid)
            self.bits(now, on_grid)
        self.exact(now, gridded)
        key = keys | (on_grid != was_gridded)
        widths, sizes = self.widths(now, last, key)
        outer_ends, ends = self._ends_of(sizes)
        out[: self._outer_words].view(torch.uint8)[: len(now)] = sizes[0].to(torch.uint8)
        self.write(
            now,
            last,
            key,
            widths,
            sizes[0],
            outer_ends + self._outer_words,
            ends + outer_ends[-1] + self._outer_words,
            out,
        )
        state = on_grid.long() + 2 * ((totals[0] == 0) & (grid[:, 0] > 0)).long()
        first = self._ends[:-1]
        table = torch.stack([state, key.long(), totals[1], totals[2], outer_ends[first], ends[first]], 1)
        return on_grid, torch.cat([table.view(-1), outer_ends[-1:], ends[-1:]])

    def _ends_of(self, sizes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for row, ends in zip(sizes, self._size_ends):
            torch.cumsum(row, 0, out=ends[1:])
        return self._size_ends[0], self._size_ends[1]

    def _by_tensor(self, stats: torch.Tensor) -> torch.Tensor:
        for row, ends in zip(stats, self._stat_ends):
            torch.cumsum(row, 0, out=ends[1:])
        ends = self._stat_ends[:, self._ends]
        return ends[:, 1:] - ends[:, :-1]

    def _is_right(self, totals: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        """Which tensors are on their grid: every value within the bound, and the bound within tolerance x the deviation of this frame."""
        assert self._tolerance is not None
        step, _, bound = grid.unbind(1)
        mean = totals[1] / self._counts
        variance = totals[2] / self._counts - mean * mean
        deviation = (
            step * variance.clamp(min=0.0).sqrt()
        )  # of what is stored: that of the true values is less by a bound at the most
        return (totals[0] == 0) & (step > 0) & (bound <= self._tolerance * (deviation - bound))

    def exact(self, now: torch.Tensor, skip: Sequence[bool]) -> None:
        """The bits of all tensors but those in ``skip`` into ``now`` (groups, 1024)."""
        chosen = tuple(i for i, left in enumerate(skip) if not left)
        if not chosen:
            return
        if chosen not in self._words:
            views = [words_of(self._sources[i]) for i in chosen]
            kept = [v if _shares(v, self._sources[i]) else None for v, i in zip(views, chosen)]
            self._words[chosen] = (kept, {})
        views_of, targets_of = self._words[chosen]
        targets = targets_of.get(now.data_ptr())
        if targets is None:
            flat = now.view(-1)
            targets = targets_of[now.data_ptr()] = [flat[a : a + n] for a, n in (self._places[i] for i in chosen)]
        torch._foreach_copy_(
            targets, [words_of(self._sources[i]) if v is None else v for v, i in zip(views_of, chosen)]
        )

    def codes(self, now: torch.Tensor, grid: torch.Tensor, gridded: Sequence[bool]) -> torch.Tensor:
        """Grid codes into ``now``; returns int64 (3, groups): values that have none, sum and sum of squares of the codes.

        ``grid`` (tensors, 3) float64: step, 1 / step and bound; of step 0 no value has a code.
        """
        if self._values is None:
            self._values = torch.zeros(now.shape, dtype=torch.float32, device=self._device)
        flat = self._values.view(-1)
        chosen = [i for i, wanted in enumerate(gridded) if wanted]
        torch._foreach_copy_(
            [flat[a : a + n] for a, n in (self._places[i] for i in chosen)],
            [self._sources[i].reshape(-1) for i in chosen],
        )
        stats = torch.empty((3, len(now)), dtype=torch.int64, device=self._device)
        for a in range(0, len(now), _SLAB):
            part = slice(a, a + _SLAB)
            step, inverse, bound = grid[self._tensor_of[part]].unsqueeze(1).unbind(2)
            values = self._values[part].double()
            codes = torch.round(values * inverse)
            back = (codes * step).float()
            if self._short_groups is not None:
                short = self._short_groups[part, None]
                back = torch.where(short, back.bfloat16().float(), back)
            good = ((back.double() - values).abs() <= bound) & (codes.abs() < MOST_CODE) & (step > 0)
            codes = torch.where(good, codes, 0.0)
            whole = codes.long()
            stats[0, part] = (~good).sum(1)
            stats[1, part] = whole.sum(1)
            stats[2, part] = (whole * whole).sum(1)
            now[part] = whole.int()
        return stats

    def bits(self, now: torch.Tensor, gridded_now: torch.Tensor) -> None:
        """The bits of the values in place of codes, for the tensors that are not on their grid in this frame; (tensors,) bool."""
        assert self._values is not None
        for a in range(0, len(now), _SLAB):
            part = slice(a, a + _SLAB)
            bits = self._values[part].view(torch.int32)
            if self._short_groups is not None:
                bits = torch.where(self._short_groups[part, None], bits >> 16, bits)
            now[part] = torch.where(gridded_now[self._tensor_of[part], None], now[part], bits)

    def widths(self, now: torch.Tensor, last: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The bits of each block, int32 (groups, 32), and of each group the bits of its widths and their sum, int64 (2, groups).

        ``key`` (tensors,) bool.
        """
        found = torch.empty((len(now), LANES), dtype=torch.int32, device=self._device)
        for a in range(0, len(now), _SLAB):
            part = slice(a, a + _SLAB)
            folded = self._folded(now, last, key, part).long() & 0xFFFFFFFF
            found[part] = _width(folded.view(-1, LANES, LANES).amax(2)).int()
        return found, torch.stack([_width(found.amax(1)), found.sum(1, dtype=torch.int64)])

    def _folded(self, now: torch.Tensor, last: torch.Tensor, key: torch.Tensor, part: slice) -> torch.Tensor:
        added = now[part] - torch.where(key[self._tensor_of[part], None], 0, last[part])
        return (added + added) ^ (added >> 31)

    def write(
        self,
        now: torch.Tensor,
        last: torch.Tensor,
        key: torch.Tensor,
        widths: torch.Tensor,
        outer: torch.Tensor,
        outer_starts: torch.Tensor,
        starts: torch.Tensor,
        out: torch.Tensor,
    ) -> None:
        """All words into ``out``: those of the widths of a group from its ``outer_starts`` on, those of its blocks from its ``starts``.

        The last word of ``out`` is for what is in none.
        """
        write_blocks(widths[:, None, :], outer[:, None], outer_starts[:-1], out)
        for a in range(0, len(now), _SLAB):
            part = slice(a, a + _SLAB)
            folded = self._folded(now, last, key, part).view(-1, LANES, LANES)
            write_blocks(folded, widths[part].long(), starts[:-1][part], out)


def write_blocks(folded: torch.Tensor, widths: torch.Tensor, starts: torch.Tensor, out: torch.Tensor) -> None:
    """Blocks (groups, blocks, 32) int32 of so many bits (groups, blocks) int64 into ``out``, those of a group from its start (groups,) on."""
    lane = torch.arange(LANES, device=folded.device, dtype=torch.int32)
    at = starts[:, None] + widths.cumsum(1) - widths
    most = int(widths.max()) if folded.device.type == "cpu" and widths.numel() else 32
    for k in range(most):
        words = (((folded >> k) & 1) << lane).sum(2, dtype=torch.int32)
        place = torch.where(widths > k, at + k, len(out) - 1)
        out.scatter_(0, place.view(-1), words.view(-1))


@dataclass
class Report:
    """What a frame says of itself: ``numbers`` come from the device, (tensors, 6), then the words of the widths and of the numbers."""

    numbers: NDArray[np.int64]  # (6 tensors + 2,)
    steps: NDArray[np.float64]  # that were planned
    bounds: NDArray[np.float64]
    probed: list[int]
    frame: int

    @property
    def table(self) -> NDArray[np.int64]:
        """int64 (tensors, 6): the numbers of each tensor, a view."""
        return self.numbers[:-2].reshape(-1, _REPORT)

    @property
    def words(self) -> tuple[int, int]:
        """How many words of 32 bits the frame has: of the widths, and of the numbers."""
        return int(self.numbers[-2]), int(self.numbers[-1])


class Packer:
    """Packs one frame after the other of tensors that keep their shapes. Everything is queued on the current stream of their device."""

    def __init__(
        self,
        infos: Sequence[ArrayInfo],
        sources: Sequence[torch.Tensor],
        tolerance: float | None,
        *,
        every: int,
        slots: int,
        compiled: bool | None = None,
    ) -> None:
        """A whole key at least each ``every`` frames; ``slots`` frames may wait on the device. ``compiled``: by Triton (where it is, by default)."""
        self.device = sources[0].device
        self._tolerance, self._every = tolerance, every
        count = len(infos)
        self.sizes = np.array([numbers_in(info, t) for info, t in zip(infos, sources)], np.int64)
        groups = -(-self.sizes // GROUP)
        self.group_ends = np.concatenate([np.zeros(1, np.int64), groups.cumsum()])
        total = int(self.group_ends[-1])
        self.groups, self.outer_words = total, -(-total // 4)
        self.gridded = [tolerance is not None and t.dtype in _GRIDDED and t.numel() > 0 for t in sources]
        self._mantissa = [_GRIDDED.get(t.dtype, 0) for t in sources]
        passes: Any = Plain
        if compiled is None:
            compiled = self.device.type == "cuda" and importlib.util.find_spec("triton") is not None
        if compiled:
            passes = importlib.import_module("weightlapse.adapters.torch_packing_triton").Fused
        self._passes = passes(sources, self.group_ends, self.sizes, tolerance)
        self.compiled = compiled
        self._now, self._last = (torch.zeros((total, GROUP), dtype=torch.int32, device=self.device) for _ in range(2))
        # at the most: every number with all its bits, six words for the widths of a group, and one word for what belongs to none
        self.capacity = self.outer_words + (GROUP + 6) * total
        self.out = [torch.zeros(self.capacity + 1, dtype=torch.int32, device=self.device) for _ in range(slots)]
        self._sources = list(sources)
        self.frame = 0  # frames packed so far
        self._since_key = every
        self._grid: NDArray[np.float64] = np.zeros((count, 3))  # step, 1 / step, bound
        self._chosen_for = np.zeros(count)  # the deviation that the grid was chosen for
        self._largest = np.zeros(count)
        self._changed = np.zeros(count, np.int64)  # the frame from which on the present grid holds
        self._patience = np.ones(count, np.int64)  # frames until an exact tensor is looked at again
        self._look_at = np.zeros(count, np.int64)
        self._keys = np.ones(count, np.bool_)
        self._was_gridded = torch.zeros(count, dtype=torch.bool, device=self.device)
        self._dirty = True  # whether what was sent last is no longer right
        self._sent: tuple[torch.Tensor, torch.Tensor] | None = None  # grid and keys as they are on the device
        if any(self.gridded):
            mine = [i for i, wanted in enumerate(self.gridded) if wanted]
            for i, (deviation, largest) in zip(mine, torch.stack([_spread(sources[i]) for i in mine]).tolist()):
                self._choose(i, deviation, largest)

    def bind(self, sources: Sequence[torch.Tensor]) -> None:
        """The same tensors in other memory."""
        self._sources = list(sources)
        self._passes.bind(sources)

    def forget(self) -> None:
        """The last frame will not be stored: the next one has keys alone."""
        self._since_key = self._every

    # ---- the device ------------------------------------------------------------------------------------------------

    def pack(self, slot: int) -> tuple[torch.Tensor, Report]:
        """Queue the packing of the present values into ``out[slot]``; its report, on the device, and on the host what it does not hold yet.

        The tensors must not change before all that is queued here is done. The words of the frame are ``out[slot][:n]`` with n =
        ``outer_words`` + both counts of words in the report.
        """
        if self._since_key >= self._every:
            self._since_key = 0
            self._keys[:] = True
        self._since_key += 1
        probed = self._due()
        grid, keys = self._tables()
        now, last = self._now, self._last
        self._was_gridded, device_report = self._passes.pack(
            now, last, self.out[slot], grid, keys, self._was_gridded, self.gridded
        )
        self._now, self._last = last, now
        if probed:
            found = torch.stack([_spread(self._sources[i]) for i in probed]).view(-1)
            device_report = torch.cat([device_report, found.view(torch.int64)])
        report = Report(np.empty(0, np.int64), self._grid[:, 0].copy(), self._grid[:, 2].copy(), probed, self.frame)
        self.frame += 1
        self._keys = np.zeros_like(self._keys)
        return device_report, report

    @property
    def most_report(self) -> int:
        """int64 numbers of a report, at the most."""
        return _REPORT * len(self.sizes) + 2 + 2 * _PROBES

    def _tables(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The grids, and the tensors that are keys, on the device; sent again when they changed."""
        if self._sent is None or self._dirty or self._keys.any():
            both = np.concatenate([self._grid, self._keys[:, None]], 1)
            host = torch.from_numpy(both)
            if self.device.type == "cuda":
                host = host.pin_memory()  # kept by the allocator until the copy is done
            sent = host.to(self.device, non_blocking=True)
            self._sent = (sent[:, :3].contiguous(), sent[:, 3] != 0)
            self._dirty = bool(self._keys.any())  # they are keys in this frame only
        return self._sent

    # ---- the host --------------------------------------------------------------------------------------------------

    def take(self, report: Report) -> None:
        """A report has arrived: choose the grids of the frames to come."""
        if not any(self.gridded):
            return
        probes = report.numbers[_REPORT * len(self.sizes) + 2 :].view(np.float64).reshape(-1, 2)
        report.numbers = report.numbers[: _REPORT * len(self.sizes) + 2]
        table = report.table
        counts = np.maximum(self.sizes, 1)
        mean = table[:, 2] / counts
        deviation = report.steps * np.sqrt(np.maximum(table[:, 3] / counts - mean * mean, 0.0))
        current = (self._changed <= report.frame) & (report.steps > 0)
        low, high = self._chosen_for * _BAND[0], self._chosen_for * _BAND[1]
        right = table[:, 0] >= 2
        off = ((deviation < low) | (deviation > high)) | (table[:, 0] & 1 == 0)
        for i in np.flatnonzero(current & right & off).tolist():
            self._choose(i, float(deviation[i]), self._largest[i])
        for i in np.flatnonzero(current & ~right).tolist():  # until it is known what it is like now
            self._choose(i, 0.0, 0.0)
        for i, (spread, largest) in zip(report.probed, probes.tolist()):
            if self._grid[i, 0] == 0:
                self._choose(i, spread, largest)

    def _choose(self, i: int, deviation: float, largest: float) -> None:
        """The grid of tensor ``i`` from the next frame on; none where it has no deviation."""
        assert self._tolerance is not None
        bound = _TIGHTER * self._tolerance * deviation / (1 + self._tolerance)
        step = 0.0
        if math.isfinite(bound) and bound > 0 and math.isfinite(largest) and largest > 0:
            step = 2.0 * (bound - 2.0 ** (math.floor(math.log2(largest + bound)) - self._mantissa[i]))
        if not (step > 0 and largest / step < MOST_CODE / 2):
            step = bound = 0.0
        if step == 0:
            self._patience[i] = min(2 * self._patience[i], 256)
            self._look_at[i] = self.frame + self._patience[i]
        else:
            self._patience[i] = 1
        if step == self._grid[i, 0]:
            return
        self._grid[i] = (step, 1 / step if step else 0.0, bound)
        self._chosen_for[i], self._largest[i] = deviation, largest
        self._changed[i] = self.frame
        self._keys[i] |= step > 0
        self._dirty = True

    def _due(self) -> list[int]:
        """Exact tensors whose deviation is to be looked at in this frame."""
        if not any(self.gridded):
            return []
        due = (self._grid[:, 0] == 0) & (self._look_at <= self.frame) & np.array(self.gridded)
        found = np.flatnonzero(due)[:_PROBES].tolist()
        self._look_at[found] = self.frame + 256  # until the answer is there
        return found


def _spread(tensor: torch.Tensor) -> torch.Tensor:
    """(standard deviation, largest magnitude) as float64; NaN where a value is."""
    values = tensor.reshape(-1).double()
    return torch.stack([values.std(correction=0), values.abs().max()])

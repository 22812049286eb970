"""The passes of ``torch_packing.py`` in Triton: one kernel each over all values of all tensors, the same bytes.

One program for each group of 1024 values. Nothing may be fused (``enable_fp_fusion=False``): a multiplication and an addition are two roundings.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

from weightlapse.adapters.torch_packing import LANES, MOST_CODE, Plain

_NEAREST = (
    6755399441055744.0  # 1.5 x 2^52: added and taken away again, it rounds a float64 to a whole number, ties to even
)


@triton.jit
def _store_widths(numbers, last, key, g, widths, sizes, groups, LANES: tl.constexpr):
    """The bits of each block of the group ``g`` of ``numbers`` (blocks, lanes); ``last`` points to those of the frame before."""
    block, lane = tl.arange(0, LANES), tl.arange(0, LANES)
    added = numbers
    if key == 0:
        added = numbers - tl.load(last + g.to(tl.int64) * (LANES * LANES) + block[:, None] * LANES + lane[None, :])
    folded = (added + added) ^ (added >> 31)
    largest = tl.max(folded.to(tl.uint32, bitcast=True), axis=1)
    width = tl.zeros([LANES], tl.int32)
    for k in tl.static_range(5):  # 16, 8, 4, 2, 1 bits at a time
        more = (largest >> (16 >> k)) != 0
        width += tl.where(more, 16 >> k, 0)
        largest = tl.where(more, largest >> (16 >> k), largest)
    width += (largest != 0).to(tl.int32)
    tl.store(widths + g.to(tl.int64) * LANES + lane, width)
    most = tl.max(width, axis=0)
    outer = tl.zeros([], tl.int64)
    for k in tl.static_range(6):
        outer += ((most >> k) != 0).to(tl.int64)
    tl.store(sizes + g, outer)
    tl.store(sizes + groups + g, tl.sum(width, axis=0).to(tl.int64))


@triton.jit
def _codes(
    pointers, short, counts, ends, tensor_of, grid, keys, was, now, last, stats, widths, sizes, groups,
    LANES: tl.constexpr, MOST: tl.constexpr, NEAREST: tl.constexpr
):  # fmt: skip
    """Grid codes and their bits, as if all tensors were on their grids."""
    g = tl.program_id(0)
    t = tl.load(tensor_of + g)
    step = tl.load(grid + 3 * t)
    block, lane = tl.arange(0, LANES), tl.arange(0, LANES)
    inner = block[:, None] * LANES + lane[None, :]
    if step > 0:
        inverse = tl.load(grid + 3 * t + 1)
        bound = tl.load(grid + 3 * t + 2)
        at = (g - tl.load(ends + t)) * (LANES * LANES) + inner
        inside = at < tl.load(counts + t)
        pointer = tl.load(pointers + t)
        if tl.load(short + t) != 0:
            values = tl.load(pointer.to(tl.pointer_type(tl.bfloat16)) + at, mask=inside, other=0.0).to(tl.float32)
        else:
            values = tl.load(pointer.to(tl.pointer_type(tl.float32)) + at, mask=inside, other=0.0)
        true = values.to(tl.float64)
        code = (true * inverse + NEAREST) - NEAREST
        back = (code * step).to(tl.float32)
        if tl.load(short + t) != 0:
            back = back.to(tl.bfloat16).to(tl.float32)
        good = (tl.abs(back.to(tl.float64) - true) <= bound) & (tl.abs(code) < MOST)
        whole = tl.where(good, code, 0.0).to(tl.int32)
        tl.store(now + g.to(tl.int64) * (LANES * LANES) + inner, whole)
        wide = whole.to(tl.int64)
        tl.store(stats + g, (LANES * LANES - tl.sum(good.to(tl.int32))).to(tl.int64))
        tl.store(stats + groups + g, tl.sum(wide))
        tl.store(stats + 2 * groups + g, tl.sum(wide * wide))
        key = tl.load(keys + t) | (tl.load(was + t) == 0).to(tl.int8)
        _store_widths(whole, last, key, g, widths, sizes, groups, LANES)
    else:
        tl.store(stats + g, 1)
        tl.store(stats + groups + g, 0)
        tl.store(stats + 2 * groups + g, 0)


@triton.jit
def _judge(counts, ends, grid, keys, was, stats, groups, tolerance, totals, on_grid, key, tensors, SIZE: tl.constexpr):
    """For each tensor what ``Plain._by_tensor`` and ``Plain._is_right`` say, and whether it is a key."""
    t = tl.program_id(0)
    first, stop = tl.load(ends + t), tl.load(ends + t + 1)
    lane = tl.arange(0, SIZE)
    bad = tl.zeros([SIZE], tl.int64)
    one = tl.zeros([SIZE], tl.int64)
    two = tl.zeros([SIZE], tl.int64)
    for a in range(0, (stop - first).to(tl.int32), SIZE):
        at = first + a + lane
        bad += tl.load(stats + at, mask=at < stop, other=0)
        one += tl.load(stats + groups + at, mask=at < stop, other=0)
        two += tl.load(stats + 2 * groups + at, mask=at < stop, other=0)
    wrong, total, squares = tl.sum(bad, axis=0), tl.sum(one, axis=0), tl.sum(two, axis=0)
    step, bound = tl.load(grid + 3 * t), tl.load(grid + 3 * t + 2)
    count = tl.load(counts + t).to(tl.float64)
    mean = total.to(tl.float64) / count
    variance = squares.to(tl.float64) / count - mean * mean
    deviation = step * tl.sqrt(tl.where(variance > 0, variance, 0.0))
    right = (wrong == 0) & (step > 0) & (bound <= tl.load(tolerance) * (deviation - bound))
    tl.store(totals + t, wrong)
    tl.store(totals + tensors + t, total)
    tl.store(totals + 2 * tensors + t, squares)
    tl.store(on_grid + t, right.to(tl.int8))
    tl.store(key + t, ((tl.load(keys + t) != 0) | (right != (tl.load(was + t) != 0))).to(tl.int8))


@triton.jit
def _bits(
    pointers,
    short,
    counts,
    ends,
    tensor_of,
    on_grid,
    wanted,
    key,
    now,
    last,
    widths,
    sizes,
    groups,
    LANES: tl.constexpr,
):
    """The bits of what is not on its grid in this frame, those of other dtypes as they are in ``now``; and how many each block has."""
    g = tl.program_id(0)
    t = tl.load(tensor_of + g)
    if tl.load(on_grid + t) == 0:
        block, lane = tl.arange(0, LANES), tl.arange(0, LANES)
        inner = block[:, None] * LANES + lane[None, :]
        here = now + g.to(tl.int64) * (LANES * LANES) + inner
        if tl.load(wanted + t) != 0:
            at = (g - tl.load(ends + t)) * (LANES * LANES) + inner
            inside = at < tl.load(counts + t)
            pointer = tl.load(pointers + t)
            if tl.load(short + t) != 0:
                bits = tl.load(pointer.to(tl.pointer_type(tl.int16)) + at, mask=inside, other=0).to(tl.int32)
            else:
                bits = tl.load(pointer.to(tl.pointer_type(tl.int32)) + at, mask=inside, other=0)
            tl.store(here, bits)
        else:
            bits = tl.load(here)
        _store_widths(bits, last, tl.load(key + t), g, widths, sizes, groups, LANES)


@triton.jit
def _write(now, last, keys, tensor_of, widths, outer_ends, ends, outer_words, groups, out, outers, LANES: tl.constexpr):
    g = tl.program_id(0)
    key = tl.load(keys + tl.load(tensor_of + g))
    block, lane = tl.arange(0, LANES), tl.arange(0, LANES)
    width = tl.load(widths + g.to(tl.int64) * LANES + lane)
    own = tl.load(outer_ends + g)
    bits = (tl.load(outer_ends + g + 1) - own).to(tl.int32)
    tl.store(outers + g, bits.to(tl.uint8))
    for j in range(bits):
        tl.store(out + outer_words + own + j, tl.sum(((width >> j) & 1) << lane, axis=0))
    most = tl.max(width, axis=0)
    if most > 0:
        here = g.to(tl.int64) * (LANES * LANES) + block[:, None] * LANES + lane[None, :]
        added = tl.load(now + here)
        if key == 0:
            added = added - tl.load(last + here)
        folded = (added + added) ^ (added >> 31)
        at = outer_words + tl.load(outer_ends + groups) + tl.load(ends + g) + tl.cumsum(width, axis=0) - width
        for k in range(most):
            word = tl.sum(((folded >> k) & 1) << lane[None, :], axis=1)
            tl.store(out + at + k, word, mask=k < width)


@triton.jit
def _report(ends, grid, totals, on_grid, key, outer_ends, number_ends, groups, tensors, out):
    t = tl.program_id(0)
    right = (tl.load(totals + t) == 0) & (tl.load(grid + 3 * t) > 0)
    first = tl.load(ends + t)
    tl.store(out + 6 * t, tl.load(on_grid + t).to(tl.int64) + 2 * right.to(tl.int64))
    tl.store(out + 6 * t + 1, tl.load(key + t).to(tl.int64))
    tl.store(out + 6 * t + 2, tl.load(totals + tensors + t))
    tl.store(out + 6 * t + 3, tl.load(totals + 2 * tensors + t))
    tl.store(out + 6 * t + 4, tl.load(outer_ends + first))
    tl.store(out + 6 * t + 5, tl.load(number_ends + first))
    if t == 0:
        tl.store(out + 6 * tensors, tl.load(outer_ends + groups))
        tl.store(out + 6 * tensors + 1, tl.load(number_ends + groups))


class Fused(Plain):
    """The same passes. Where a tensor that is to lie on a grid is not in one piece, the plain way does it."""

    def __init__(
        self,
        sources: Sequence[torch.Tensor],
        ends: NDArray[np.int64],
        sizes: NDArray[np.int64],
        tolerance: float | None,
    ) -> None:
        super().__init__(sources, ends, sizes, tolerance)
        groups, count, device = int(ends[-1]), len(sizes), self._device
        self._bound_by = torch.tensor([0.0 if tolerance is None else tolerance], dtype=torch.float64, device=device)
        self._stats = torch.zeros((3, groups), dtype=torch.int64, device=device)
        self._widths = torch.zeros((groups, LANES), dtype=torch.int32, device=device)
        self._sizes = torch.zeros((2, groups), dtype=torch.int64, device=device)
        self._totals = torch.zeros((3, count), dtype=torch.int64, device=device)

    def bind(self, sources: Sequence[torch.Tensor]) -> None:
        """As `Plain.bind`; the table of addresses on the device is made anew with the next frame."""
        super().bind(sources)
        self._table: torch.Tensor | None = None

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
        """As `Plain.pack`, the same bytes; the device does it all, and nothing here waits for it."""
        if any(wanted and not t.is_contiguous() for t, wanted in zip(self._sources, gridded)):
            return super().pack(now, last, out, grid, keys, was_gridded, gridded)
        if self._table is None:
            rows = [[t.data_ptr() for t in self._sources], self._short, gridded]
            self._table = torch.tensor(rows, dtype=torch.int64).to(self._device)
        pointers, short, wanted = self._table
        groups, count, device = len(now), len(keys), self._device
        whose = (pointers, short, self._counts, self._ends, self._tensor_of)
        keys_now, was = keys.view(torch.int8), was_gridded.view(torch.int8)
        on_grid = torch.zeros(count, dtype=torch.bool, device=device)
        key = keys
        if any(gridded):
            measured = (now, last, self._stats, self._widths, self._sizes, groups)
            options: dict[str, Any] = {"MOST": MOST_CODE, "NEAREST": _NEAREST, "enable_fp_fusion": False}
            _codes[(groups,)](*whose, grid, keys_now, was, *measured, LANES=LANES, **options)
            key = torch.empty_like(keys)
            found = (self._totals, on_grid.view(torch.int8), key.view(torch.int8), count)
            judged = (self._counts, self._ends, grid, keys_now, was, self._stats, groups, self._bound_by)
            _judge[(count,)](*judged, *found, SIZE=4096, enable_fp_fusion=False, num_warps=8)
        self.exact(now, gridded)
        states = (on_grid.view(torch.int8), wanted, key.view(torch.int8))
        _bits[(groups,)](*whose, *states, now, last, self._widths, self._sizes, groups, LANES=LANES)
        outer_ends, ends = self._ends_of(self._sizes)
        placed = (
            self._tensor_of,
            self._widths,
            outer_ends,
            ends,
            self._outer_words,
            groups,
            out,
            out.view(torch.uint8),
        )
        _write[(groups,)](now, last, states[2], *placed, LANES=LANES)
        report = torch.empty(6 * count + 2, dtype=torch.int64, device=device)
        _report[(count,)](self._ends, grid, self._totals, states[0], states[2], outer_ends, ends, groups, count, report)
        return on_grid, report

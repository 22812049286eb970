"""The passes of ``torch_packing.py`` in Triton: one kernel each over all values of all tensors, the same bytes.

One program for each group of 1024 values. Nothing may be fused (``enable_fp_fusion=False``): a multiplication and an addition are two roundings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton  # type: ignore[import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,unused-ignore]

from weightlapse.adapters.torch_packing import GROUP, LANES, MOST_CODE, Plain

_NEAREST = (
    6755399441055744.0  # 1.5 x 2^52: added and taken away again, it rounds a float64 to a whole number, ties to even
)


@triton.jit
def _codes(pointers, short, sizes, firsts, tensor_of, grid, now, stats, groups, SIZE: tl.constexpr, MOST: tl.constexpr, NEAREST: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip
    g = tl.program_id(0)
    t = tl.load(tensor_of + g)
    step = tl.load(grid + 3 * t)
    lane = tl.arange(0, SIZE)
    if step > 0:
        inverse = tl.load(grid + 3 * t + 1)
        bound = tl.load(grid + 3 * t + 2)
        at = (g - tl.load(firsts + t)) * SIZE + lane
        inside = at < tl.load(sizes + t)
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
        tl.store(now + g.to(tl.int64) * SIZE + lane, whole)
        wide = whole.to(tl.int64)
        tl.store(stats + g, SIZE - tl.sum(good.to(tl.int64), axis=0))
        tl.store(stats + groups + g, tl.sum(wide, axis=0))
        tl.store(stats + 2 * groups + g, tl.sum(wide * wide, axis=0))
    else:
        tl.store(stats + g, 1)
        tl.store(stats + groups + g, 0)
        tl.store(stats + 2 * groups + g, 0)


@triton.jit
def _bits(pointers, short, sizes, firsts, tensor_of, gridded, wanted, now, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    g = tl.program_id(0)
    t = tl.load(tensor_of + g)
    if (tl.load(gridded + t) == 0) & (tl.load(wanted + t) != 0):
        lane = tl.arange(0, SIZE)
        at = (g - tl.load(firsts + t)) * SIZE + lane
        inside = at < tl.load(sizes + t)
        pointer = tl.load(pointers + t)
        if tl.load(short + t) != 0:
            bits = tl.load(pointer.to(tl.pointer_type(tl.int16)) + at, mask=inside, other=0).to(tl.int32)
        else:
            bits = tl.load(pointer.to(tl.pointer_type(tl.int32)) + at, mask=inside, other=0)
        tl.store(now + g.to(tl.int64) * SIZE + lane, bits)


@triton.jit
def _folded(now, last, key, g, LANES: tl.constexpr):  # type: ignore[no-untyped-def]
    block, lane = tl.arange(0, LANES), tl.arange(0, LANES)
    at = g.to(tl.int64) * (LANES * LANES) + block[:, None] * LANES + lane[None, :]
    added = tl.load(now + at)
    if key == 0:
        added = added - tl.load(last + at)
    return (added + added) ^ (added >> 31)


@triton.jit
def _widths(now, last, keys, tensor_of, widths, sizes, groups, LANES: tl.constexpr):  # type: ignore[no-untyped-def]
    g = tl.program_id(0)
    key = tl.load(keys + tl.load(tensor_of + g))
    folded = _folded(now, last, key, g, LANES)
    largest = tl.max(folded.to(tl.uint32, bitcast=True), axis=1)
    width = tl.zeros([LANES], tl.int32)
    for k in tl.static_range(32):
        width += ((largest >> k) != 0).to(tl.int32)
    tl.store(widths + g.to(tl.int64) * LANES + tl.arange(0, LANES), width)
    most = tl.max(width, axis=0)
    outer = tl.zeros([], tl.int64)
    for k in tl.static_range(6):
        outer += ((most >> k) != 0).to(tl.int64)
    tl.store(sizes + g, outer)
    tl.store(sizes + groups + g, tl.sum(width, axis=0).to(tl.int64))


@triton.jit
def _write(now, last, keys, tensor_of, widths, outer, outer_starts, starts, out, LANES: tl.constexpr):  # type: ignore[no-untyped-def]
    g = tl.program_id(0)
    key = tl.load(keys + tl.load(tensor_of + g))
    lane = tl.arange(0, LANES)
    width = tl.load(widths + g.to(tl.int64) * LANES + lane)
    own = tl.load(outer_starts + g)
    bits = tl.load(outer + g).to(tl.int32)
    for j in range(bits):
        tl.store(out + own + j, tl.sum(((width >> j) & 1) << lane, axis=0))
    most = tl.max(width, axis=0)
    if most > 0:
        folded = _folded(now, last, key, g, LANES)
        at = tl.load(starts + g) + tl.cumsum(width, axis=0) - width
        for k in range(most):
            word = tl.sum(((folded >> k) & 1) << lane[None, :], axis=1)
            tl.store(out + at + k, word, mask=k < width)


class Fused(Plain):
    """The same passes; what is not float32 or bfloat16 and contiguous is copied by the plain way."""

    def __init__(
        self, sources: Sequence[torch.Tensor], places: Sequence[tuple[int, int]], tensor_of: torch.Tensor
    ) -> None:
        super().__init__(sources, places, tensor_of)
        device = tensor_of.device
        self._sizes = torch.tensor([n for _, n in places], dtype=torch.int64, device=device)
        self._firsts = torch.tensor([a // GROUP for a, _ in places], dtype=torch.int64, device=device)

    def bind(self, sources: Sequence[torch.Tensor]) -> None:
        super().bind(sources)
        self._pointers: torch.Tensor | None = None

    def _table(self, gridded: Sequence[bool]) -> torch.Tensor | None:
        """Where the gridded tensors lie, and which are bfloat16 and which gridded; None where one is not in one piece."""
        if self._pointers is None:
            if any(not t.is_contiguous() for t, wanted in zip(self._sources, gridded) if wanted):
                return None
            rows = [[t.data_ptr() for t in self._sources], self._short, gridded]
            self._pointers = torch.tensor(rows, dtype=torch.int64).to(self._device)
        return self._pointers

    def codes(self, now: torch.Tensor, grid: torch.Tensor, gridded: Sequence[bool]) -> torch.Tensor:
        table = self._table(gridded)
        self._wanted = gridded
        if table is None:
            return super().codes(now, grid, gridded)
        groups = len(now)
        stats = torch.empty((3, groups), dtype=torch.int64, device=self._device)
        options: dict[str, Any] = {"SIZE": GROUP, "MOST": MOST_CODE, "NEAREST": _NEAREST, "enable_fp_fusion": False}
        places = (table[0], table[1], self._sizes, self._firsts, self._tensor_of)
        _codes[(groups,)](*places, grid, now, stats, groups, **options)
        return stats

    def bits(self, now: torch.Tensor, gridded_now: torch.Tensor) -> None:
        table = self._table(self._wanted)
        if table is None:
            super().bits(now, gridded_now)
            return
        places = (table[0], table[1], self._sizes, self._firsts, self._tensor_of)
        _bits[(len(now),)](*places, gridded_now.to(torch.int8), table[2], now, SIZE=GROUP)

    def widths(self, now: torch.Tensor, last: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        groups = len(now)
        widths = torch.empty((groups, LANES), dtype=torch.int32, device=self._device)
        sizes = torch.empty((2, groups), dtype=torch.int64, device=self._device)
        _widths[(groups,)](now, last, key.to(torch.int8), self._tensor_of, widths, sizes, groups, LANES=LANES)
        return widths, sizes

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
        places = (self._tensor_of, widths, outer, outer_starts, starts, out)
        _write[(len(now),)](now, last, key.to(torch.int8), *places, LANES=LANES)

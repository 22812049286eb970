"""Which weights share a chunk: large tensors are cut between their rows, small ones of one dtype are packed together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

CHUNK = 16384  # values of one step in a chunk, at most
MIN_CHUNK = 512  # below, histograms would outweigh what they save


@dataclass(frozen=True)
class Piece:
    """Elements ``[start, stop)``, in C order, of tensor number ``tensor``."""

    tensor: int
    start: int
    stop: int


def cut(
    tensors: Sequence[tuple[str, int, int]], limit: Callable[[int], int] = lambda _: CHUNK
) -> list[tuple[Piece, ...]]:
    """Chunks for tensors given as (dtype, values, values in a row); every value is in exactly one piece.

    A tensor of more than half a chunk has chunks of its own, of equal length up to whole rows where a row fits; the smaller ones follow each
    other in common chunks, one dtype each.
    """
    chunks: list[tuple[Piece, ...]] = []
    open_chunks: dict[str, list[Piece]] = {}
    for i, (dtype, size, row) in enumerate(tensors):
        if size == 0:
            continue
        most = limit(size)
        if size > most // 2:
            chunks.extend((Piece(i, a, b),) for a, b in _even(size, row, most))
            continue
        mine = open_chunks.setdefault(dtype, [])
        if sum(p.stop - p.start for p in mine) + size > most:
            chunks.append(tuple(mine))
            mine.clear()
        mine.append(Piece(i, 0, size))
    chunks.extend(tuple(mine) for mine in open_chunks.values() if mine)
    return sorted(chunks, key=lambda chunk: (chunk[0].tensor, chunk[0].start))


def _even(size: int, row: int, limit: int) -> list[tuple[int, int]]:
    """Pieces [start, stop) of ``size`` values, at most ``limit`` each and of equal length, whole rows of ``row`` values where one fits."""
    count = -(-size // limit)
    length = -(-size // count)
    if 1 < row <= limit:
        rounded = -(-length // row) * row
        length = rounded if rounded <= limit else limit // row * row
    return [(a, min(a + length, size)) for a in range(0, size, length)]

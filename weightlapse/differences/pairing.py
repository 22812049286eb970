"""Which tensor of B stands for which of A: by name, else by what it holds, else by one prefix that all names gained or lost."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.differences.pair import Pair, same_bytes
from weightlapse.differences.reordering import transposition
from weightlapse.differences.tensor import Doubles, Tensor
from weightlapse.store.layout import widen

_SAMPLE = 1024  # numbers looked at in the first, the middle and the last part of a tensor


def fingerprint(t: Tensor) -> bytes | None:
    """Of parts of the values and the shape; None where all of these values are one (equal constants are no sign of anything)."""
    if t.size < 2:
        return None
    starts = sorted({0, max(0, t.size // 2 - _SAMPLE // 2), max(0, t.size - _SAMPLE)})
    parts = [t.raw(start, min(start + _SAMPLE, t.size)) for start in starts]
    if all((p == parts[0][0]).all() for p in parts):
        return None
    digest = hashlib.blake2b(f"{t.dtype}{t.shape}".encode(), digest_size=16)
    for part in parts:
        digest.update(part.tobytes())
    return digest.digest()


def copies(side: Mapping[str, Tensor]) -> dict[str, str]:
    """For each tensor that holds the same as another one before it (tied, or a copy): that one's name."""
    first: dict[bytes, str] = {}
    found: dict[str, str] = {}
    alone = _could_be_copies(side)
    for name in alone:
        tensor = side[name]
        mark = fingerprint(tensor)
        if mark is None:
            continue
        if mark not in first:
            first[mark] = name
        elif tensor.place == side[first[mark]].place or same_bytes(tensor, side[first[mark]]):
            found[name] = first[mark]
    return found


def _could_be_copies(side: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that share shape and dtype with another; vectors are too often equal by chance of their making."""
    kinds: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
    for name, tensor in side.items():
        if len(tensor.shape) >= 2:
            kinds[tensor.dtype, tensor.shape].append(name)
    return [name for names in kinds.values() if len(names) > 1 for name in names]


def renamed(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, str]:
    """For names of B alone the name of A alone that stands for it: B's name -> A's name."""
    only_a, only_b = [n for n in a if n not in b], [n for n in b if n not in a]
    found: dict[str, str] = {}
    if not only_a or not only_b:
        return found
    groups: dict[tuple[int, int], tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for which, (side, names) in enumerate(((a, only_a), (b, only_b))):
        for name in names:
            groups[_content(side[name])][which].append(name)
    for mine, theirs in groups.values():
        if mine and theirs:
            found |= _by_ending(mine, theirs, told=_distinct(b[theirs[0]]))
    taken = set(found.values())
    rest_a = [n for n in only_a if n not in taken]
    return found | _by_prefix(a, b, rest_a, [n for n in only_b if n not in found])


def _by_ending(mine: list[str], theirs: list[str], *, told: bool) -> dict[str, str]:
    """Names of B -> names of A, of tensors that hold the same: those that share the most parts at their end, the others in order.

    ``told``: whether what they hold tells them from other tensors. If not (all zeros, all ones), names that share nothing are paired
    in order only where there are as many on both sides, and several.
    """
    found: dict[str, str] = {}
    parts = {name: name.split(".") for name in (*mine, *theirs)}
    for length in range(max(map(len, parts.values())), 0, -1):
        waiting: dict[tuple[str, ...], deque[str]] = defaultdict(deque)
        taken = set(found.values())
        for name in mine:
            if name not in taken and len(parts[name]) >= length:
                waiting[tuple(parts[name][-length:])].append(name)
        for name in theirs:
            if name not in found and len(parts[name]) >= length and (same := waiting.get(tuple(parts[name][-length:]))):
                found[name] = same.popleft()
    taken = set(found.values())
    left, right = [n for n in mine if n not in taken], [n for n in theirs if n not in found]
    alike = len(left) == len(right) == 1 and left[0][-1:] == right[0][-1:]
    if told or alike or len(left) == len(right) > 1:
        found |= dict(zip(right, left))
    return found


def _content(t: Tensor) -> tuple[int, int]:
    """The size, and a sum over all values that does not depend on their order."""
    total = 0
    for start in range(0, t.size, 1 << 18):
        values: Doubles = t.values(start, min(start + (1 << 18), t.size)) + 0.0
        with np.errstate(over="ignore"):
            pattern = values.view(np.uint64)
            total += int((pattern * (pattern >> np.uint64(29) | np.uint64(1))).sum())
    return t.size, total % (1 << 64)


def _distinct(t: Tensor) -> bool:
    return fingerprint(t) is not None


def _by_prefix(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], rest_a: list[str], rest_b: list[str]
) -> dict[str, str]:
    """Names that became others by one prefix put before them or taken away, where that pairs tensors of equal shapes."""
    prefixes: Counter[tuple[str, str]] = Counter()
    for side, names, others in (("b", rest_b, set(rest_a)), ("a", rest_a, set(rest_b))):
        for name in names:
            parts = name.split(".")
            prefixes.update(
                (".".join(parts[:i]) + ".", side) for i in range(1, len(parts)) if ".".join(parts[i:]) in others
            )
    best: dict[str, str] = {}
    mine = set(rest_a)
    for (prefix, side), _ in prefixes.most_common(8):
        pairs = {}
        for name in rest_b:
            was = name.removeprefix(prefix) if side == "b" else prefix + name
            if was != name and was in mine and a[was].shape == b[name].shape:
                pairs[name] = was
        if len(pairs) > len(best):
            best = pairs
    return best


def same_values(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one size hold the same values in the same order, whatever their shapes."""
    one, two = (Tensor(t.name, t.dtype, (t.size,), t.source) for t in (a, b))
    return a.size == b.size and all(slab.same.all() for slab in Pair(one, two).slabs())


def against_real(number: Tensor, real: Tensor, a: Tensor) -> tuple[float, int, bool]:
    """Complex numbers against real ones of the same shape, ``a`` being the former side: relative size of the change, how many values
    differ, and whether these only in the imaginary part."""
    squares, size, differ, imaginary = 0.0, 0.0, 0, True
    for start in range(0, real.size, 1 << 17):
        stop = min(start + (1 << 17), real.size)
        parts, values = number.values(2 * start, 2 * stop).reshape(-1, 2), real.values(start, stop)
        off = parts - np.stack([values, np.zeros_like(values)], axis=1)
        off[np.isnan(parts) & np.isnan(values)[:, None]] = 0
        squares += float((off * off).sum())
        size += float((parts * parts).sum() if a is number else (values * values).sum())
        differ += int((off != 0).any(axis=1).sum())
        imaginary &= not off[:, 0].any()
    return (squares / size) ** 0.5 if size else (float("inf") if squares else 0.0), differ, imaginary


def laid_out(a: Tensor, b: Tensor) -> tuple[str, str] | None:
    """How B holds A's values in another shape: kind and words; None where it does not."""
    if same_values(a, b):
        return "reshaped", f"the same values as {_shape(b.shape)} instead of {_shape(a.shape)}"
    if (axes := transposition(a, b)) is not None:
        return (
            "transposed",
            f"transposed: {_shape(b.shape)} instead of {_shape(a.shape)}, the axes of A in the order {list(axes)}",
        )
    return None


def resized(a: Tensor, b: Tensor) -> tuple[str, str]:
    """What two tensors of different shapes share: kind and words."""
    sizes = f"{_shape(b.shape)} instead of {_shape(a.shape)}"
    if len(a.shape) != len(b.shape) or not a.shape:
        return "replaced", f"another tensor: {sizes}"
    common = tuple(min(p, q) for p, q in zip(a.shape, b.shape))
    same = total = 0
    step = max(1, (1 << 18) // max(a.size // max(a.shape[0], 1), b.size // max(b.shape[0], 1), 1))
    for start in range(0, common[0], step):
        stop = min(start + step, common[0])
        inside = tuple(slice(0, n) for n in (stop - start, *common[1:]))
        p, q = (_rows(t, start, stop)[inside] for t in (a, b))
        same += int(((p == q) | (np.isnan(p) & np.isnan(q))).sum())
        total += p.size
    if total and same == total:
        grown = (
            "grew"
            if all(q >= p for p, q in zip(a.shape, b.shape))
            else "shrank"
            if all(q <= p for p, q in zip(a.shape, b.shape))
            else "changed its size"
        )
        return "resized", f"{grown}: {sizes}; what both have is the same"
    return "resized", f"another size: {sizes}; {same:,} of {total:,} values that both have places for are the same"


def _rows(t: Tensor, start: int, stop: int) -> NDArray[Any]:
    """Slices [start, stop) of the first axis as they are stored: float64 does not hold all whole numbers."""
    each = t.size // t.shape[0]
    return widen(t.raw(start * each, stop * each), t.dtype).reshape(stop - start, *t.shape[1:])


def _shape(shape: Iterable[int]) -> str:
    return "×".join(map(str, shape)) or "a scalar"

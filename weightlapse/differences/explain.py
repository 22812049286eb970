"""One pair of tensors explained: the most exact description that every value bears out, else numbers that say what the change looks like."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from weightlapse.differences.factors import Factors, factors_of, shift
from weightlapse.differences.pair import Pair, same_bytes
from weightlapse.differences.quantised import Grid, quantised
from weightlapse.differences.reordering import moved, reordering, same_numbers, transposition
from weightlapse.differences.result import TensorDiff, percent, plural
from weightlapse.differences.rounding import rounding
from weightlapse.differences.spectrum import Spectrum, spectrum
from weightlapse.differences.survey import Survey, lengths_of, survey
from weightlapse.differences.tensor import Tensor, bits
from weightlapse.store.layout import widen

FEW = 0.25  # share of rows or columns up to which a change is said to be in those
SPARSE = 0.02  # share of values
VECTOR = 1 << 22  # elements of a vector up to which the order of each is found
CLEAR = 0.9  # share of the energy that makes a rank clear
GAP = 1.2  # else: the last singular value that counts, over the next one
_SIGN = np.uint64(1 << 63)
_SQUARED = 1e60  # sums of squares between one over this and this may be squared once more
_LOST = 1e200  # one over this: a sum of squares of which float64 may have lost some
LOW = 0.25  # share of the possible rank


def explained(a: Tensor, b: Tensor) -> TensorDiff:
    """What happened between two tensors of one shape."""
    out = TensorDiff(b.name, "identical", b.shape, b.dtype, "identical", relative=0.0, changed_share=0.0, cosine=1.0)
    if a.size == 0 or (a.dtype == b.dtype and (a.source is b.source or same_bytes(a, b))):
        return out
    with np.errstate(all="ignore"):  # what is not finite is counted and spoken of
        pair, seen = _surveyed(a, b)
        if not seen.changed:
            out.kind, out.text = "dtype", f"identical, as {b.dtype} where A has {a.dtype}"
            return out
        out.status = "changed"
        out.relative, out.changed_share, out.changed, out.cosine = seen.relative, seen.share, seen.changed, seen.cosine
        out.rows = seen.row_changed if len(seen.row_changed) else None
        out.columns = seen.column_changed if pair.columns > 1 else None
        out.signs_flipped, out.picture = seen.signs, np.ldexp(seen.picture, -pair.exponent)
        (_single(out, pair, seen) or _exact(out, pair, seen) or _likeness(out, pair, seen))
    if a.dtype != b.dtype:
        out.text += f"; {b.dtype} where A has {a.dtype}"
    return out


def _surveyed(a: Tensor, b: Tensor) -> tuple[Pair, Survey]:
    pair = Pair(a, b)
    seen = survey(pair)
    squares = seen.xx + seen.yy
    if not 1 / _SQUARED < squares < _SQUARED and (squares or seen.changed):
        largest = 0.0
        for slab in pair.slabs():
            for values in (slab.x, slab.y):
                largest = max(largest, float(np.abs(values[np.isfinite(values)]).max(initial=0.0)))
        if largest:
            pair = Pair(a, b, 1 - math.frexp(largest)[1])
            seen = survey(pair)
    if min(seen.xx, seen.yy) < 1 / _LOST:
        seen.apart = lengths_of(pair)
    return pair, seen


def _single(out: TensorDiff, pair: Pair, seen: Survey) -> bool:
    if seen.changed != 1:
        return False
    index = seen.at[0]
    before, after = _written(pair, index)
    at = str([int(i) for i in np.unravel_index(index, pair.a.shape)]) if seen.size > 1 else ""
    out.kind = "single value"
    out.text = f"one value: {at} from {before} to {after}" if at else f"{before} became {after}"
    if at:
        out.rank = 1
    if pair.same_kind and pair.a.dtype != "bool":
        flipped = int(bits(pair.a.raw(index, index + 1))[0]) ^ int(bits(pair.b.raw(index, index + 1))[0])
        if flipped.bit_count() == 1:
            place = flipped.bit_length() - 1
            out.kind = "single bit"
            bit = f"bit {place} ({_part(pair, place)})"
            where = f"one value: {bit} of {at}" if at else f"it: {bit}"
            out.text = f"one bit of {where}, {before} became {after}"
    return True


def _written(pair: Pair, index: int) -> tuple[str, str]:
    """One value before and after: whole numbers in full, others with as many digits as tell them apart."""
    values = [widen(t.raw(index, index + 1), t.dtype)[0].item() for t in (pair.a, pair.b)]
    if all(math.isfinite(v) and v == int(v) for v in values) and not all(isinstance(v, float) for v in values):
        return str(int(values[0])), str(int(values[1]))
    short = [f"{v:.6g}" for v in values]
    if short[0] == short[1]:
        short = [f"{v:.17g}" if pair.mantissa == 52 else f"{v:.9g}" for v in values]
    return short[0], short[1]


def _part(pair: Pair, bit: int) -> str:
    mantissa = pair.a.mantissa
    if mantissa is None:
        return "a whole number"
    if bit == 8 * pair.a.storage.itemsize - 1:
        return "the sign"
    return "the exponent" if bit >= mantissa else "the mantissa"


def _exact(out: TensorDiff, pair: Pair, seen: Survey) -> bool:
    """Explanations that hold for every value, the simplest first."""
    if seen.exact:  # arithmetic in float64 would not be
        if not pair.same_kind and all((slab.x == slab.y).all() for slab in pair.slabs()):
            which = "" if pair.b.mantissa is not None else "what A holds "
            out.kind, out.text = "rounding", f"only rounding: {which}rounded to float64{', in full' if which else ''}"
            return True
        whole = pair.whole and _shifted(out, pair, seen)
        return whole or _pruned(out, pair, seen) or _reordered(out, pair, seen)
    if _signs(out, pair, seen) or _pruned(out, pair, seen):
        return True
    if (words := rounding(Pair(pair.a, pair.b))) is not None:
        out.kind, out.text = "rounding", f"only rounding: {words}"
        return True
    if seen.finite and (found := factors_of(pair, seen)) is not None:
        _scaled(out, pair, found)
        return True
    return _shifted(out, pair, seen) or _reordered(out, pair, seen) or _quantised(out, pair, seen)


def _signs(out: TensorDiff, pair: Pair, seen: Survey) -> bool:
    """Other signs alone; zeros and NaN, whose signs say nothing, are told of by themselves."""
    flipped = zeros_flipped = zeros = other_nan = 0
    row_stays, column_stays = np.zeros(pair.rows, np.int64), np.zeros(pair.columns, np.int64)
    for slab in pair.slabs():
        sign = (slab.x.view(np.uint64) ^ slab.y.view(np.uint64)) == _SIGN
        nan = np.isnan(slab.x) & np.isnan(slab.y)
        numbers = slab.differs & ~nan
        if not (sign | ~numbers).all():
            return False
        zero = slab.x == 0
        flipped += int(numbers.sum())
        zeros_flipped += int((numbers & zero).sum())
        zeros += int(zero.sum())
        other_nan += int((slab.differs & nan).sum())
        stays = ~slab.differs & ~zero & ~nan
        row_stays[slab.start : slab.stop] = stays.sum(axis=1)
        column_stays += stays.sum(axis=0)
    out.kind = "signs"
    if not flipped:
        out.kind, out.text = "not finite", f"only NaN with other bits: {other_nan:,}; every number is the same"
    elif flipped == zeros_flipped:
        out.text = f"only the sign of zeros: {zeros_flipped:,} of {plural(zeros, 'zero')}; every value is the same"
    elif not row_stays.any():
        out.text = "only signs: every value has the other sign"
    else:
        out.text = f"only signs: {_flipped_lines(pair, seen, row_stays, column_stays)}"
    return True


def _flipped_lines(pair: Pair, seen: Survey, row_stays: NDArray[np.int64], column_stays: NDArray[np.int64]) -> str:
    """Where signs flipped: in whole rows or columns, or here and there."""
    if pair.a.is_complex and pair.columns % 2 == 0:
        if not seen.column_changed[::2].any() and not column_stays[1::2].any():
            return "every imaginary part has the other sign (the complex conjugate)"
    elif pair.is_matrix:
        for counts, stays, what in (
            (seen.row_changed, row_stays, "row"),
            (seen.column_changed, column_stays, "column"),
        ):
            if not stays[counts > 0].any():
                lines = _whole_lines(counts)
                return f"{plural(lines, what)} {'has' if lines == 1 else 'have'} the other sign"
    return f"{percent(seen.share)} of the values ({seen.changed:,}) have the other sign"


def _whole_lines(counts: np.ndarray) -> int:  # type: ignore[type-arg]
    return int((counts > 0).sum())


def _pruned(out: TensorDiff, pair: Pair, seen: Survey) -> bool:
    if "bool" in (pair.a.dtype, pair.b.dtype):
        return False
    gone, kept = 0.0, math.inf
    for slab in pair.slabs():
        same = ~slab.differs
        if not (same | ((slab.y == 0) & np.isfinite(slab.x))).all():
            return False
        sizes = np.abs(slab.x)
        gone = max(gone, float(sizes[slab.differs].max(initial=0.0)))
        left = sizes[same & (slab.x != 0)]
        kept = min(kept, float(left.min(initial=math.inf)))
    share = percent(seen.share)
    if not math.isfinite(kept):
        how = "every value was set to zero"
    elif gone <= kept:
        how = f"the smallest {share} were set to zero, those up to {math.ldexp(gone, -pair.exponent):.3g}"
    else:
        how = f"{share} of the values were set to zero, up to {math.ldexp(gone, -pair.exponent):.3g} in size"
        if pair.is_matrix:
            for counts, across, what in (
                (seen.row_changed, pair.columns, "row"),
                (seen.column_changed, pair.rows, "column"),
            ):
                lines = _whole_lines(counts)
                if lines * across * 0.98 <= seen.changed:
                    how = f"{plural(lines, f'whole {what}')} set to zero"
                    break
    out.kind, out.text = "pruned", f"only pruned: {how}"
    return True


def _scaled(out: TensorDiff, pair: Pair, found: Factors) -> None:
    out.factors = (found.rows, found.columns)
    if found.by == "tensor":
        out.kind, out.text = "scale", f"only a scale: every value times {_times(found.rows[0])}"
        return
    told = []
    for what, factors in (("row", found.rows), ("column", found.columns)):
        other = factors[factors != 1]
        if len(other):
            told.append(f"{len(other)} of {plural(len(factors), what)} times {_span(other)}")
    out.kind, out.text = "scale", f"only a scale of {found.by}: {', '.join(told)}"


def _times(factor: float) -> str:
    """A factor with as many digits as tell it from one."""
    return next(text for digits in (6, 10, 17) if float(text := f"{factor:.{digits}g}") != 1 or digits == 17)


def _span(factors: NDArray[np.float64]) -> str:
    low, high = factors.min(), factors.max()
    if f"{low:.4g}" == f"{high:.4g}":
        return _times(low)
    if abs(low - 1) < 1e-3 or abs(high - 1) < 1e-3:
        return f"{_times(low)} to {_times(high)}"
    return f"{low:.4g} to {high:.4g}"


def _shifted(out: TensorDiff, pair: Pair, seen: Survey) -> bool:
    if not seen.finite or (added := shift(pair, seen)) is None:
        return False
    number = f"{added:.0f}" if pair.whole else f"{math.ldexp(added, -pair.exponent):.6g}"
    out.kind, out.text = "shift", f"only a shift: {number} was added to every value"
    return True


def _reordered(out: TensorDiff, pair: Pair, seen: Survey) -> bool:
    if seen.order_free[0] != seen.order_free[1]:
        return False
    short = len(pair.a.shape) > 1 or pair.a.size <= VECTOR
    if short and (orders := reordering(pair.a, pair.b)) is not None:
        _ordered(out, pair, orders)
        return True
    if (axes_found := transposition(pair.a, pair.b)) is not None:
        out.status, out.kind, out.text = (
            "reshaped",
            "transposed",
            f"transposed: the axes of A in the order {list(axes_found)}",
        )
        return True
    if same_numbers(pair.a, pair.b):
        out.kind = "permutation"
        out.text = "only a permutation: the same values in another order, not by rows or columns"
        return True
    return False


def _ordered(out: TensorDiff, pair: Pair, orders: list[NDArray[np.int64]]) -> None:
    out.order = orders
    axes = moved(orders)
    names = {0: "rows", 1: "columns"} if len(pair.a.shape) == 2 else {}
    where = (
        " and ".join(names.get(axis, f"the positions of axis {axis}") for axis in axes)
        if len(pair.a.shape) > 1
        else "values"
    )
    counts = ", ".join(f"{int((orders[i] != np.arange(len(orders[i]))).sum())} of {len(orders[i])}" for i in axes)
    out.kind, out.text = "permutation", f"only a permutation: {where} in another order ({counts} moved)"


def _quantised(out: TensorDiff, pair: Pair, seen: Survey) -> bool:
    found: Grid | None = quantised(pair, seen)
    if found is None:
        return False
    scope = "with one step for the whole tensor" if found.by == "tensor" else f"with a step for each {found.by}"
    if found.even:
        size = 2 * found.steps + 1
        how = f"whole multiples of a step, at most {found.steps} from zero ({max(1, math.ceil(math.log2(size)))} bits), {scope}"
    else:
        within = "in the whole tensor" if found.by == "tensor" else f"in each {found.by}"
        how = f"at most {found.levels} different values {within} ({found.bits} bits)"
    out.kind, out.text = "quantised", f"only quantised and dequantised: {how}; {percent(out.relative)} off"
    return True


def _likeness(out: TensorDiff, pair: Pair, seen: Survey) -> bool:
    """What the change looks like, where nothing explains every value."""
    parts = _spectrum_of(out, pair, seen)
    head = f"changed by {percent(seen.relative)}" if seen.lengths[0] else _nothing(seen)
    lost = tuple(now - before for before, now in zip((seen.nan[0], seen.inf[0]), (seen.nan[1], seen.inf[1])))
    if lost[0] > 0 or lost[1] > 0:
        what = " and ".join(f"{n:,} {word}" for n, word in zip(lost, ("NaN", "infinite values")) if n > 0)
        out.kind, out.text = "not finite", f"{what} that A does not have; {percent(seen.share)} of the values differ"
    elif seen.xx and seen.dd == 0 and min(lost) < 0:
        what = " and ".join(f"{-n:,} {word}" for n, word in zip(lost, ("NaN", "infinite values")) if n < 0)
        out.kind, out.text = "not finite", f"{what} of A are gone; what was finite is the same"
    elif (lines := _few_lines(pair, seen)) is not None:
        out.kind, out.text = lines[0], f"{lines[1]}; {head}"
    elif seen.share <= SPARSE:
        out.kind, out.text = "sparse", f"{plural(seen.changed, 'value')} of {seen.size:,} changed; {head}"
    elif pair.is_matrix and parts is not None and _is_low(pair, parts):
        assert parts.rank is not None
        out.kind = "low rank"
        out.text = (
            f"rank {parts.rank} holds {percent(parts.holds(parts.rank))}: like a LoRA of rank {parts.rank}; {head}"
        )
    elif all(seen.lengths) and abs(seen.cosine) < 4 / math.sqrt(seen.size) and seen.size >= 64:
        out.kind, out.text = (
            "unrelated",
            f"nothing in common with A (cosine {seen.cosine:.2g}): trained anew or replaced; {head}",
        )
    elif _is_noise(pair, seen, parts):
        spread = math.ldexp(math.sqrt(seen.dd / seen.size), -pair.exponent)
        out.kind, out.text = (
            "noise",
            f"like independent noise of standard deviation {spread:.3g}: no direction stands out; {head}",
        )
    else:
        out.kind = "dense"
        out.text = f"{percent(seen.share)} of the values changed, {head.removeprefix('changed ')}"
        if parts is not None:
            out.text += f"; {_spread_of(parts)}"
    return True


def _nothing(seen: Survey) -> str:
    return "A is all zeros" if seen.nan[0] + seen.inf[0] == 0 else "A has no finite values but zeros"


def _spectrum_of(out: TensorDiff, pair: Pair, seen: Survey) -> Spectrum | None:
    parts = spectrum(pair, seen)
    if parts is not None:
        out.rank, out.energy = parts.rank, tuple(float(e) for e in parts.shares)
        out.directions = (parts.left, parts.right)
    return parts


def _is_low(pair: Pair, parts: Spectrum) -> bool:
    most = min(pair.rows, pair.columns)
    if parts.rank is None or not 1 <= parts.rank <= max(LOW * most, 1) or most < 4:
        return False
    held = parts.holds(parts.rank)
    if held < CLEAR and parts.rank < len(
        parts.values
    ):  # rounding holds much: then the directions must stand apart from it
        return held > 0.5 and bool(parts.values[parts.rank - 1] > GAP * parts.values[parts.rank])
    return held > 0.5


def _spread_of(parts: Spectrum) -> str:
    shares = np.cumsum(parts.shares)
    enough = int(np.searchsorted(shares, 0.99)) + 1
    if enough <= len(shares) and shares[-1] >= 0.99:
        return f"{plural(enough, 'direction')} {'holds' if enough == 1 else 'hold'} 99 % of it"
    return f"its first {len(shares)} directions hold {percent(float(shares[-1]))} of it"


def _few_lines(pair: Pair, seen: Survey) -> tuple[str, str] | None:
    if not pair.is_matrix:
        return None
    for counts, what in ((seen.row_changed, "row"), (seen.column_changed, "column")):
        lines = np.flatnonzero(counts)
        if (
            len(counts) >= 4
            and len(lines) <= max(FEW * len(counts), 1)
            and seen.changed >= 0.5 * len(lines) * (seen.size / len(counts))
        ):
            listed = ", ".join(map(str, lines[:6])) + (", ..." if len(lines) > 6 else "")
            return f"{what}s", f"{len(lines)} of {plural(len(counts), what)} changed ({listed})"
    return None


def _is_noise(pair: Pair, seen: Survey, parts: Spectrum | None) -> bool:
    """Zero mean, even tails and rows, unrelated to A, and no singular value above those of independent numbers (Marchenko and Pastur 1967)."""
    if seen.size < 256 or seen.share < 0.9 or not seen.finite or seen.dd == 0:
        return False
    mean, variance = seen.d_sum / seen.size, seen.dd / seen.size
    tails = seen.d_fourth / seen.size / variance**2
    along = (seen.xy - seen.xx) / (seen.lengths[0] * math.sqrt(seen.dd)) if seen.lengths[0] else 0.0
    if (
        abs(mean) > 5 * math.sqrt(variance / seen.size)
        or not 1.5 < tails < 4.5
        or abs(along) > 5 / math.sqrt(seen.size)
    ):
        return False
    if parts is None:
        return True
    m, n = pair.rows, pair.columns
    edge = math.sqrt(variance) * (math.sqrt(m) + math.sqrt(n))
    return bool(min(m, n) >= 8 and parts.values[0] < 1.15 * edge)

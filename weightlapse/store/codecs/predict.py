"""Predictors: what a value will be, from the two before it; what is left over is all that has to be stored.

All arithmetic is on bit patterns modulo 2**bits, so every pattern survives. For floats the difference of two patterns counts the
representable numbers between them as long as their signs agree. ``MOMENTUM`` predicts in the floating-point format itself,

    p = w1 + factor * (w1 - w2)            (three roundings to nearest, never fused)

because weights under momentum (or Adam's first moment) move like that: factor 0.9 beats fitted autoregressions on real training. It is
used only where no intermediate can be NaN, infinite or subnormal (``within_momentum_range``): there every IEEE machine, flushing
subnormals or not, finds the same p.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.store.codecs.patterns import Pattern

NONE, LAST, LINEAR, MOMENTUM, DAMPED, SLOPE = range(6)
#   NONE      r = u                        (a first frame, or values without order in time)
#   LAST      r = u - u1
#   LINEAR    r = u - (2 u1 - u2)
#   MOMENTUM  r = u - bits(w1 + factor (w1 - w2))
#   DAMPED    r = u - (u1 + d - (d >> 4)), d = u1 - u2, arithmetic shift: momentum 15/16 for grid codes
#   SLOPE     r = u - (u1 + (u1 - u3) / 2), division towards zero: less of the grid's own noise; row 2 is as under LAST


@dataclass(frozen=True)
class Predictor:
    """Which rule, and for ``MOMENTUM`` the factor (as float64, rounded to the dtype before use)."""

    rule: int
    factor: float = 0.0


LOSSLESS_CHOICES = (
    Predictor(LAST),
    Predictor(LINEAR),
    Predictor(MOMENTUM, 0.9),
    Predictor(MOMENTUM, 0.95),
    Predictor(MOMENTUM, 1.0),
)
GRID_CHOICES = (Predictor(LAST), Predictor(SLOPE), Predictor(DAMPED), Predictor(LINEAR))


_COMPUTED = ("float32", "float64", "bfloat16")  # dtypes of which MOMENTUM can compute the next value


def rule_is_for(rule: int, pattern: Pattern) -> bool:
    """Whether numbers of this dtype can be under this rule: ``MOMENTUM`` computes with their values, the others with patterns of any kind."""
    return rule <= SLOPE and (rule != MOMENTUM or pattern.name in _COMPUTED)


def float_dtype(pattern: Pattern) -> type[np.float32] | type[np.float64]:
    """The format in which ``MOMENTUM`` computes for this dtype."""
    return np.float64 if pattern.bits == 64 else np.float32


def within_momentum_range(u: NDArray[np.unsignedinteger], pattern: Pattern) -> bool:
    """True where every value is zero or so far from the ends of the format that no prediction can overflow or become subnormal.

    With |w| >= 2**-76 in float32, differences are multiples of 2**-99 and products of 2**-123: nothing nonzero falls below 2**-126.
    """
    if not rule_is_for(MOMENTUM, pattern):
        return False
    exponent_bits = pattern.bits - 1 - pattern.mantissa
    bias = (1 << (exponent_bits - 1)) - 1
    lowest, highest = (-900, 1020) if pattern.bits == 64 else (-76, 124)
    kind = u.dtype.type
    size = u & kind((1 << (pattern.bits - 1)) - 1)
    if size.size == 0 or int(size.max()) >= (highest + bias) << pattern.mantissa:
        return size.size == 0
    size -= kind(1)  # zero wraps round to the top and so passes the next line
    return int(size.min()) >= ((lowest + bias) << pattern.mantissa) - 1


def _momentum_bits(
    w1: NDArray[np.floating], w2: NDArray[np.floating], factor: Any, pattern: Pattern
) -> NDArray[np.unsignedinteger]:
    """The patterns that MOMENTUM predicts after values ``w2`` and then ``w1``, in three roundings (bfloat16: and a fourth)."""
    p = np.subtract(w1, w2)
    p *= factor
    p += w1
    return _narrow(p.view(np.uint32)) if pattern.name == "bfloat16" else p.view(pattern.unsigned)


def _narrow(wide: NDArray[np.uint32]) -> NDArray[np.uint16]:
    """float32 patterns rounded to bfloat16 patterns (nearest, ties to even)."""
    return ((wide + np.uint32(0x7FFF) + ((wide >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def _half(d: NDArray[np.signedinteger]) -> NDArray[np.signedinteger]:
    """d / 2 towards zero."""
    one = d.dtype.type(1)
    return (d + (d < 0)) >> one


def _floats(u: NDArray[np.unsignedinteger], pattern: Pattern) -> NDArray[np.floating]:
    """Patterns as the floats that MOMENTUM computes with: a view, of bfloat16 a copy in float32."""
    if pattern.name == "bfloat16":
        return (u.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return u.view(float_dtype(pattern))


def residuals(u: NDArray[np.unsignedinteger], pattern: Pattern, predictor: Predictor) -> NDArray[np.unsignedinteger]:
    """What is left of patterns ``u`` (T, n), T >= 1, after prediction. Row 0 is u[0]; row 1 is always u[1] - u[0]."""
    r = np.empty_like(u)
    r[0] = u[0]
    rule = predictor.rule
    if rule == NONE:
        r[1:] = u[1:]
        return r
    np.subtract(u[1:], u[:-1], out=r[1:])
    if rule == LINEAR:
        r[2:] -= np.subtract(u[1:-1], u[:-2])
    elif rule == DAMPED:
        d = np.subtract(u[1:-1], u[:-2]).view(pattern.signed)
        r[2:] -= (d - (d >> pattern.signed.type(4))).view(pattern.unsigned)
    elif rule == SLOPE:
        r[3:] -= _half(np.subtract(u[2:-1], u[:-3]).view(pattern.signed)).view(pattern.unsigned)
    elif rule == MOMENTUM and len(u) > 2:
        w = _floats(u, pattern)
        np.subtract(u[2:], _momentum_bits(w[1:-1], w[:-2], float_dtype(pattern)(predictor.factor), pattern), out=r[2:])
    return r


def restore(
    r: NDArray[np.unsignedinteger],
    pattern: Pattern,
    predictor: Predictor,
    start: int = 1,
    factors: NDArray[np.float64] | None = None,
) -> None:
    """Undo :func:`residuals` in place: rows ``start`` and later of ``r`` (T, n), C order, become patterns.

    The rows before ``start`` are patterns already. To go on in the middle give the last three of them: ``start`` = 3. ``factors`` (n,)
    replaces the predictor's own where columns of several chunks are restored together.
    """
    factor = float_dtype(pattern)(predictor.factor) if factors is None else factors.astype(float_dtype(pattern))
    rule, rows = predictor.rule, len(r)
    if rule == NONE:
        return
    for t in range(start, min(rows, 3 if rule == SLOPE else 2 if rule != LAST else rows)):
        np.add(r[t], r[t - 1], out=r[t])
    rest = range(max(start, 3 if rule == SLOPE else 2), rows)
    if rule == LINEAR:
        for t in rest:
            r[t] += r[t - 1]
            r[t] += r[t - 1]
            r[t] -= r[t - 2]
    elif rule == DAMPED:
        signed = r.view(pattern.signed)
        d, s = np.empty_like(signed[0]), np.empty_like(signed[0])
        four = pattern.signed.type(4)
        for t in rest:
            np.subtract(signed[t - 1], signed[t - 2], out=d)
            np.right_shift(d, four, out=s)
            np.subtract(d, s, out=d)
            signed[t] += signed[t - 1]
            signed[t] += d
    elif rule == SLOPE:
        signed = r.view(pattern.signed)
        for t in rest:
            r[t] += r[t - 1]
            signed[t] += _half(signed[t - 1] - signed[t - 3])
    elif rule == MOMENTUM and pattern.name == "bfloat16":
        _restore_bfloat16(r, pattern, factor, rest)
    elif rule == MOMENTUM:
        w = r.view(float_dtype(pattern))
        p = np.empty_like(w[0])
        bits = p.view(r.dtype)
        for t in rest:
            np.subtract(w[t - 1], w[t - 2], out=p)
            np.multiply(p, factor, out=p)
            np.add(p, w[t - 1], out=p)
            np.add(r[t], bits, out=r[t])


def _restore_bfloat16(r: NDArray[np.unsignedinteger], pattern: Pattern, factor: Any, rest: range) -> None:
    """The rows ``rest`` of residuals ``r`` become patterns in place, under MOMENTUM."""
    if not rest:
        return
    before, last = _floats(r[rest[0] - 2], pattern), _floats(r[rest[0] - 1], pattern)
    for t in rest:
        r[t] += _momentum_bits(last, before, factor, pattern)
        before, last = last, _floats(r[t], pattern)


def bit_lengths(r: NDArray[np.unsignedinteger]) -> NDArray[np.int16]:
    """Bits of the magnitude of each residual read as a signed number: 0 for 0, 1 for +-1, 2 for +-2 and +-3 ..."""
    signed = r.view(np.dtype(f"i{r.dtype.itemsize}"))
    # float64 has the bit length as its exponent; rounding 2**53 and above may add one, which a cost estimate does not mind
    return np.frexp(np.abs(signed.astype(np.float64)))[1].astype(np.int16)


def cost(r: NDArray[np.unsignedinteger]) -> float:
    """About how many bits a value of ``r`` takes after entropy coding: entropy of the bit length, plus the bits below the leading one."""
    if r.size == 0:
        return 0.0
    length = bit_lengths(r)
    counts = np.bincount(length.ravel(), minlength=2)
    share = counts[counts > 0] / r.size
    noise = counts * np.maximum(np.arange(len(counts)) - 1, 0)
    sign = 1.0 - counts[0] / r.size
    return float(-(share * np.log2(share)).sum() + noise.sum() / r.size + sign)


def choose(
    u: NDArray[np.unsignedinteger], pattern: Pattern, choices: tuple[Predictor, ...], columns: int = 128
) -> Predictor:
    """The predictor with the cheapest residuals on a sample of columns of ``u`` (T, n)."""
    rows, n = u.shape
    if rows < 3:
        return Predictor(LAST if rows == 2 else NONE)
    at = np.arange(n)
    if n > columns:
        # spread over the tensor, but on no lattice: every 64th weight may belong to one dead input
        gap = n / columns
        at = (np.arange(columns) * gap + np.arange(columns) * 0.618034 % 1.0 * (gap - 1)).astype(np.int64)
    sample = np.take(u, at, axis=1)
    return min(choices, key=lambda c: cost(residuals(sample, pattern, c)[2:]))

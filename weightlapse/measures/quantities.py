"""What can be read off one tensor at one moment: one small function per measure, registered under its name.

Each takes a `Moment` and returns a number or an array; its docstring is its definition.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.measures.spectra import effective_rank, power_law_alpha, singular_values, stable_rank
from weightlapse.measures.stream import Array, Moment, Values, length

Quantity = Callable[[Moment], Any]
QUANTITIES: dict[str, Quantity] = {}
NEEDS_END = {"distance_to_end", "angle_to_end"}
NAN = float("nan")


def quantity(function: Quantity) -> Quantity:
    """Registers a function in ``QUANTITIES`` under its own name, and gives it back as it is."""
    QUANTITIES[function.__name__] = function
    return function


def angle(a: Values, b: Values) -> float:
    """Angle in radians between two weight vectors; NaN when one of them is zero. Accurate for tiny angles (Kahan's formula)."""
    a, b = a.reshape(-1).astype(np.float64), b.reshape(-1).astype(np.float64)
    na, nb = length(a), length(b)
    if na == 0 or nb == 0:
        return NAN
    u, v = a / na, b / nb
    return 2 * float(np.arctan2(length(u - v), length(u + v)))


@quantity
def norm(m: Moment) -> float:
    """Euclidean norm of the tensor (of both parts where it is complex: the root of the sum of |w|^2)."""
    return m.norm


@quantity
def mean(m: Moment) -> float:
    """Mean of the weights; of a complex tensor, of all real and imaginary parts."""
    return float(m.now.mean())


@quantity
def std(m: Moment) -> float:
    """Standard deviation of the weights; of a complex tensor, of all real and imaginary parts."""
    return float(m.now.std())


@quantity
def max_abs(m: Moment) -> float:
    """Largest absolute weight; of a complex tensor the largest modulus."""
    if m.is_complex:
        return float(np.abs(m.weights).max(initial=0.0))
    return float(max(m.raw.max(), -m.raw.min())) if m.raw.size else 0.0


@quantity
def update_norm(m: Moment) -> float:
    """Norm of the change since the frame before; NaN at the first frame."""
    return m.update_norm


@quantity
def update_ratio(m: Moment) -> float:
    """Norm of the change since the frame before over the norm before it; NaN at the first frame and for a zero tensor."""
    if m.before is None:
        return NAN
    before = length(m.before)
    return m.update_norm / before if before else NAN


@quantity
def distance(m: Moment) -> float:
    """Euclidean distance to the first frame."""
    return length(m.raw, m.start)


@quantity
def distance_to_end(m: Moment) -> float:
    """Euclidean distance to the last frame."""
    assert m.end is not None
    return length(m.raw, m.end)


@quantity
def angle_to_start(m: Moment) -> float:
    """Angle in radians to the weights of the first frame."""
    return angle(m.now, m.start)


@quantity
def angle_to_end(m: Moment) -> float:
    """Angle in radians to the weights of the last frame."""
    assert m.end is not None
    return angle(m.now, m.end)


@quantity
def angle_to_previous(m: Moment) -> float:
    """Angle in radians to the weights of the frame before; NaN at the first frame."""
    return NAN if m.before is None else angle(m.now, m.before)


@quantity
def sparsity(m: Moment) -> float:
    """Fraction of weights that are exactly zero."""
    return float(np.mean((m.weights if m.is_complex else m.raw) == 0))


@quantity
def sign_changes(m: Moment) -> float:
    """Fraction of weights whose sign differs from the frame before (zero counts as a sign of its own); 0 at the first frame.

    Of a complex tensor, the fraction of real and imaginary parts.
    """
    return 0.0 if m.before is None else float(np.mean(np.sign(m.raw) != np.sign(m.before)))


@quantity
def entropy(m: Moment) -> float:
    """Entropy of the mass shares |w| / sum|w| over its largest possible value, log of their number: 1 is even, 0 a single weight."""
    share = shares(m.weights)
    if share.size < 2:
        return NAN
    positive = share[share > 0]
    return float(-(positive * np.log(positive)).sum() / np.log(share.size))


@quantity
def gini(m: Moment) -> float:
    """Gini coefficient of |w|: 0 when all weights are equally large, towards 1 when one holds all the mass."""
    size = np.sort(np.abs(m.weights).reshape(-1))
    total = size.sum()
    if total == 0 or size.size == 0:
        return NAN
    rank = np.arange(1, size.size + 1)
    return float((2 * (rank * size).sum() / (size.size * total)) - (size.size + 1) / size.size)


@quantity
def transport(m: Moment) -> float:
    """Share of the weight mass |w| / sum|w| that moved to other weights since the frame before.

    This is the optimal-transport distance between the two mass distributions when every move costs the same (the total
    variation): the places of weights have no order, so there is no shorter or longer way. 0 at the first frame.
    """
    return 0.0 if m.before is None else 0.5 * float(np.abs(shares(m.weights) - shares(m.as_weights(m.before))).sum())


@quantity
def spectrum(m: Moment) -> Array:
    """Singular values of the tensor as a matrix (first axis against all others), largest first; of a vector, its norm."""
    return singular_values(m.weights)


@quantity
def effective_rank_(m: Moment) -> float:
    """Exponential of the entropy of the normalised singular values (Roy and Vetterli 2007)."""
    return effective_rank(singular_values(m.weights))


@quantity
def stable_rank_(m: Moment) -> float:
    """Squared Frobenius norm over squared spectral norm."""
    return stable_rank(singular_values(m.weights))


@quantity
def alpha(m: Moment) -> float:
    """Exponent of the power law that fits the tail of the squared singular values (see `power_law_alpha`); NaN for small matrices."""
    return power_law_alpha(singular_values(m.weights) ** 2)


for _name in ("effective_rank", "stable_rank"):
    QUANTITIES[_name] = QUANTITIES.pop(_name + "_")


def shares(x: NDArray[Any]) -> Array:
    """Mass shares |w| / sum|w| of real or complex weights, flat; NaN where the whole tensor is zero."""
    size: Array = np.abs(x.reshape(-1)).astype(np.float64)
    total = size.sum()
    return size / total if total else np.full(size.shape, NAN)

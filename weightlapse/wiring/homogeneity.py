"""What an elementwise operator does to scaled and to flipped inputs, found by running it on numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from weightlapse.wiring.record import Call

_POWERS = (
    Fraction(1),
    Fraction(2),
    Fraction(-1),
    Fraction(1, 2),
    Fraction(-1, 2),
    Fraction(3),
    Fraction(-2),
    Fraction(4),
    Fraction(0),
)
_MANY = 1024  # numbers that an operator is tried on
Row = list[tuple[Any, Fraction | int]]


@dataclass(frozen=True)
class Relation:
    """``powers``: result exponent = sum of power·input exponent, each free ("free") or all equal ("joint"), "zero" or "any"."""

    scale_mode: str
    scale_powers: tuple[Fraction, ...]
    sign_mode: str
    sign_powers: tuple[int, ...]

    def scale(self, inputs: Sequence[Any], out: Any) -> Iterator[Row]:
        yield from _rows(self.scale_mode, self.scale_powers, inputs, out)

    def sign(self, inputs: Sequence[Any], out: Any) -> Iterator[Row]:
        yield from _rows(self.sign_mode, self.sign_powers, inputs, out)


def _rows(mode: str, powers: Sequence[Fraction | int], inputs: Sequence[Any], out: Any) -> Iterator[Row]:
    if mode == "any":
        return
    if mode == "zero" or not inputs:
        for v in [*inputs, *([out] if out is not None else [])]:
            yield [(v, 1)]
        return
    if mode == "joint":
        for v in inputs[1:]:
            yield [(inputs[0], 1), (v, -1)]
        powers, inputs = powers[:1], inputs[:1]
    if out is not None:
        yield [*zip(inputs, powers, strict=True), (out, -1)]


class Homogeneity:
    """Remembers the answers, for a network repeats the same few operators."""

    _known: ClassVar[dict[Any, Relation]] = {}

    def relation(self, call: Call, scaled: tuple[int, ...]) -> Relation:
        """How the result scales when the inputs with the numbers ``scaled`` do (the others stay)."""
        leaves, spec = tree_flatten((call.args, call.kwargs))
        spots = [i for i, v in enumerate(leaves) if isinstance(v, Tensor)]
        zeros = tuple(id(leaves[i]) in call.zeros for i in spots)
        plain = tuple(v for v in leaves if isinstance(v, (int, float, bool, str, type(None))))
        dtypes = tuple(leaves[i].dtype for i in spots)
        key = (str(call.func), scaled, zeros, plain, dtypes)
        if key not in self._known:
            self._known[key] = _found(call, leaves, spec, spots, scaled, zeros)
        return self._known[key]


def _found(
    call: Call, leaves: list[Any], spec: Any, spots: list[int], scaled: tuple[int, ...], zeros: tuple[bool, ...]
) -> Relation:
    generator = torch.Generator().manual_seed(3)
    values = []
    for i, zero in zip(spots, zeros, strict=True):
        t = leaves[i]
        v = torch.randn(_MANY, generator=generator, dtype=torch.float64)
        if zero:
            v = torch.zeros_like(v)
        if t.dtype == torch.bool:
            v = v > 0
        elif not t.is_floating_point():
            v = (v * 4).to(t.dtype)
        else:  # of every size, for an operator may be linear up to a bound, or zero
            v = v.sign() * 10 ** (10 * torch.rand(_MANY, generator=generator, dtype=torch.float64) - 3)
        values.append(v)

    def run(factors: Sequence[float]) -> Tensor | None:
        moved = list(values)
        for i, f in zip(scaled, factors, strict=True):
            moved[i] = moved[i] * f
        full = list(leaves)
        for i, v in zip(spots, moved, strict=True):
            full[i] = v.clone()
        args, kwargs = tree_unflatten(full, spec)
        if "dtype" in kwargs and kwargs["dtype"] is not None and kwargs["dtype"].is_floating_point:
            kwargs = {**kwargs, "dtype": torch.float64}
        kwargs.pop("memory_format", None)
        try:
            with torch.no_grad():
                out = call.func(*args, **kwargs)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return None  # not to be tried on plain vectors: no symmetry is claimed
        first = next((t for t in tree_flatten(out)[0] if isinstance(t, Tensor)), None)
        return None if first is None or first.is_complex() else first.to(torch.float64)

    n = len(scaled)
    base = run([1.0] * n)
    nothing = Relation("zero", (), "zero", ())
    if base is None or not n or not all(values[i].is_floating_point() for i in scaled):
        return nothing
    if not base.any():
        return Relation("any", (), "any", ())  # zero, whatever the exponents
    if not (base.isfinite() & (base != 0)).any():
        return nothing  # infinite or no number: any power would agree
    scale = _scale(run, base, n)
    sign = _sign(run, base, n)
    return Relation(*(scale or ("zero", ())), *(sign or ("zero", ())))


def _agree(a: Tensor | None, b: Tensor) -> bool:
    if a is None or a.shape != b.shape:
        return False
    both = torch.isnan(a) & torch.isnan(b) | (a == b)
    close = (a - b).abs() <= 1e-9 * (b.abs() + 1e-12)
    return bool((both | close).all())


def _scale(run: Any, base: Tensor, n: int) -> tuple[str, tuple[Fraction, ...]] | None:
    s = [1.7, 0.6, 2.3][:n] + [1.3] * max(0, n - 3)
    powers: list[Fraction] = []
    for i in range(n):  # each input by itself
        alone = [s[i] if j == i else 1.0 for j in range(n)]
        out = run(alone)
        found = next((p for p in _POWERS if _agree(out, base * s[i] ** float(p))), None)
        if found is None:
            break
        powers.append(found)
    if len(powers) == n:
        total = 1.0
        for f, p in zip(s, powers, strict=True):
            total *= f ** float(p)
        if _agree(run(s), base * total):
            return "free", tuple(powers)
    for p in _POWERS:  # all together
        if all(_agree(run([f] * n), base * f ** float(p)) for f in (1.7, 0.4, 11.0)):
            return "joint", (p,)
    return None


def _sign(run: Any, base: Tensor, n: int) -> tuple[str, tuple[int, ...]] | None:
    if n <= 3:
        parities: list[int] = []
        for i in range(n):
            out = run([-1.0 if j == i else 1.0 for j in range(n)])
            found = 1 if _agree(out, -base) else 0 if _agree(out, base) else None
            if found is None:
                break
            parities.append(found)
        if len(parities) == n:
            flips = list(product((0, 1), repeat=n))
            if all(
                _agree(
                    run([-1.0 if f else 1.0 for f in fs]),
                    base * (-1) ** sum(f * p for f, p in zip(fs, parities, strict=True)),
                )
                for fs in flips
            ):
                return "free", tuple(parities)
    out = run([-1.0] * n)
    if _agree(out, -base):
        return "joint", (1,)
    return ("joint", (0,)) if _agree(out, base) else None

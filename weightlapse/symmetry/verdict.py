"""What a comparison found, and the same in plain sentences."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from weightlapse.symmetry.alignment import Alignment
from weightlapse.symmetry.barrier import Barrier
from weightlapse.symmetry.identify import Identifiability
from weightlapse.symmetry.reducible import Reducible
from weightlapse.wiring.change import is_signed_order

Verdict = Literal["identical", "same up to symmetry", "same function on the data", "different"]

_HEAD = {
    "identical": "Identical: every number of both networks is the same.",
    "same up to symmetry": "The same network up to symmetry: b is a {how}.",
    "same function on the data": "The same function on the data, with other weights.",
    "different": "Different networks.",
}


@dataclass(frozen=True)
class Comparison:
    """What ``wl.compare`` found.

    ``verdict``: one of "identical", "same up to symmetry", "same function on the data", "different".
    ``function_distance``, ``fresh_distance``: root mean square difference of the outputs on the data, and on fresh random
    inputs of the same kind, relative to the spread of a's outputs; None when the networks were not run.
    ``raw_distance``, ``aligned_distance``: ``||A - B|| / ||A||`` over all parameters, before and after alignment; None where
    the architectures have no common weights. ``live_units``: group -> (live in a, live in b). ``reducible``: units that a
    network could do without. ``identifiable``: for small networks, how many weights the function determines, for a and b.
    ``barrier``: see `Barrier`; None without a common architecture or data. ``cka``: group -> unbiased linear CKA of both
    networks' units (None where undefined). ``notes``: what could not be done, and why.
    """

    verdict: Verdict
    function_distance: float | None
    fresh_distance: float | None
    raw_distance: float | None
    aligned_distance: float | None
    live_units: dict[str, tuple[int, int]]
    reducible: list[Reducible]
    identifiable: tuple[Identifiability | None, Identifiability | None]
    barrier: Barrier | None
    cka: dict[str, float | None]
    alignment: Alignment | None = field(repr=False)
    notes: tuple[str, ...]
    tolerance: float

    def explain(self) -> str:
        """The verdict and its reasons in plain sentences."""
        return explanation(self)

    def __str__(self) -> str:
        return self.explain()

    def numbers(self) -> dict[str, Any]:
        """Everything but the weights, ready for JSON."""
        return {
            "verdict": self.verdict,
            "function_distance": self.function_distance,
            "fresh_distance": self.fresh_distance,
            "raw_distance": self.raw_distance,
            "aligned_distance": self.aligned_distance,
            "method": self.alignment.method if self.alignment else None,
            "live_units": {g: list(n) for g, n in self.live_units.items()},
            "reducible": [vars(r) | {"units": list(r.units)} for r in self.reducible],
            "identifiable": [vars(i) if i else None for i in self.identifiable],
            "barrier": None
            if self.barrier is None
            else {
                "naive": float(self.barrier.naive),
                "matched": float(self.barrier.matched),
                "repaired": None if self.barrier.repaired is None else float(self.barrier.repaired),
                "method": self.barrier.method,
                "measure": self.barrier.measure,
            },
            "cka": self.cka,
            "notes": list(self.notes),
        }


def explanation(c: Comparison) -> str:
    """One sentence per finding, the verdict first."""
    lines = [_HEAD[c.verdict].format(how=_how(c))]
    lines += _functions(c)
    lines += _weights(c)
    lines += _units(c)
    lines += _line_between(c)
    lines += [_sentence(note) for note in c.notes]
    return "\n".join(lines)


def _how(c: Comparison) -> str:
    al = c.alignment
    if al is None:
        return "but for rounding and counters"
    used = [
        _orders(al),
        _signs(al),
        "units rescaled" if any(abs(s - 1).max(initial=0) > 1e-9 for s in al.scales.values()) else "",
    ]
    used += [*_turned(al)]
    said = ", ".join(u for u in used if u)
    return f"with {said}" if said else "but for rounding and counters"


def _orders(al: Alignment) -> str:
    """How many groups of which size are in another order: "4 x 256 units"."""
    sizes = Counter(len(p) for p in al.permutations.values() if (p != range(len(p))).any())
    sizes += Counter(len(m) for m in _reordered(al) if (np.abs(m).argmax(axis=1) != range(len(m))).any())
    if not sizes:
        return ""
    counts = ", ".join(f"{n} x {size}" if n > 1 else f"{size}" for size, n in sorted(sizes.items(), reverse=True))
    return f"its hidden units in another order ({counts} units)"


def _signs(al: Alignment) -> str:
    count = sum(int((s < 0).sum()) for s in al.signs.values()) + sum(int((m < 0).sum()) for m in _reordered(al))
    return f"{count} signs flipped" if count else ""


def _reordered(al: Alignment) -> list[NDArray[np.float64]]:
    """The matrices that reorder and flip numbers and do no more."""
    return [m for m in (*al.rotations.values(), *al.gauges.values()) if is_signed_order(m)]


def _turned(al: Alignment) -> list[str]:
    out = [f"the stream of {n} turned" for n, m in al.rotations.items() if not is_signed_order(m)]
    kinds = Counter(n.partition(" ")[0] for n, m in al.gauges.items() if not is_signed_order(m))
    words = {"values": "the values", "queries": "queries and keys"}
    heads = [f"{words[k]} of {n} heads" for k, n in kinds.items() if k in words]
    rest = sum(n for k, n in kinds.items() if k not in words)
    heads += [f"{rest} more"] if rest else []
    return [*out, f"{' and '.join(heads)} in other bases"] if heads else out


def _functions(c: Comparison) -> list[str]:
    if c.function_distance is None:
        return []
    out = [f"On the data their outputs differ by {c.function_distance:.2g} of a's spread."]
    if c.fresh_distance is not None:
        more = (
            " - elsewhere they are not the same function"
            if (c.function_distance <= c.tolerance < c.fresh_distance / 100)
            else ""
        )
        out.append(f"On fresh random inputs they differ by {c.fresh_distance:.2g}{more}.")
    return out


def _weights(c: Comparison) -> list[str]:
    if c.raw_distance is None and c.aligned_distance is None:
        return []
    out = []
    if c.raw_distance is not None:
        out.append(f"As they are, the weights differ by {c.raw_distance:.3g} of a's norm.")
    if c.alignment is not None:
        out.append(f"Aligned (by {c.alignment.method}), they differ by {c.aligned_distance:.3g}.")
        if c.alignment.units and (c.aligned_distance or 0) <= c.tolerance:
            out.append("So b holds a, with units that it could do without.")
        if c.verdict == "different" and (c.aligned_distance or 0) > 0.9:
            out.append("That is what two unrelated networks show.")
        out += [_sentence(note) for note in c.alignment.notes]
    return out


def _units(c: Comparison) -> list[str]:
    out = []
    for group, (a, b) in c.live_units.items():
        out.append(f"{group}: {a} live units in a, {b} in b.")
    out += [_sentence(r.text) for r in c.reducible[:12]]
    if len(c.reducible) > 12:
        out.append(f"{len(c.reducible) - 12} more findings of this kind.")
    for name, found in zip("ab", c.identifiable):
        if found is not None:
            rest = f"; {found.free} directions leave it as it is" if found.free else ""
            out.append(
                f"The function of {name} determines {found.identifiable} of {found.parameters} parameters{rest}."
            )
    if any(r.kind in ("dead", "constant", "duplicate") for r in c.reducible) and c.verdict != "identical":
        out.append("With such units one function has many weights, so the distance of weights says less.")
    return out


def _line_between(c: Comparison) -> list[str]:
    if c.barrier is None:
        return _representations(c)
    b = c.barrier
    text = f"On the straight line between them the loss ({b.measure}) rises by {float(b.naive):.3g} as they are"
    text += f", by {float(b.matched):.3g} after alignment by {b.method}"
    if b.repaired is not None:
        text += f", by {float(b.repaired):.3g} with variances repaired"
    return [text + ".", *_representations(c)]


def _representations(c: Comparison) -> list[str]:
    known = {g: v for g, v in c.cka.items() if v is not None}
    if not known:
        return []
    return ["Representations (unbiased CKA): " + ", ".join(f"{g} {v:.2f}" for g, v in known.items()) + "."]


def _sentence(text: str) -> str:
    names_something = text.split(" ", 1)[0].endswith(":")  # a network or a group: names keep their spelling
    return (text if names_something else text[0].upper() + text[1:]) + ("" if text.endswith(".") else ".")

"""What `wl.diff` found: one `TensorDiff` for each tensor, and the answer in a sentence."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.differences.tensor import Doubles

# kind -> how several tensors of that kind are spoken of
KINDS = {
    "single bit": "with one bit flipped",
    "single value": "with one value changed",
    "signs": "with other signs alone",
    "scale": "rescaled alone",
    "shift": "shifted alone",
    "rounding": "only rounded",
    "permutation": "only in another order",
    "units permuted": "only with units in another order",
    "transposed": "transposed",
    "pruned": "only pruned",
    "quantised": "only quantised",
    "not finite": "with NaN or infinities",
    "rows": "changed in a few rows",
    "columns": "changed in a few columns",
    "low rank": "of low rank",
    "noise": "like noise",
    "unrelated": "with nothing in common",
    "sparse": "changed in a few values",
    "dense": "changed throughout",
    "tied": "tied otherwise",
    "resized": "of another size",
    "reshaped": "of another shape",
    "replaced": "replaced by another tensor",
    "renamed": "under another name",
    "dtype": "in another dtype",
    "": "",
}


@dataclass
class TensorDiff:
    """One tensor of A and B.

    ``status`` is "identical", "changed", "added", "removed", "renamed" or "reshaped"; ``kind`` what the change is (a key of ``KINDS``);
    ``text`` says it in words. ``relative`` is ``||B - A|| / ||A||`` (inf against zeros, NaN where there is no counterpart),
    ``changed_share`` the share of values whose bits differ. ``rank`` is the numerical rank of B - A as a matrix (first axis against the
    others; channels last: the other way round), None for vectors, for what needs no rank to be told, and where it is larger than
    the directions looked at; ``energy`` are the shares of its squared size in its first directions, largest first, and ``directions`` these
    directions themselves: (rows, k) and (columns, k), unit vectors. ``other`` is the name in A of a renamed tensor (or of what it is tied to).
    ``rows`` and ``columns``: how many values changed in each. ``order``: of a permutation, the positions in A along each axis.
    ``factors``: of a scaling, those of rows and columns. ``picture``: B - A thinned to at most 96 x 96 cells, each its largest value.
    """

    name: str
    status: str
    shape: tuple[int, ...]
    dtype: str
    text: str = ""
    kind: str = ""
    relative: float = math.nan
    changed_share: float = math.nan
    changed: int = 0
    cosine: float = math.nan
    signs_flipped: int = 0
    rank: int | None = None
    energy: tuple[float, ...] = ()
    other: str | None = None
    directions: tuple[Doubles, Doubles] | None = field(default=None, repr=False)
    rows: NDArray[np.int64] | None = field(default=None, repr=False)
    columns: NDArray[np.int64] | None = field(default=None, repr=False)
    order: list[NDArray[np.int64]] | None = field(default=None, repr=False)
    factors: tuple[Doubles, Doubles] | None = field(default=None, repr=False)
    picture: NDArray[np.float32] | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"

    def facts(self) -> dict[str, Any]:
        """What fits into JSON; numbers that it has no way to write are None."""
        plain = ("status", "kind", "text", "dtype", "changed", "signs_flipped", "rank", "other")
        out: dict[str, Any] = {name: getattr(self, name) for name in plain}
        out["shape"] = list(self.shape)
        out |= {name: _number(getattr(self, name)) for name in ("relative", "changed_share", "cosine")}
        out["energy"] = [round(e, 6) for e in self.energy[:16]]
        return out


@dataclass
class UnitsDiff:
    """One group of the wiring: how many of its ``size`` units changed anywhere, ``changed`` which, ``text`` in words."""

    group: str
    size: int
    changed: list[int]
    text: str
    order: NDArray[np.int64] | None = field(default=None, repr=False)
    same_function: bool = False


@dataclass
class Diff:
    """What differs between A and B. ``tensors`` by name (B's names, and A's of what B does not have); ``units`` by group, with a wiring.

    ``identical``: whether every value is the same, whatever its format, dtype and shard. ``summary`` answers in one or two sentences.
    """

    a: str
    b: str
    tensors: dict[str, TensorDiff]
    units: dict[str, UnitsDiff] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def identical(self) -> bool:
        """Whether nothing differs: every tensor of one is in the other, bit for bit."""
        return all(t.status == "identical" for t in self.tensors.values())

    @property
    def differing(self) -> list[TensorDiff]:
        """The tensors that differ, in their order."""
        return [t for t in self.tensors.values() if t.status != "identical"]

    @property
    def summary(self) -> str:
        """What differs, in one sentence."""
        total, other = len(self.tensors), self.differing
        stated = [u.text for u in self.units.values() if u.order is not None or u.same_function]
        if not other:
            text = f"nothing differs: {_all(total)} identical"
        elif len(other) == 1:
            which = "the one tensor differs" if total == 1 else f"one of {total} tensors differs"
            text = f"{which}: {other[0].name}, {_short(other[0])}"
        else:
            kinds = Counter(_class(t) for t in other)
            if len(kinds) == 1:
                ((only, _),) = kinds.items()
                head = (
                    f"all {total} tensors differ" if len(other) == total else f"{len(other)} of {total} tensors differ"
                )
                text = f"{head}, all {only}"
            else:
                said = ", ".join(f"{n} {words}" for words, n in kinds.most_common())
                text = f"{len(other)} of {total} tensors differ: {said}"
        if other and all(t.kind == "units permuted" for t in other):
            stated = ["the same function"]  # the units themselves are listed below
        more = [f"{len(stated) - 3} more groups of units likewise"] if len(stated) > 3 else []
        return "; ".join([text, *stated[:3], *more, *self.notes])

    def to_json(self) -> dict[str, Any]:
        """A dict that `json.dumps` takes."""
        return {
            "a": self.a,
            "b": self.b,
            "identical": self.identical,
            "summary": self.summary,
            "tensors": {name: t.facts() for name, t in self.tensors.items()},
            "units": {
                n: {"size": u.size, "changed": u.changed, "text": u.text, "same_function": u.same_function}
                for n, u in self.units.items()
            },
            "notes": self.notes,
        }

    def explain(self, most: int = 40) -> str:
        """The answer, then a table of what differs (the ``most`` largest changes), then the units."""
        lines = [_sentence(self.summary)]
        listed = sorted(self.differing, key=_weight, reverse=True)
        if listed:
            lines.append("")
            width = min(max(len(t.name) for t in listed[:most]), 60)
            lines += [f"  {t.name:{width}}  {percent(t.relative):>9}  {t.text}" for t in listed[:most]]
            if len(listed) > most:
                lines.append(f"  and {len(listed) - most} more (--json lists all)")
        units = [u for u in self.units.values() if u.changed]
        if units:
            lines += ["", *(f"  {_sentence(u.text)}" for u in units[:most])]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.explain()

    def dumps(self) -> str:
        """`to_json` as text: strict JSON, numbers that it cannot write are null."""
        return json.dumps(self.to_json(), allow_nan=False)


def percent(share: float) -> str:
    """A share as people write it.

    >>> percent(0.998), percent(1.0), percent(0.00123), percent(2e-8), percent(12.0)
    ('99.8 %', '100 %', '0.12 %', '2e-06 %', '12 times')
    """
    if math.isnan(share):
        return "–"
    if math.isinf(share):
        return "from zero"
    if share >= 10:
        return f"{share:.3g} times"
    p = 100 * share
    if p >= 100 or p == 0:
        return f"{p:.4g} %"
    if p > 99.95:
        return f"{100 - 10 ** math.floor(math.log10(100 - p)):.6g} %" if p < 100 - 1e-6 else "100 %"
    return f"{p:.1f} %" if p >= 10 else f"{p:.2g} %"


def plural(count: int, what: str) -> str:
    """A count with its noun: ``1 tensor``, ``1,200 tensors``."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _all(total: int) -> str:
    return "the one tensor is" if total == 1 else f"all {total} tensors are"


def _weight(t: TensorDiff) -> tuple[bool, float]:
    return t.status not in ("added", "removed"), (
        t.relative if math.isfinite(t.relative) else math.inf if math.isinf(t.relative) else 0.0
    )


def _class(t: TensorDiff) -> str:
    if t.status in ("added", "removed", "renamed"):
        return (
            t.status
            if not (t.status == "renamed" and t.kind not in ("renamed", ""))
            else f"renamed and {KINDS[t.kind]}"
        )
    if t.kind == "low rank":
        return f"of low rank ({t.rank})"
    return KINDS[t.kind]


def _short(t: TensorDiff) -> str:
    if t.status in ("added", "removed"):
        return "only in B" if t.status == "added" else "only in A"
    return f"rank {t.rank}" + t.text.removeprefix(f"rank {t.rank}") if t.kind == "low rank" else t.text

"""`wl.diff`: what did my training change?"""

from __future__ import annotations

from typing import Any

from weightlapse.differences.explain import explained
from weightlapse.differences.pair import same_bytes
from weightlapse.differences.pairing import against_real, copies, laid_out, renamed, resized, same_values
from weightlapse.differences.result import Diff, TensorDiff, percent, plural
from weightlapse.differences.sides import Side, opened, unwrap
from weightlapse.differences.tensor import Tensor
from weightlapse.differences.units import unit_diffs
from weightlapse.errors import InvalidArgument
from weightlapse.progress import track
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.naming import paired_names, renamed_wiring


def diff(a: Any, b: Any, wiring: Wiring | None = None) -> Diff:
    """What differs between two networks, tensor by tensor, and through the wiring unit by unit.

    Args:
        a, b: each a module, a mapping of names to arrays, a `Recording` (its last frame), or a path: of a recording ("run", "run@500"), of a
            checkpoint file (.safetensors, .npz, .pt with weights only, ...), of a folder with a sharded checkpoint.
        wiring: which axes hold the same units; by default that of a recording, if a or b is one.

    Returns:
        A `Diff`: ``.identical``, ``.summary`` (the answer in a sentence), ``.tensors`` (name -> `TensorDiff`), ``.units``, ``.explain()``.
        Names lose the prefixes of wrappers that all of them carry. Values are compared, so that dtype, format and shards make no difference where they are the same.

    Memory stays at a few blocks beside what it is given: files are read piece by piece, recordings tensor by tensor. Bytes are compared first;
    arithmetic (float64) is only done where they differ. Raises InvalidArgument, CannotRecord, NotARecording, MissingStep for what cannot be read.

    >>> import numpy as np, weightlapse as wl
    >>> before = {"fc.weight": np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32), "fc.bias": np.zeros(64, np.float32)}
    >>> after = dict(before, **{"fc.weight": before["fc.weight"] * 2})
    >>> wl.diff(before, after).summary
    'one of 2 tensors differs: fc.weight, only a scale: every value times 2'
    """
    if wiring is not None and not isinstance(wiring, Wiring):
        raise InvalidArgument(f"wiring= is {type(wiring).__name__}: give a Wiring, such as wl.trace(model, x)")
    with opened(a, "a") as one, opened(b, "b") as two:
        unwrap(one, two)
        numbered = _numbered_on(one, two)
        if wiring is None and one.wiring is None and two.wiring is not None:
            wiring = renamed_wiring(two.wiring, numbered)
        return _diff(one, two, wiring if wiring is not None else one.wiring, numbered)


def _numbered_on(a: Side, b: Side) -> dict[str, str]:
    """Name in B -> name in A where Keras gave the layers of one architecture other numbers."""
    found = paired_names(*({n: t.shape for n, t in side.items()} for side in (a, b)))
    return {} if found is None else {name: mine for name, mine in found.items() if name != mine}


def _diff(a: Side, b: Side, wiring: Wiring | None, numbered: dict[str, str]) -> Diff:
    tied_a, tied_b = copies(a), copies(b)
    stands_for = numbered or renamed(
        {n: t for n, t in a.items() if not _told_by_tie(n, tied_a, b)},
        {n: t for n, t in b.items() if not _told_by_tie(n, tied_b, a)},
    )
    found: dict[str, TensorDiff] = {}
    taken = set(stands_for.values())
    for name in track([*b, *(n for n in a if n not in b and n not in taken)], "comparing"):
        if name in numbered:
            found[name] = _pair(a[numbered[name]], b[name])
            found[name].other = numbered[name]
        elif name in stands_for:
            found[name] = _renamed(a[stands_for[name]], b[name])
        elif name in b and name in a:
            found[name] = _pair(a[name], b[name])
        elif name in b:
            found[name] = _alone(b[name], "added", tied_b, a, b)
        else:
            found[name] = _alone(a[name], "removed", tied_a, a, b)
        for side in (a, b):
            if name in side:
                side[name].forget()
    notes = _ties(a, b, tied_a, tied_b, found)
    result = Diff(a.label, b.label, found, notes=[*notes, *a.notes, *b.notes])
    if wiring is not None and not result.identical:
        _with_units(result, wiring, a, b, numbered)
    return result


def _pair(a: Tensor, b: Tensor) -> TensorDiff:
    if a.is_complex != b.is_complex:
        return _complex_against_real(a, b)
    if a.shape == b.shape:
        return explained(a, b)
    out = TensorDiff(b.name, "reshaped", b.shape, b.dtype)
    if a.size == b.size and (how := laid_out(a, b)) is not None:
        out.kind, out.text = how
        out.relative = out.changed_share = 0.0
    else:
        out.kind, out.text = resized(a, b)
    return out


def _complex_against_real(a: Tensor, b: Tensor) -> TensorDiff:
    """A tensor that became complex, or real."""
    out = TensorDiff(b.name, "reshaped", b.shape, b.dtype, kind="replaced")
    now, was = ("complex", "real") if b.is_complex else ("real", "complex")
    number, real = (b, a) if b.is_complex else (a, b)
    shapes = [t.shape[:-1] if t.is_complex else t.shape for t in (a, b)]
    if a.shape == b.shape and same_values(a, b):
        out.kind, out.text = "reshaped", f"{now} where A is {was}: the same as pairs (real part, imaginary part)"
        out.relative = out.changed_share = 0.0
    elif shapes[0] == shapes[1]:
        out.status = "changed"
        out.relative, out.changed, imaginary = against_real(number, real, a)
        out.changed_share = out.changed / max(real.size, 1)
        if out.changed:
            out.text = f"{now} where A is {was}; {percent(out.changed_share)} of the values differ"
            out.text += " in their imaginary parts alone" if imaginary else f", changed by {percent(out.relative)}"
        else:
            out.kind, out.text = "dtype", f"{now} where A is {was}: the same numbers, all imaginary parts are zero"
    else:
        before, after = ("×".join(map(str, shape)) or "a scalar" for shape in shapes)
        out.text = f"another tensor: {now} {after} instead of {was} {before}"
    return out


def _renamed(a: Tensor, b: Tensor) -> TensorDiff:
    out = _pair(a, b)
    what = "" if out.status == "identical" else f"; {out.text}"
    out.kind = out.kind if what else "renamed"
    out.status, out.other, out.text = "renamed", a.name, f"was {a.name} in A{what}"
    return out


def _told_by_tie(name: str, tied: dict[str, str], other: Side) -> bool:
    """Whether a name that the other side lacks is only a further name of one that it has."""
    return name not in other and (
        tied.get(name) in other or any(first == name and more in other for more, first in tied.items())
    )


def _alone(t: Tensor, status: str, tied: dict[str, str], a: Side, b: Side) -> TensorDiff:
    """A tensor that only one side names: new, gone, or only a further name of one that both have."""
    twin = tied.get(t.name) or next((more for more, first in tied.items() if first == t.name), None)
    if twin is not None and twin in a and twin in b:
        out = explained(a[twin], b[twin]) if a[twin].shape == b[twin].shape else _pair(a[twin], b[twin])
        out.name, out.other, which = t.name, twin, "B" if status == "added" else "A"
        said = "" if out.status == "identical" else f"; that changed: {out.text}"
        out.kind = "tied" if out.status == "identical" else out.kind
        out.text = f"a further name of {twin}, which only {which} has{said}"
        return out
    copied = f", with the same values as {twin}" if twin is not None else ""
    place = "B" if status == "added" else "A"
    size = "×".join(map(str, t.shape)) or "a scalar"
    return TensorDiff(t.name, status, t.shape, t.dtype, f"only in {place}: {size} {t.dtype}{copied}")


def _ties(a: Side, b: Side, tied_a: dict[str, str], tied_b: dict[str, str], found: dict[str, TensorDiff]) -> list[str]:
    """Tensors that hold the same on one side and not on the other, or share memory on one side alone."""
    notes = []
    for name, first in tied_b.items():
        if not (name in a and first in a) or _equal(a, name, first):
            continue
        changed = [n for n in (name, first) if found[n].status == "changed"]
        for n in changed[:1]:
            t, twin = found[n], first if n == name else name
            t.kind, t.other, t.text = "tied", twin, f"tied: now the same values as {twin}, which was not so in A"
    for name, first in tied_a.items():
        if not (name in b and first in b) or _equal(b, name, first):
            continue
        changed = [n for n in (name, first) if found[n].status == "changed"]
        for n in changed[:1]:
            t, twin = found[n], first if n == name else name
            t.other, t.text = twin, f"untied from {twin}, with which it was one in A; {t.text}"
            if found[twin].status == "identical":
                t.kind = "tied" if t.kind in ("dense", "noise", "unrelated") else t.kind
    apart = [
        n
        for n, f in tied_a.items()
        if n in tied_b and a[n].place == a[f].place and b[n].place != b[f].place and tied_b[n] == f
    ]
    joined = [
        n
        for n, f in tied_b.items()
        if n in tied_a and b[n].place == b[f].place and a[n].place != a[f].place and tied_a[n] == f
    ]
    for names, ties, words in (
        (apart, tied_a, "no longer one tensor, though they hold the same"),
        (joined, tied_b, "now one tensor"),
    ):
        if names and (words.startswith("now") or _shares_memory(a, b)):
            notes.append(
                f"{names[0]} and {ties[names[0]]} are {words}"
                + (f" (and {plural(len(names) - 1, 'more pair')})" if len(names) > 1 else "")
            )
    return notes if _shares_memory(a, b) else []


def _shares_memory(a: Side, b: Side) -> bool:
    """Whether both sides could tell of shared memory: files hold what is tied once or twice as their writers please."""
    return not any(
        t.place and isinstance(t.place[0], str) for side in (a, b) for t in side.values() if isinstance(t.place, tuple)
    )


def _equal(side: Side, name: str, first: str) -> bool:
    one, two = side[name], side[first]
    return one.shape == two.shape and one.dtype == two.dtype and same_bytes(one, two)


def _with_units(result: Diff, wiring: Wiring, a: Side, b: Side, numbered: dict[str, str]) -> None:
    pairs = {}
    known = {}
    for name, t in result.tensors.items():
        mine = numbered.get(name) or (t.other if t.status == "renamed" and t.other is not None else name)
        first = wiring.canonical_name(mine if mine in wiring.shapes else name)
        if mine in a and name in b and first not in pairs:
            pairs[first] = (a[mine], b[name])
            known[first] = t
    if not any(m.tensor in pairs for g in wiring.groups for m in g.members):
        raise InvalidArgument(
            "the wiring is of another network: none of the tensors that its units live in is in both A and B"
        )
    result.units, notes = unit_diffs(wiring, pairs, known)
    result.notes += notes

"""The text form of a wiring: one line per fact, written for people.

    weightlapse wiring 1
    tensor fc1.weight (128, 64)
    alias lm_head.weight = wte.weight
    unseen spare.weight
    fixed fc1.weight[1]: input
    group conv: 16 units, permutation, scale
      conv.weight[0]: out ^1
      conv.bias[0]: add ^1
      fc.weight[1]: in ^-1 k=25
    group heads[3]: 64 units, permutation
      parent heads 3
      qkv.weight[0]: out at 192 + u
      o.weight[1]: in at 192 + u
      ops softmax
      blocked attention: ...
    basis stream: 64 numbers, orthogonal
      embed.weight[1]: out ^1
      q.weight[1]: in ^-1
      norm norm.weight offset 0 readers q.weight 1
    basis heads[3]: 4 numbers, rotary
      parent heads 3
      q.weight[0]: out ^1 at 12 + u
      k.weight[0]: out ^-1 at 12 + u
      pairs 0,2 | 1,3

Positions of unit u on the axis: nothing is ``at u``; ``k=25`` is ``at 25*u + [25]``; ``[n]`` runs over n slots, so an LSTM's
gates are ``at u + 10*[4]``; an irregular matrix is written row by row, ``at 0,5 | 1,7 | ...``. ``where 0: 3`` keeps a member to
position 3 of axis 0. ``#`` starts a comment.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument
from weightlapse.wiring.members import Basis, Gauge, Group, Member, Norm, blocks, check_members

if TYPE_CHECKING:
    from weightlapse.wiring.data import Wiring

HEADER = "weightlapse wiring 1"
_NAME = r'(?P<name>"(?:[^"\\]|\\.)*"|[^\s"\[\],:#=](?:[^\s",#=:]|:(?=\S))*?)'
_PLAIN = re.compile(r"[\w./\-<>]+(?:\[\d+\][\w./\-<>]*)*\Z")
_AXIS = re.compile(_NAME + r"\[(?P<axis>\d+)\]\s*:\s*(?P<rest>.*)\Z")
_GROUP = re.compile(_NAME + r"\s*:\s*(?P<size>\d+) units?\s*(?:,\s*(?P<rest>.*))?\Z")
_BASIS = re.compile(_NAME + r"\s*:\s*(?P<size>\d+) numbers\s*,\s*(?P<kind>\w+)\Z")
_TENSOR = re.compile(_NAME + r"\s*(?P<shape>\([\d,\s]*\))\Z")
_MEMBER = re.compile(
    r"(?P<role>[a-z]+(?:\+[a-z]+)*)(?:\s+\^(?P<exp>-?\d+))?(?:\s+k=(?P<k>\d+))?"
    r"(?:\s+at (?P<at>.*?))?(?:\s+where (?P<axis>\d+):\s*(?P<slab>[\d,: ]+))?\Z"
)
_LIMIT = 1 << 28  # positions in one index matrix: a hostile spec must not fill the memory


def write_spec(wiring: Wiring) -> str:
    """The text of ``wiring``, which `read_spec` reads back without loss."""
    lines = [HEADER]
    lines += [f"tensor {_quote(n)} ({', '.join(map(str, s))})" for n, s in wiring.shapes.items()]
    lines += [f"alias {_quote(a)} = {_quote(first)}" for first, rest in wiring.aliases.items() for a in rest]
    lines += [f"unseen {_quote(n)}" for n in wiring.unseen]
    lines += [f"fixed {_quote(n)}[{axis}]: {_line(why)}" for (n, axis), why in wiring.fixed.items()]
    lines += [f"dropped {_line(text)}" for text in wiring.dropped]
    for g in wiring.groups:
        kinds = [s for s in ("permutation", "sign", "scale") if s in g.symmetries]
        lines.append(f"group {_quote(g.name)}: {g.size} units" + "".join(f", {s}" for s in kinds))
        if g.parent is not None:
            lines.append(f"  parent {_quote(g.parent[0])} {g.parent[1]}")
        lines += [_write_member(m, e) for m, e in zip(g.members, g.exponents, strict=True)]
        lines += [f"  gauge {a.kind} {' '.join(map(str, a.exponents))}" for a in g.gauges]
        if g.ops:
            lines.append("  ops " + ", ".join(sorted(g.ops)))
        lines += [f"  blocked {_line(b)}" for b in g.blockers]
    for b in wiring.bases:
        lines.append(f"basis {_quote(b.name)}: {b.size} numbers, {b.kind}")
        if b.parent is not None:
            lines.append(f"  parent {_quote(b.parent[0])} {b.parent[1]}")
        lines += [_write_member(m, e) for m, e in zip(b.members, b.exponents, strict=True)]
        if b.pairs:
            lines.append("  pairs " + " | ".join(",".join(map(str, p)) for p in b.pairs))
        lines += [_write_norm(n) for n in b.norms]
    return "\n".join(lines) + "\n"


def _write_norm(n: Norm) -> str:
    bias = "" if n.bias is None else f" bias {_quote(n.bias)}"
    readers = "".join(f" {_quote(t)} {axis}" for t, axis in n.readers)
    return f"  norm {_quote(n.gain)} offset {n.offset:g}{bias} readers{readers}"


class Parts(NamedTuple):
    """What a text says, as the arguments of a `Wiring`."""

    groups: tuple[Group, ...]
    aliases: dict[str, list[str]]
    unseen: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    fixed: dict[tuple[str, int], str]
    dropped: tuple[str, ...]
    bases: tuple[Basis, ...]


def read_spec(text: str) -> Parts:
    """The parts of the wiring that ``text`` describes. Raises InvalidArgument with the line that is wrong, and where lines do not fit each other."""
    return _Reader(text).read()


class _Draft:
    """A group whose lines are still being read."""

    def __init__(self, name: str, size: int, symmetries: frozenset[str]) -> None:
        self.name, self.size, self.symmetries = name, size, symmetries
        self.members: list[Member] = []
        self.exponents: list[int | None] = []
        self.blockers: list[str] = []
        self.gauges: list[Gauge] = []
        self.ops: frozenset[str] = frozenset()
        self.parent: tuple[str, int] | None = None
        self.kind: str | None = None  # of a basis
        self.pairs: tuple[tuple[int, ...], ...] = ()
        self.norms: list[Norm] = []

    def basis(self) -> Basis:
        bare = Group(self.name, self.size, tuple(self.members))
        exponents = tuple(d if e is None else e for e, d in zip(self.exponents, bare.exponents, strict=True))
        return Basis(
            self.name, self.size, str(self.kind), bare.members, exponents, self.pairs, tuple(self.norms), self.parent
        )

    def build(self) -> Group:
        bare = Group(self.name, self.size, tuple(self.members))
        exponents = tuple(d if e is None else e for e, d in zip(self.exponents, bare.exponents, strict=True))
        return Group(
            self.name,
            self.size,
            bare.members,
            self.symmetries,
            exponents,
            tuple(self.blockers),
            self.parent,
            self.ops,
            tuple(self.gauges),
        )


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.drafts: list[_Draft] = []
        self.aliases: dict[str, list[str]] = {}
        self.unseen: list[str] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.fixed: dict[tuple[str, int], str] = {}
        self.dropped: list[str] = []

    def read(self) -> Parts:
        for number, raw in enumerate(self.text.splitlines(), 1):
            line = raw.strip()
            if not line or line.startswith("#") or line == HEADER:
                continue
            if line.startswith("weightlapse wiring"):
                raise InvalidArgument(
                    f"this wiring is in version {line.split()[-1]!r} of the text form; this weightlapse reads version 1"
                )
            try:
                self._line(line)
            except (InvalidArgument, ValueError, SyntaxError) as err:
                raise InvalidArgument(f"line {number} of the wiring spec, {line!r}: {err}") from None
        parts = Parts(
            tuple(d.build() for d in self.drafts if d.kind is None),
            self.aliases,
            tuple(self.unseen),
            self.shapes,
            self.fixed,
            tuple(self.dropped),
            bases=tuple(d.basis() for d in self.drafts if d.kind is not None),
        )
        check_members(parts.groups, parts.bases, parts.shapes)
        return parts

    def _line(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        if word in _HEADS and not re.match(r"\S*\[\d+\]\s*:", line):
            getattr(self, "_" + word)(rest)
        else:
            self._member(line)

    def _tensor(self, rest: str) -> None:
        m = _match(_TENSOR, _uncomment(rest), "expected 'tensor NAME (shape)'")
        shape = ast.literal_eval(m["shape"])
        self.shapes[_unquote(m["name"])] = (shape,) if isinstance(shape, int) else tuple(shape)

    def _alias(self, rest: str) -> None:
        other, _, first = _uncomment(rest).partition(" = ")
        if not first:
            raise InvalidArgument("expected 'alias OTHER = FIRST'")
        self.aliases.setdefault(_unquote(first.strip()), []).append(_unquote(other.strip()))

    def _unseen(self, rest: str) -> None:
        self.unseen.append(_unquote(_uncomment(rest)))

    def _fixed(self, rest: str) -> None:
        m = _match(_AXIS, rest, "expected 'fixed NAME[axis]: reason'")
        self.fixed[_unquote(m["name"]), int(m["axis"])] = m["rest"]

    def _dropped(self, rest: str) -> None:
        self.dropped.append(rest)

    def _group(self, rest: str) -> None:
        m = _match(_GROUP, _uncomment(rest), "expected 'group NAME: N units, permutation[, sign][, scale]'")
        kinds = [s.strip() for s in (m["rest"] or "permutation").split(",")]
        self.drafts.append(_Draft(_unquote(m["name"]), int(m["size"]), frozenset(kinds)))

    def _basis(self, rest: str) -> None:
        m = _match(_BASIS, _uncomment(rest), "expected 'basis NAME: N numbers, KIND'")
        self.drafts.append(_Draft(_unquote(m["name"]), int(m["size"]), frozenset()))
        self.drafts[-1].kind = m["kind"]

    def _pairs(self, rest: str) -> None:
        self._current().pairs = tuple(tuple(int(i) for i in p.split(",")) for p in _uncomment(rest).split("|"))

    def _norm(self, rest: str) -> None:
        form = "expected 'norm GAIN offset NUMBER [bias NAME] readers [NAME AXIS ...]'"
        words = re.findall(r'"(?:[^"\\]|\\.)*"|\S+', _uncomment(rest))
        if words[1:2] != ["offset"] or "readers" not in words[3:]:
            raise InvalidArgument(form)
        at = words.index("readers", 3)
        extra, readers = words[3:at], words[at + 1 :]
        if len(readers) % 2 or (extra and (len(extra) != 2 or extra[0] != "bias")):
            raise InvalidArgument(form)
        pairs = tuple((_unquote(t), int(a)) for t, a in zip(readers[::2], readers[1::2]))
        bias = _unquote(extra[1]) if extra else None
        self._current().norms.append(Norm(_unquote(words[0]), float(words[2]), bias, pairs))

    def _parent(self, rest: str) -> None:
        name, _, unit = _uncomment(rest).rpartition(" ")
        self._current().parent = (_unquote(name), int(unit))

    def _ops(self, rest: str) -> None:
        self._current().ops = frozenset(s.strip() for s in _uncomment(rest).split(",") if s.strip())

    def _blocked(self, rest: str) -> None:
        self._current().blockers.append(rest)

    def _gauge(self, rest: str) -> None:
        kind, *exponents = _uncomment(rest).split()
        self._current().gauges.append(Gauge(kind, tuple(int(e) for e in exponents)))

    def _member(self, line: str) -> None:
        draft = self._current()
        m = _match(_AXIS, _uncomment(line), "expected 'NAME[axis]: role ...' or one of " + ", ".join(_HEADS))
        what = _match(
            _MEMBER, m["rest"].strip(), "expected 'role [^exponent] [k=N | at POSITIONS] [where AXIS: POSITIONS]'"
        )
        k = int(what["k"] or 1)
        if draft.size * k > _LIMIT:
            raise InvalidArgument(f"{draft.size} units of {k} positions are more than a spec may describe")
        index = blocks(draft.size, k) if what["at"] is None else _read_index(what["at"], draft.size)
        where = None if what["axis"] is None else (int(what["axis"]), _read_positions(what["slab"]))
        draft.members.append(Member(_unquote(m["name"]), int(m["axis"]), index, what["role"], where))
        draft.exponents.append(None if what["exp"] is None else int(what["exp"]))

    def _current(self) -> _Draft:
        if not self.drafts:
            raise InvalidArgument("this belongs to a group, but no 'group' line stands above it")
        return self.drafts[-1]


_HEADS = (
    "tensor",
    "alias",
    "unseen",
    "fixed",
    "dropped",
    "group",
    "parent",
    "ops",
    "blocked",
    "gauge",
    "basis",
    "pairs",
    "norm",
)


def _match(pattern: re.Pattern[str], text: str, otherwise: str) -> re.Match[str]:
    found = pattern.match(text)
    if found is None:
        raise InvalidArgument(otherwise)
    return found


def _quote(name: str) -> str:
    return name if _PLAIN.match(name) else json.dumps(name)


def _unquote(name: str) -> str:
    return str(json.loads(name)) if name.startswith('"') else name


def _line(text: str) -> str:
    return " ".join(text.split())


def _uncomment(text: str) -> str:
    # A "#" inside a quoted name is no comment.
    return re.sub(r'^((?:[^"#]|"(?:[^"\\]|\\.)*")*)#.*$', r"\1", text).strip()


def _write_member(m: Member, exponent: int) -> str:
    text = f"  {_quote(m.tensor)}[{m.axis}]: {m.role} ^{exponent}" + _write_index(m.index)
    return text if m.where is None else f"{text} where {m.where[0]}: {_write_positions(m.where[1])}"


def _write_index(index: NDArray[np.int64]) -> str:
    size, k = index.shape
    if np.array_equal(index, blocks(size, k)):
        return "" if k == 1 else f" k={k}"
    pattern = _pattern(index)
    return " at " + (pattern or " | ".join(",".join(map(str, row)) for row in index.tolist()))


def _pattern(index: NDArray[np.int64]) -> str | None:
    """``offset + s*u + t*[n] + ...`` when the matrix is of that form, slots counted in row-major order."""
    size = index.shape[0]
    offset, step = int(index[0, 0]), int(index[1, 0] - index[0, 0]) if size > 1 else 0
    axes: list[tuple[int, int]] = []
    if step < 0:
        return None
    slots = index[0] - offset
    while slots.size > 1:  # peel the fastest slot axis: the longest run from the start with one stride
        stride = int(slots[1])
        n = next((i for i in range(1, slots.size) if slots[i] != i * stride), slots.size)
        if slots.size % n or stride <= 0:
            return None
        axes.insert(0, (n, stride))
        slots = slots[::n]
    built = _affine(size, offset, step, axes)
    if built.shape != index.shape or not np.array_equal(built, index):
        return None
    terms = ([str(offset)] if offset else []) + ([f"{step}*u" if step != 1 else "u"] if size > 1 else [])
    return " + ".join([*terms, *(f"{t}*[{n}]" if t != 1 else f"[{n}]" for n, t in axes)]) or "0"


def _affine(size: int, offset: int, step: int, axes: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
    slots = np.zeros(1, dtype=np.int64)
    for n, stride in axes:
        if slots.size * n * size > _LIMIT:
            raise InvalidArgument("more positions than a spec may describe")
        slots = (slots[:, None] + stride * np.arange(n, dtype=np.int64)).ravel()
    return offset + step * np.arange(size, dtype=np.int64)[:, None] + slots[None, :]


def _read_index(text: str, size: int) -> NDArray[np.int64]:
    if "u" not in text and "[" not in text and ("|" in text or "," in text or size == 1):
        rows = [[int(p) for p in row.split(",")] for row in text.split("|")]
        if len(rows) != size or len({len(r) for r in rows}) != 1:
            raise InvalidArgument(f"the group has {size} units, so its positions need {size} rows of one length")
        return np.array(rows, dtype=np.int64)
    offset = step = 0
    axes: list[tuple[int, int]] = []
    for term in text.split("+"):
        found = re.fullmatch(r"\s*(?:(\d+)|(?:(\d+)\*)?(?:(u)|\[(\d+)\]))\s*", term)
        if found is None:
            raise InvalidArgument(
                f"{term.strip()!r} is no position term; write a number, 'u', '25*u', '[25]' or '16*[25]'"
            )
        number, factor, unit, slots = found.groups()
        if number is not None:
            offset += int(number)
        elif unit:
            step += int(factor or 1)
        else:
            axes.append((int(slots), int(factor or 1)))
    return _affine(size, offset, step, axes)


def _write_positions(positions: NDArray[np.int64]) -> str:
    lo, n = int(positions[0]), len(positions)
    if n > 1 and np.array_equal(positions, np.arange(lo, lo + n)):
        return f"{lo}:{lo + n}"
    return ",".join(map(str, positions.tolist()))


def _read_positions(text: str) -> NDArray[np.int64]:
    if ":" in text:
        lo, hi = (int(p) for p in text.split(":"))
        if hi - lo > _LIMIT:
            raise InvalidArgument("more positions than a spec may describe")
        return np.arange(lo, hi, dtype=np.int64)
    return np.array([int(p) for p in text.split(",")], dtype=np.int64)

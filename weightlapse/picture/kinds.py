"""What a tensor is, from its name, its shape, its neighbours and the wiring: that decides how it is laid out.

Names are those of PyTorch, Keras, Flax, Haiku and the common transformers. Where the recording holds the wiring, that decides which
axis the units are on and where the heads are cut. A tensor of which nothing is known is drawn by its axes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from weightlapse.picture.fused import QUERY_KEY_VALUE, Shapes, gates, interleaved, parts
from weightlapse.recording.polar import PARTS

_HEADED = re.compile(
    r"(^|[._/])(q|k|v|o|query|key|value|q_proj|k_proj|v_proj|o_proj|out_proj|attention_output|out)[._/]", re.IGNORECASE
)
_ATTENTIVE = re.compile(r"attn|attention|mha", re.IGNORECASE)
_OUT = re.compile(r"(^|[._/])(out|o|o_proj|out_proj|attention_output)[._/]", re.IGNORECASE)
_EMBEDDING = re.compile(r"embed|(^|[._/])(emb|wte|wpe|tok|pos|vocab)", re.IGNORECASE)
_EXPERTS = re.compile(r"expert|moe", re.IGNORECASE)
_STACKED = 16  # a last axis longer than this is no kernel: the tensor is a stack of matrices


@dataclass(frozen=True)
class Cut:
    """``axis`` is cut into ``count`` equal parts, set apart by a gap of class ``gap``."""

    axis: int
    count: int
    gap: int
    unit: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kind:
    """``word``: dense, vector, convolution, attention, embedding, gates, experts, stack. ``down``, ``across``: its axes, outermost first.

    ``units`` names the entries of each axis; ``cuts`` are parts of axes that are set apart, outermost first; ``wrap``: the outermost axis
    down may be wrapped like the lines of a text, so that the picture is neither a tower nor a thread.
    """

    word: str
    down: tuple[int, ...]
    across: tuple[int, ...]
    units: tuple[str, ...]
    cuts: tuple[Cut, ...] = ()
    wrap: bool = False


def kinds(shapes: Shapes, wiring: Any = None) -> dict[str, Kind]:
    """The kind of every tensor of a network. ``wiring``: a `Wiring`, or None.

    >>> kinds({"conv.weight": (8, 3, 5, 5), "fc.weight": (10, 8)})["conv.weight"].word
    'convolution'
    """
    told = _told(wiring)
    return {name: _kind(_stem(name, shapes), tuple(shape), shapes, told) for name, shape in shapes.items()}


def kind_of(name: str, shape: tuple[int, ...], shapes: Shapes | None = None, wiring: Any = None) -> Kind:
    """The kind of one tensor; ``shapes``: those of the whole network, where known."""
    shapes = shapes or {name: shape}
    return _kind(_stem(name, shapes), tuple(shape), shapes, _told(wiring))


def _stem(name: str, shapes: Shapes) -> str:
    """The weight that a gradient, a moment of the optimizer, or the magnitude or phase of a complex tensor belongs to."""
    own = name.rpartition(":")[2]
    parent = own.rpartition(".")[0]
    derived = own != name or own.rpartition(".")[2] in PARTS
    known = re.search(r"(^|[._/])(weight|bias|kernel|w|b)$", parent)
    return parent if derived and (known or own.rpartition(".")[2] in PARTS) else own


class Units(NamedTuple):
    """What the wiring tells of one axis of a tensor."""

    role: str
    run: int  # neighbouring indices that make one piece of a unit; 0: none
    unit: str  # what a unit is: "head" or "channel"
    head: int  # indices of one head, where a unit is several that share their key and value


Told = dict[tuple[str, int], Units]  # by (tensor, axis)


def _told(wiring: Any) -> Told:
    told: Told = {}
    groups = list(wiring.groups) if wiring is not None else []
    parents = {group.parent[0] for group in groups if getattr(group, "parent", None)}
    for group in groups:
        if getattr(group, "parent", None):  # units inside a head: the heads have been told of
            continue
        unit = "head" if group.name in parents else "channel"
        runs = [_run(np.asarray(member.index)) for member in group.members]
        head = min((_least(np.asarray(m.index)) for m, run in zip(group.members, runs, strict=True) if run), default=0)
        fused = {m.tensor: run for m, run in zip(group.members, runs, strict=True) if interleaved(m.tensor)}
        after = [run for m, run in zip(group.members, runs, strict=True) if run and m.tensor not in fused]
        if (
            fused and after and (max(fused.values()) - max(after)) % 2 == 0
        ):  # queries, a key and a value before, values of as many queries after
            head = max(0, max(fused.values()) - max(after)) // 2 or head
        for member, run in zip(group.members, runs, strict=True):
            told.setdefault(
                (member.tensor, member.axis), Units(str(member.role), run, unit, head if unit == "head" else run)
            )
    return told


def _least(index: np.ndarray[Any, Any]) -> int:
    """Length of the shortest piece of neighbouring indices that a unit has."""
    ends = np.flatnonzero(np.append(np.diff(index[0]) != 1, True)) + 1
    return int(np.diff(ends, prepend=0).min())


def _run(index: np.ndarray[Any, Any]) -> int:
    """How many neighbouring indices make one piece of a unit; 0 where units are single indices or not in order."""
    if index.ndim != 2 or index.shape[0] < 2 or index.shape[1] < 2:
        return 0
    breaks = np.flatnonzero(np.diff(index[0]) != 1)
    run = int(breaks[0]) + 1 if len(breaks) else index.shape[1]
    ordered = np.array_equal(index[:, 0], index[0, 0] + run * np.arange(len(index)))
    return run if run > 1 and ordered else 0


def _kind(name: str, shape: tuple[int, ...], shapes: Shapes, told: Told) -> Kind:
    if 0 in shape:  # nothing to see, and no sizes to divide by
        return _by_axes("dense", len(shape))
    if len(shape) < 2:
        cuts = _cuts(name, shape, shapes, told) if shape else ()
        return Kind("vector", (), tuple(range(len(shape))), ("unit",) * len(shape), cuts)
    if len(shape) == 2:
        return _matrix(name, shape, shapes, told)
    if len(shape) == 3 and _headed(name, shapes):
        if _OUT.search(name + "."):
            return Kind("attention", (0, 1), (2,), ("head", "input", "output"), (Cut(0, shape[0], 1, "head"),))
        return Kind("attention", (0,), (1, 2), ("input", "head", "output"), (Cut(1, shape[1], 1, "head"),))
    if _EXPERTS.search(name) or (len(shape) == 3 and shape[-1] > _STACKED and not _kernel_named(name)):
        return _stack("experts" if _EXPERTS.search(name) else "stack", shape)
    return _convolution(name, shape, shapes, told)


def _headed(name: str, shapes: Shapes) -> bool:
    """Whether a tensor of three axes is a projection of an attention, which keeps its heads as an axis."""
    if _HEADED.search(name + ".") is None:
        return False
    own = re.match(r"(.*[./])(query|key|value|attention_output)[./]kernel$", name)
    beside = sum(f"{own[1]}{word}{name[own.end(2) :]}" in shapes for word in QUERY_KEY_VALUE) if own else 0
    return beside > 1 or _ATTENTIVE.search(name) is not None


def _by_axes(word: str, ndim: int) -> Kind:
    from weightlapse.picture.arrangement import plain_axes

    return Kind(word, *plain_axes(ndim), ("unit",) * ndim)


def _matrix(name: str, shape: tuple[int, ...], shapes: Shapes, told: Told) -> Kind:
    cuts = _cuts(name, shape, shapes, told)
    keras = _kernel_named(name)
    units = _words(name, shape, shapes, told)
    if any(cut.unit == "gate" for cut in cuts):
        return Kind("gates", (0,), (1,), units, cuts)
    if any(cut.unit in ("head", "part") for cut in cuts):
        return Kind("attention", (0,), (1,), units, cuts)
    if _EMBEDDING.search(name) and not keras:
        return Kind("embedding", (0,), (1,), ("token", "dimension"), (), wrap=shape[0] > 6 * shape[1])
    return Kind("dense", (0,), (1,), units, cuts)


def _words(name: str, shape: tuple[int, ...], shapes: Shapes, told: Told) -> tuple[str, str]:
    """What the entries of the two axes of a matrix are: its units, and what they take in."""
    if re.split(r"[./]", name)[-1].endswith("bias"):
        stacked = len(shapes.get(re.sub(r"bias$", "kernel", name), ())) == 3
        return ("head" if stacked else "expert" if _EXPERTS.search(name) else "bias", "unit")
    if _kernel_named(name):
        return ("input", "unit")
    roles = tuple(told[name, axis].role if (name, axis) in told else "" for axis in (0, 1))
    if any(roles):
        across = "out" in roles[1] or ("in" in roles[0] and "out" not in roles[0])
    else:
        across = _units_across(name, shape, shapes)
    return ("input", "unit") if across else ("unit", "input")


def _units_across(name: str, shape: tuple[int, ...], shapes: Shapes) -> bool:
    """Whether the units of a matrix are its columns, as GPT-2's are: its bias tells, or, of a square one, a layer beside it."""
    bias = shapes.get(re.sub(r"weight$", "bias", name), ())
    if shape[0] != shape[1]:
        return len(bias) == 1 and bias[0] == shape[1]
    block = re.fullmatch(r"(.*?)[^.]+\.c_proj\.weight", name)
    near = [shapes.get(f"{block[1]}{other}.weight", ()) for other in ("attn.c_attn", "mlp.c_fc")] if block else []
    return any(len(other) == 2 and other[0] < other[1] for other in near)


def _cuts(name: str, shape: tuple[int, ...], shapes: Shapes, told: Told) -> tuple[Cut, ...]:
    """Gates, query / key / value, heads and channels along the axes of a matrix or a vector."""
    cuts: list[Cut] = []
    for axis, size in enumerate(shape):
        if names := gates(name, axis, shape, shapes):
            cuts.append(Cut(axis, len(names), 2, "gate", names))
            continue
        names = parts(name, axis, shape, shapes)
        _, run, unit, head = told.get((name, axis), Units("", 0, "", 0))
        part = size // max(1, len(names))
        if names:
            cuts.append(Cut(axis, len(names), 2, "part", names))
        shared, rest = divmod(run, head) if head else (0, 1)  # heads of one unit
        if rest or shared < 2 or part % run:
            if min(run, head) > 1 and part % min(run, head) == 0 and part > min(run, head):
                cuts.append(Cut(axis, part // min(run, head), 1, unit))
        elif interleaved(name) and shared > 2:  # of each group its queries, then key and value
            inside = ("query",) * (shared - 2) + QUERY_KEY_VALUE[1:]
            cuts += [Cut(axis, part // run, 2, unit if shared == 3 else "group"), Cut(axis, shared, 1, "part", inside)]
        else:
            groups = [Cut(axis, part // run, 2, "group")] if part > run else []
            cuts += [*groups, Cut(axis, shared, 1, unit)]
    return tuple(cuts)


def _stack(word: str, shape: tuple[int, ...]) -> Kind:
    last = len(shape) - 1
    unit = "expert" if word == "experts" else "matrix"
    outer = tuple(range(last - 1))
    return Kind(
        word,
        (*outer, last - 1),
        (last,),
        (*(unit for _ in outer), "row", "column"),
        tuple(Cut(a, shape[a], 2, unit) for a in outer),
        True,
    )


def _kernel_named(name: str) -> bool:
    return re.split(r"[./]", name)[-1].endswith("kernel")


def _convolution(name: str, shape: tuple[int, ...], shapes: Shapes, told: Told) -> Kind:
    """Filters down, their inputs across, the kernel inside. Keras, Flax and Haiku keep (..., in, out), PyTorch (out, in, ...)."""
    last = len(shape) - 1
    if _kernel_named(name) or (not name.endswith("weight") and _square(shape[:2]) and not _square(shape[2:])):
        units, inputs, kernel = last, last - 1, tuple(range(last - 1))
    else:
        units, inputs, kernel = 0, 1, tuple(range(2, last + 1))
    roles = {axis: told[name, axis].role for axis in (units, inputs) if (name, axis) in told}
    bias = shapes.get(re.sub(r"(weight|kernel)$", "bias", name), ())
    told_so = "out" in roles.get(inputs, "") or ("in" in roles.get(units, "") and "out" not in roles.get(units, ""))
    if told_so or (not roles and bias == (shape[inputs],) != (shape[units],)):
        units, inputs = inputs, units  # a transposed convolution: the wiring says so, or its bias
    words = ["row"] * len(shape)
    words[units], words[inputs], words[kernel[-1]] = "filter", "input", "column"
    single = all(shape[a] == 1 for a in kernel)
    cuts = [] if single else [Cut(units, shape[units], 2, "filter"), Cut(inputs, shape[inputs], 1, "input")]
    if not single:
        cuts += [Cut(a, shape[a], 1, "slice") for a in kernel[:-2] if shape[a] > 1]
    return Kind("convolution", (units, *kernel[:-1]), (inputs, kernel[-1]), tuple(words), tuple(cuts), wrap=not single)


def _square(kernel: tuple[int, ...]) -> bool:
    return len(set(kernel)) == 1 and kernel[0] <= 15

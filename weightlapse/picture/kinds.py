"""What a tensor is, from its name, its shape, its neighbours and the wiring: that decides how it is laid out.

Names are those of PyTorch, Keras, Flax, Haiku and the common transformers. Where the recording holds the wiring, that decides which
axis the units are on and where the heads are cut. A tensor of which nothing is known is drawn by its axes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from weightlapse.recording.polar import PARTS

Shapes = Mapping[str, tuple[int, ...]]

ATTENTION = ("query", "key", "value")
GATES = {3: ("reset", "update", "new"), 4: ("input", "forget", "cell", "output")}
_QKV = re.compile(r"in_proj|qkv|c_attn|query_key_value", re.IGNORECASE)
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


Told = dict[
    tuple[str, int], tuple[str, int, str]
]  # (tensor, axis) -> role, indices of a unit in one piece (0: none), what a unit is


def _told(wiring: Any) -> Told:
    told: Told = {}
    groups = list(wiring.groups) if wiring is not None else []
    parents = {group.parent[0] for group in groups if getattr(group, "parent", None)}
    for group in groups:
        for member in group.members:
            key = (member.tensor, member.axis)
            if getattr(group, "parent", None) or key in told:  # units inside a head: the heads have been told of
                continue
            told[key] = (
                str(member.role),
                _run(np.asarray(member.index)),
                "head" if group.name in parents else "channel",
            )
    return told


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
    if _ATTENTIVE.search(name) and len(shape) == 3 and _HEADED.search(name + "."):
        if _OUT.search(name + "."):
            return Kind("attention", (0, 1), (2,), ("head", "input", "output"), (Cut(0, shape[0], 1, "head"),))
        return Kind("attention", (0,), (1, 2), ("input", "head", "output"), (Cut(1, shape[1], 1, "head"),))
    if _EXPERTS.search(name) or (len(shape) == 3 and shape[-1] > _STACKED and not _kernel_named(name)):
        return _stack("experts" if _EXPERTS.search(name) else "stack", shape)
    return _convolution(name, shape, told)


def _by_axes(word: str, ndim: int) -> Kind:
    from weightlapse.picture.layout import plain_axes

    return Kind(word, *plain_axes(ndim), ("unit",) * ndim)


def _matrix(name: str, shape: tuple[int, ...], shapes: Shapes, told: Told) -> Kind:
    cuts = _cuts(name, shape, shapes, told)
    keras = _kernel_named(name)
    units = ("input", "unit") if keras else ("unit", "input")
    if any(cut.names in GATES.values() for cut in cuts):
        return Kind("gates", (0,), (1,), units, cuts)
    if any(cut.unit == "head" or cut.names == ATTENTION for cut in cuts):
        return Kind("attention", (0,), (1,), units, cuts)
    if _EMBEDDING.search(name) and not keras:
        return Kind("embedding", (0,), (1,), ("token", "dimension"), (), wrap=shape[0] > 6 * shape[1])
    return Kind("dense", (0,), (1,), units, cuts)


def _cuts(name: str, shape: tuple[int, ...], shapes: Shapes, told: Told) -> tuple[Cut, ...]:
    """Gates, query / key / value, heads and channels along the axes of a matrix or a vector."""
    cuts: list[Cut] = []
    for axis, size in enumerate(shape):
        gates = _gates(name, axis, shape, shapes)
        if gates:
            cuts.append(Cut(axis, gates, 2, "gate", GATES[gates]))
            continue
        tripled = _QKV.search(name) and size % 3 == 0 and _width(name, shape, shapes) * 3 == size
        role_run = told.get((name, axis))
        run = role_run[1] if role_run else 0
        part = size // 3 if tripled else size
        headed = run > 1 and part % run == 0 and part > run
        if tripled and not (headed and "query_key_value" in name.lower()):  # there each head holds its own three
            cuts.append(Cut(axis, 3, 2, "part", ATTENTION))
        if headed and role_run is not None:
            cuts.append(Cut(axis, part // run, 1, role_run[2]))
    return tuple(cuts)


def _width(name: str, shape: tuple[int, ...], shapes: Shapes) -> int:
    """The width of the layer that a fused query-key-value projection belongs to; 0 where unknown."""
    if len(shape) == 2:
        return min(shape)
    for word in ("weight", "kernel"):
        partner = shapes.get(re.sub(r"bias$", word, name))
        if partner is not None and len(partner) == 2:
            return min(partner)
    return 0


def _gates(name: str, axis: int, shape: tuple[int, ...], shapes: Shapes) -> int:
    """Into how many gates of a recurrent layer ``axis`` is cut; 0: none."""
    torch = re.fullmatch(r"(.*?)(weight|bias)_(ih|hh)(_l\d+(?:_reverse)?)?", name)
    if torch and axis == 0:
        hidden = shapes.get(f"{torch[1]}weight_hh{torch[4] or ''}")
        if hidden is not None and len(hidden) == 2 and hidden[0] == shape[0]:
            return hidden[0] // hidden[1] if hidden[0] in (3 * hidden[1], 4 * hidden[1]) else 0
    keras = re.fullmatch(r"(.*[./])(kernel|recurrent_kernel|bias)", name)
    if keras and axis == len(shape) - 1:
        hidden = shapes.get(f"{keras[1]}recurrent_kernel")
        if hidden is not None and len(hidden) == 2 and hidden[1] == shape[axis]:
            return hidden[1] // hidden[0] if hidden[1] in (3 * hidden[0], 4 * hidden[0]) else 0
    return 0


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


def _convolution(name: str, shape: tuple[int, ...], told: Told) -> Kind:
    """Filters down, their inputs across, the kernel inside. Keras, Flax and Haiku keep (..., in, out), PyTorch (out, in, ...)."""
    last = len(shape) - 1
    if _kernel_named(name) or (not name.endswith("weight") and _square(shape[:2]) and not _square(shape[2:])):
        units, inputs, kernel = last, last - 1, tuple(range(last - 1))
    else:
        units, inputs, kernel = 0, 1, tuple(range(2, last + 1))
    roles = {axis: told[name, axis][0] for axis in (units, inputs) if (name, axis) in told}
    if "out" in roles.get(inputs, "") or ("in" in roles.get(units, "") and "out" not in roles.get(units, "")):
        units, inputs = inputs, units  # a transposed convolution
    words = ["row"] * len(shape)
    words[units], words[inputs], words[kernel[-1]] = "filter", "input", "column"
    single = all(shape[a] == 1 for a in kernel)
    cuts = [] if single else [Cut(units, shape[units], 2, "filter"), Cut(inputs, shape[inputs], 1, "input")]
    if not single:
        cuts += [Cut(a, shape[a], 1, "slice") for a in kernel[:-2] if shape[a] > 1]
    return Kind("convolution", (units, *kernel[:-1]), (inputs, kernel[-1]), tuple(words), tuple(cuts), wrap=not single)


def _square(kernel: tuple[int, ...]) -> bool:
    return len(set(kernel)) == 1 and kernel[0] <= 15

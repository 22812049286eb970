"""What is fused along one axis of a tensor: the gates of a recurrent layer, the query, key and value of an attention.

Read off names, shapes and neighbours, as PyTorch, Keras and the common transformers have them. The parts of an axis are equally long; where a query has more
heads than key and value, it is several parts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

Shapes = Mapping[str, tuple[int, ...]]

LSTM = ("input", "forget", "cell", "output")
GRU = ("reset", "update", "new")
KERAS_GRU = ("update", "reset", "new")
QUERY_KEY_VALUE = ("query", "key", "value")

_FUSED = re.compile(r"in_proj|qkv|c_attn", re.IGNORECASE)
_PAIR = re.compile(r"(^|[._/])(kv|to_kv|kv_proj)([._/]|$)", re.IGNORECASE)
_INTERLEAVED = re.compile(r"query_key_value", re.IGNORECASE)
_OUTPUTS = ("o_proj", "out_proj", "proj", "dense", "c_proj", "wo", "to_out.0")
_MOST = 64  # parts that are told apart by names


def gates(name: str, axis: int, shape: tuple[int, ...], shapes: Shapes) -> tuple[str, ...]:
    """The gates of a recurrent layer along ``axis``, in their order; none: an empty tuple.

    >>> gates("gru.weight_ih_l0", 0, (12, 5), {"gru.weight_hh_l0": (12, 4)})
    ('reset', 'update', 'new')
    """
    torch = re.fullmatch(r"(.*?)(weight|bias)_(ih|hh)(_l\d+(?:_reverse)?)?", name)
    if torch and axis == 0:
        state = shapes.get(f"{torch[1]}weight_hh{torch[4] or ''}", (0, 0))
        state = shapes.get(f"{torch[1]}weight_hr{torch[4] or ''}", state)  # an LSTM that projects what it puts out
        return _named(shape[0], state[-1], GRU)
    keras = re.fullmatch(r"(.*[./])(kernel|recurrent_kernel|bias)", name)
    if keras and axis == len(shape) - 1:
        return _named(shape[axis], shapes.get(f"{keras[1]}recurrent_kernel", (0,))[0], KERAS_GRU)
    return ()


def _named(size: int, hidden: int, gru: tuple[str, ...]) -> tuple[str, ...]:
    return next((names for names in (gru, LSTM) if hidden and size == len(names) * hidden), ())


def parts(name: str, axis: int, shape: tuple[int, ...], shapes: Shapes) -> tuple[str, ...]:
    """What each of the equal parts of ``axis`` is: query, key, value; none: an empty tuple.

    >>> parts("h.0.attn.c_attn.weight", 1, (8, 24), {})
    ('query', 'key', 'value')
    >>> parts("attn.qkv_proj.weight", 0, (32, 16), {"attn.o_proj.weight": (16, 16)})       # four heads, two of key and value
    ('query', 'query', 'key', 'value')
    """
    size, width = shape[axis], _width(name, shape, shapes)
    if interleaved(name) or not width:
        return ()
    if _PAIR.search(name):
        return QUERY_KEY_VALUE[1:] if size == 2 * width else ()
    if not _FUSED.search(name):
        return ()
    if size == 3 * width:
        return QUERY_KEY_VALUE
    query = _query(name, shapes)
    key, rest = divmod(size - query, 2)
    if not 0 < key < query or rest or axis != (0 if size == max(shape) else len(shape) - 1):
        return ()
    each = math.gcd(query, key)
    named = ("query",) * (query // each) + ("key",) * (key // each) + ("value",) * (key // each)
    return named if len(named) <= _MOST else ()


def interleaved(name: str) -> bool:
    """Whether each head holds its own query, key and value, as in GPT-NeoX, BLOOM and Falcon: only who knows the heads can cut such a tensor."""
    return _INTERLEAVED.search(name) is not None


def _width(name: str, shape: tuple[int, ...], shapes: Shapes) -> int:
    """The width of the layer that a fused projection belongs to; 0 where unknown."""
    if len(shape) == 2:
        return min(shape)
    others = [re.sub(r"bias$", word, name) for word in ("weight", "kernel")]
    others.append(
        re.sub(r"in_proj_bias$", "out_proj.weight", name)
    )  # of an attention with key and value of other widths
    for partner in (shapes.get(other) for other in others if other != name):
        if partner is not None and len(partner) == 2:
            return min(partner)
    return 0


def _query(name: str, shapes: Shapes) -> int:
    """How long the query is in a fused projection: as much as the projection after it takes; 0 where unknown."""
    head = re.match(r"(.*?)[^._/]*(in_proj|qkv|c_attn)", name, re.IGNORECASE)
    for word in _OUTPUTS if head else ():
        after = shapes.get(f"{head[1]}{word}.weight")  # type: ignore[index]
        if after is not None and len(after) == 2:
            return after[1]
    return 0

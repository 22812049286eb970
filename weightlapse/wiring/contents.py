"""What a model holds, to tell whether running it changed anything besides its results."""

from __future__ import annotations

import types
from collections import OrderedDict, deque
from operator import is_
from typing import Any

from torch import Tensor, nn

# Objects whose state cannot be looked into: generators of numbers, iterators, arrays.
_OPAQUE = ("__next__", "getstate", "get_state", "bit_generator", "tobytes")
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})
_DICTS = frozenset({dict, OrderedDict})


class Contents:
    """Equal when all objects are the same ones and nothing about them has changed."""

    def __init__(self, objects: list[Any], marks: list[Any]) -> None:
        self._objects, self._marks = objects, marks

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Contents) or len(self._objects) != len(other._objects):
            return False
        return all(map(is_, self._objects, other._objects)) and self._marks == other._marks

    __hash__ = None  # type: ignore[assignment]


def contents(model: nn.Module) -> Contents:
    """Taken before and after a run, the two are equal when the run changed no list, dictionary, attribute or tensor.

    Values are compared by identity, tensors also by their version; an object that cannot be looked into counts as changed.

    >>> import torch
    >>> net = torch.nn.Linear(2, 2)
    >>> before = contents(net)
    >>> contents(net) == before
    True
    >>> net.seen = []
    >>> contents(net) == before
    False
    """
    objects: list[Any] = []  # kept alive: an id alone may be given to another
    marks: list[Any] = []
    seen: set[int] = set()
    waiting: list[Any] = [model]
    while waiting:
        value = waiting.pop()
        objects.append(value)
        kind = type(value)
        if kind in _PLAIN or id(value) in seen:
            continue
        seen.add(id(value))
        if kind in _DICTS or isinstance(value, nn.Module):
            inside = value if kind in _DICTS else vars(value)
            marks.append(len(inside))
            for part in inside.values():
                if type(part) in _PLAIN or (type(part) in _DICTS and not part):  # most of what a module holds
                    objects.append(part)
                    marks.append(None)
                else:
                    waiting.append(part)
        elif not isinstance(value, (type, types.ModuleType)):
            mark, parts = _inside(value)
            marks += (mark, len(parts))
            waiting += parts
    return Contents(objects, marks)


def _inside(value: Any) -> tuple[Any, list[Any]]:
    """Something that differs after a change, and the parts to look into."""
    if isinstance(value, Tensor):
        return (0 if value.is_inference() else value._version), []
    if isinstance(value, types.FunctionType):
        return None, [c.cell_contents for c in value.__closure__ or () if c != types.CellType()]
    if isinstance(value, types.MethodType):
        return None, [value.__self__]
    parts = list(vars(value).values()) if hasattr(value, "__dict__") else []
    if isinstance(value, dict):
        parts += dict.values(value)
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        parts += value
    elif not isinstance(value, nn.Module) and any(hasattr(value, name) for name in _OPAQUE):
        return object(), []
    return None, parts

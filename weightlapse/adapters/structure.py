"""Nested mappings and sequences of arrays, flattened quickly while their structure stays the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Structure:
    """The containers of a nested mapping with their keys, and the types of what they hold.

    >>> Structure({"layers": [{"w": 1}, {"w": 2, "b": None}]}).leaves({"layers": [{"w": 3}, {"w": 4, "b": None}]})
    [3, 4]
    """

    def __init__(self, value: Any) -> None:
        self._type = type(value)
        self._keys = [*value] if isinstance(value, Mapping) else None
        items = self._items(value)
        self._types = [*map(type, items)]
        self._inner = {
            i: Structure(item)
            for i, item in enumerate(items)
            if isinstance(item, (Mapping, list, tuple)) or item is None
        }

    def _items(self, value: Any) -> list[Any]:
        if value is None:
            return []
        return [*value.values()] if self._keys is not None else [*value]

    def leaves(self, value: Any) -> list[Any] | None:
        """What the containers of ``value`` hold, in order and without None; None when they are not those of before."""
        if type(value) is not self._type or (self._keys is not None and [*value] != self._keys):
            return None
        items = self._items(value)
        if [*map(type, items)] != self._types:
            return None
        if not self._inner:
            return items
        found: list[Any] = []
        for i, item in enumerate(items):
            if (inner := self._inner.get(i)) is None:
                found.append(item)
            elif (within := inner.leaves(item)) is None:
                return None
            else:
                found += within
        return found

"""Several models as one: a mapping or list of them is one recording, whose names begin with the keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from weightlapse.adapters.arrays import Entry, EntrySource
from weightlapse.adapters.source import Selection
from weightlapse.errors import InvalidArgument


def items_of(model: Any) -> dict[str, Any] | None:
    """The parts of a plain mapping, list or tuple by key or position; None for anything else."""
    if isinstance(model, Mapping):
        return {str(key): value for key, value in model.items()}
    if isinstance(model, (list, tuple)):
        return {str(i): value for i, value in enumerate(model)}
    return None


def leaves(model: Any, prefix: str = "") -> dict[str, Any]:
    """All parts of nested mappings and lists, by dotted names.

    >>> leaves({"g": [1, 2], "d": 3})
    {'g.0': 1, 'g.1': 2, 'd': 3}
    """
    parts = items_of(model)
    if parts is None:
        return {prefix: model}
    found: dict[str, Any] = {}
    for key, value in parts.items():
        for name, leaf in leaves(value, f"{prefix}.{key}" if prefix else key).items():
            if name in found:
                raise InvalidArgument(f"two of the models have the name {name!r}: rename one of them")
            found[name] = leaf
    return found


class SeveralSource(EntrySource):
    """Models that hold their arrays themselves, of any framework but torch: the entries of each, under its name."""

    takes_params = False

    def __init__(self, model: Any, source_of: Callable[[str, Any], EntrySource], selection: Selection) -> None:
        super().__init__(selection)
        self._model = model
        self._source_of = source_of
        self._parts: dict[str, Any] = {}
        self._sources: dict[str, EntrySource] = {}
        self._look()
        self.framework = next(iter(self._sources.values())).framework

    def _look(self) -> None:
        """The models may be others than before: whoever holds the mapping can exchange them."""
        parts = leaves(self._model)
        self._sources = {
            key: self._sources[key] if self._parts.get(key) is part else self._source_of(key, part)
            for key, part in parts.items()
        }
        self._parts = parts

    def entries(self, params: Any) -> list[Entry]:
        """(key.name, stream, value) of every model; models that were put into the mapping since are taken up, ``params`` is not looked at."""
        self._look()
        return [
            (f"{key}.{name}", stream, value)
            for key, source in self._sources.items()
            for name, stream, value in source.entries(None)
        ]

    def held(self, tensors: Sequence[Any]) -> tuple[list[str], list[str]]:
        """As `Source.held`, of the models that can tell: a trainable array of one counts as not held by the optimizer of another."""
        inside: list[str] = []
        outside: list[str] = []
        for key, source in self._sources.items():
            if (known := source.held(tensors)) is not None:
                mine, others = known
                inside += [f"{key}.{name}" for name in mine]
                outside += [f"{key}.{name}" for name in others]
        return inside, outside


def part_of(state: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The arrays of one of the models, under its own names."""
    return {name[len(key) + 1 :]: values for name, values in state.items() if name.startswith(f"{key}.")}

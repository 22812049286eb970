"""A recording seen under the names of another of the same architecture: Keras numbers layers through a program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weightlapse.wiring.naming import paired_names, renamed_wiring


def under_names_of(a: Any, b: Any) -> Any:
    """The recording ``b`` with a's names for its tensors, where they bear others and can be told to be the same; else ``b`` itself."""
    found = paired_names(_own(a), _own(b))
    if found is None or all(name == mine for name, mine in found.items()):
        return b
    return RenamedRecording(b, {mine: name for name, mine in found.items()})


def _own(run: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in run.shapes.items() if ":" not in name}


class RenamedRecording:
    """The face of a recording, or of one of its epochs; ``own`` maps the names that it shows to those that it holds."""

    def __init__(self, run: Any, own: Mapping[str, str]) -> None:
        self._run, self._own = run, dict(own)
        self._shown = {name: shown for shown, name in own.items()}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    def __len__(self) -> int:
        return len(self._run)

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def __getitem__(self, name: str) -> Any:
        stream, colon, rest = name.rpartition(":")
        return self._run[f"{stream}{colon}{self._own.get(rest, rest)}"]

    def _show(self, name: str) -> str:
        stream, colon, rest = name.rpartition(":")
        return f"{stream}{colon}{self._shown.get(rest, rest)}"

    @property
    def names(self) -> list[str]:
        return [self._show(name) for name in self._run.names]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {self._show(name): shape for name, shape in self._run.shapes.items()}

    @property
    def dtypes(self) -> dict[str, str]:
        return {self._show(name): dtype for name, dtype in self._run.dtypes.items()}

    @property
    def streams(self) -> dict[str, str]:
        return {self._show(name): stream for name, stream in self._run.streams.items()}

    @property
    def epochs(self) -> list[Any]:
        return [RenamedRecording(epoch, self._own) for epoch in getattr(self._run, "epochs", ())]

    @property
    def wiring(self) -> Any:
        found = self._run.wiring
        return None if found is None else renamed_wiring(found, self._shown)

    def state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {self._show(name): value for name, value in self._run.state(*args, **kwargs).items()}

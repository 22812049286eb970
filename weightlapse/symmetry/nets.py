"""Two networks made ready for comparing: networks of other frameworks as modules that run, both under the names of the first."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from weightlapse.symmetry.alignment import Alignment
from weightlapse.symmetry.states import Renamed, is_module, state_of
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.naming import paired_names, shapes_of
from weightlapse.wiring.programs.find import is_foreign, program_of


@dataclass(frozen=True)
class Nets:
    """``b`` bears a's names; ``own`` maps them to those that it came with. ``arrays``: whether its states are given back as NumPy arrays."""

    a: Any
    b: Any
    own: Mapping[str, str] = field(default_factory=dict)
    arrays: bool = False

    @classmethod
    def of(cls, a: Any, b: Any) -> Nets:
        foreign = is_foreign(b)
        a, b = runnable(a), runnable(b)
        names = _other_names(a, b)
        if not names:
            return cls(a, b, arrays=foreign)
        b = b.under(names) if is_module(b) else _Under(b, names)
        return cls(a, b, {mine: name for name, mine in names.items()}, foreign)

    def given_back(self, found: Alignment) -> Alignment:
        """The alignment with b's state under b's own names."""
        if not self.own and not self.arrays:
            return found
        state = {self.own.get(n, n): _array(v) if self.arrays else v for n, v in found.state.items()}
        return replace(found, state=state, names=dict(self.own))


def given(what: Any) -> tuple[Any, Wiring | None]:
    """A network as it was given, or the state that lies at a path or at the end of a recording; and the wiring of a recording.

    Paths: a checkpoint (file, folder of shards), a recording, or one step of it ("run@500"). Raises what `weightlapse.recording.given.at_path` does.
    """
    if isinstance(what, (str, os.PathLike)):
        from weightlapse.recording.given import at_path

        found = at_path(what)
        if found.run is None:
            return found.widened(), None
        return _state_at(found.run, found.step)
    recordings = sys.modules.get("weightlapse.recording.recording")  # of what was never imported there is none
    if recordings is not None and isinstance(what, recordings.Recording):
        return _state_at(what, None)
    return what, None


def _state_at(run: Any, step: int | None) -> tuple[dict[str, Any], Wiring | None]:
    from weightlapse.recording.given import frame_at

    return dict(run.state(frame=frame_at(run, step))), run.wiring


class _Under(Renamed):
    """A mapping under the names of another network; values are read when they are looked at."""

    def __init__(self, state: Mapping[Any, Any], names: Mapping[str, str]) -> None:
        self._state = state
        self._names = {names.get(str(n), str(n)): n for n in state}


def runnable(net: Any) -> Any:
    """A network of another framework as a torch module that computes the same; anything else as it is."""
    return program_of(net) if is_foreign(net) else net


def _other_names(a: Any, b: Any) -> dict[str, str]:
    """Name in b -> name in a where they differ and can be told to be the same tensors; nothing where they agree or cannot."""
    if not all(hasattr(n, "under") or isinstance(n, Mapping) for n in (a, b)):
        return {}
    found = paired_names(*(shapes_of(state_of(n)) for n in (a, b)))
    return {} if found is None else {name: mine for name, mine in found.items() if name != mine}


def _array(value: Any) -> Any:
    return np.array(value.detach().cpu().numpy()) if hasattr(value, "detach") else value

"""A recording seen under the names of another of the same architecture: Keras numbers layers through a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from numpy.typing import NDArray

from weightlapse.recording.run import LayoutSpan, Run, Seen, SeenSpan, Shapes, TensorHistory
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.naming import paired_names, renamed_wiring

T = TypeVar("T")


def under_names_of(a: Run, b: Run) -> Run:
    """The recording ``b`` with a's names for its tensors, where they bear others and can be told to be the same; else ``b`` itself."""
    found = paired_names(_own(a), _own(b))
    if found is None or all(name == mine for name, mine in found.items()):
        return b
    return RenamedRecording(b, {mine: name for name, mine in found.items()})


def _own(run: Run) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in run.shapes.items() if ":" not in name}


class _Names:
    """Names that are shown, and those that are held; a stream in front ("gradients:") stays."""

    def __init__(self, held: Mapping[str, str]) -> None:
        self.of_shown, self.of_held = dict(held), {own: shown for shown, own in held.items()}

    def held(self, name: str) -> str:
        stream, colon, rest = name.rpartition(":")
        return f"{stream}{colon}{self.of_shown.get(rest, rest)}"

    def shown(self, name: str) -> str:
        stream, colon, rest = name.rpartition(":")
        return f"{stream}{colon}{self.of_held.get(rest, rest)}"

    def all_shown(self, given: Mapping[str, T]) -> dict[str, T]:
        return {self.shown(name): value for name, value in given.items()}


class RenamedRecording(Seen):
    """A recording under other names; ``own`` maps the names that it shows to those that it holds."""

    def __init__(self, run: Run, own: Mapping[str, str]) -> None:
        super().__init__(run)
        self._named = _Names(own)

    def __getitem__(self, name: str, /) -> TensorHistory:
        return self._run[self._named.held(name)]

    def __contains__(self, name: object, /) -> bool:
        return isinstance(name, str) and self._named.held(name) in self._run

    def bound(self, name: str, frame: int | None = None) -> float:
        """As `Run.bound`, asked by the name that is shown."""
        return self._run.bound(self._named.held(name), frame)

    @property
    def names(self) -> list[str]:
        """The names that are shown, in the order of the recording behind; one that has no other name keeps its own."""
        return [self._named.shown(name) for name in self._run.names]

    @property
    def shapes(self) -> Shapes:
        """Shown name -> shape; the axes are those of the recording behind, only names differ."""
        return self._named.all_shown(self._run.shapes)

    @property
    def dtypes(self) -> Mapping[str, str]:
        """Shown name -> dtype as recorded."""
        return self._named.all_shown(self._run.dtypes)

    @property
    def streams(self) -> Mapping[str, str]:
        """Shown name -> stream. A stream in front of a name ("gradients:w") stays in front of the shown one."""
        return self._named.all_shown(self._run.streams)

    @property
    def aliases(self) -> Mapping[str, Sequence[str]]:
        """Shown name -> further names of tied tensors, which are those of the recording behind."""
        return self._named.all_shown(self._run.aliases)

    @property
    def layouts(self) -> list[LayoutSpan]:
        """The stretches of the recording behind, each with its tensors under their shown names."""
        return [_RenamedSpan(span, self._named) for span in self._run.layouts]

    @property
    def branches(self) -> Mapping[str, Run]:
        """The branches of the recording behind, under the same names for their tensors."""
        return {name: RenamedRecording(branch, self._named.of_shown) for name, branch in self._run.branches.items()}

    @property
    def wiring(self) -> Wiring | None:
        """The wiring of the recording behind with its members renamed; None where that has none."""
        found = self._run.wiring
        return None if found is None else renamed_wiring(found, self._named.of_held)

    def state(self, step: int | None = None, *, frame: int | None = None) -> dict[str, NDArray[Any]]:
        """As `Run.state`, by shown names; the arrays are those of the recording behind, not copies."""
        return self._named.all_shown(self._run.state(step, frame=frame))


class _RenamedSpan(SeenSpan):
    def __init__(self, span: LayoutSpan, named: _Names) -> None:
        super().__init__(span)
        self._named = named

    @property
    def names(self) -> list[str]:
        return [self._named.shown(name) for name in self._span.names]

    @property
    def shapes(self) -> Shapes:
        return self._named.all_shown(self._span.shapes)

    @property
    def dtypes(self) -> Mapping[str, str]:
        return self._named.all_shown(self._span.dtypes)

    def __getitem__(self, name: str, /) -> TensorHistory:
        return self._span[self._named.held(name)]

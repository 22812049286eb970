"""Every error that weightlapse raises.

    WeightlapseError
    ├── NotARecording        a path that holds no recording, or one of a newer format
    ├── DamagedRecording     bytes that fail their checksum or contradict each other
    ├── MissingStep          (also a KeyError)    a step that was not recorded
    ├── UnknownTensor        (also a KeyError)    a name that the recording or network does not have
    ├── InvalidArgument      (also a ValueError)  an argument that cannot be meant
    │   └── UnknownArgument  (also a TypeError)   an argument that there is not
    ├── MissingExtra         (also an ImportError) an optional package that is not installed
    ├── CannotRecord         a model or a place that cannot be recorded
    ├── CannotTrace          a network whose wiring cannot be found
    ├── CannotAlign          two networks that cannot be brought together
    ├── CannotGrow           a change that would alter the function
    └── VacuousComparison    a comparison that could only come out equal

    RecorderWarning          (a UserWarning)      what a recorder has to say while training goes on
    └── RecordingStopped     a recorder had to stop
    RecordingIncomplete      (a UserWarning)      what is read has lost some of its scalars and events

A message says what was wrong, where, why it matters and what to do, in one go: it is written where the context is known.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class WeightlapseError(Exception):
    """Root of all errors raised on purpose by weightlapse."""

    def __str__(self) -> str:
        # KeyError would show its message in quotes; every error here reads as a sentence.
        return str(self.args[0]) if self.args else ""


class NotARecording(WeightlapseError):
    """The path holds no recording that this version can read."""


class DamagedRecording(WeightlapseError):
    """Bytes on disk fail their checksum or contradict each other; the message says which and where."""


class MissingStep(WeightlapseError, KeyError):
    """The step was not recorded; the message names the nearest ones that were."""


class UnknownTensor(WeightlapseError, KeyError):
    """No tensor (or unit group) of that name; the message names the closest ones."""


class InvalidArgument(WeightlapseError, ValueError):
    """An argument that cannot be meant, with what was expected instead."""


class UnknownArgument(InvalidArgument, TypeError):
    """A keyword argument that there is not; the message names the closest ones."""


class MissingExtra(WeightlapseError, ImportError):
    """An optional package is needed and not installed; the message gives the line that installs it."""


class CannotRecord(WeightlapseError):
    """The model cannot be recorded, or not there."""


class CannotTrace(WeightlapseError):
    """The wiring of the network cannot be found; the message names the operator or the reason."""


class CannotAlign(WeightlapseError):
    """The two networks cannot be brought together; the message names the tensors that differ."""


class CannotGrow(WeightlapseError):
    """Growing as asked would change what the network computes; the message names the group and the reason."""


class VacuousComparison(WeightlapseError):
    """The comparison could only come out equal (constant outputs, dead networks, no data)."""


class RecorderWarning(UserWarning):
    """What a recorder has to say while the training goes on: each thing once, and in the recording too."""


class RecordingStopped(RecorderWarning):
    """A recorder had to stop; training goes on without it. The message says why."""


class RecordingIncomplete(UserWarning):
    """A recording that is read has lost some of what was logged or marked; what is shown of it is what is left. The message says where."""


def missing_extra(package: str, *, extra: str, purpose: str) -> MissingExtra:
    """The error for an optional ``package`` that ``purpose`` needs, with the line that installs it."""
    return MissingExtra(
        f"{purpose} needs the package {package!r}, which is not installed; run: pip install 'weightlapse[{extra}]'"
    )


# top-level module -> (the package that holds it, the extra of weightlapse that installs it)
OPTIONAL = {
    "torch": ("torch", "torch"), "scipy": ("scipy", "torch"), "numba": ("numba", "torch"),
    "av": ("av", "film"), "matplotlib": ("matplotlib", "film"), "PIL": ("pillow", "film"),
    "starlette": ("starlette", "view"), "uvicorn": ("uvicorn", "view"), "anywidget": ("anywidget", "view"),
    "keras": ("keras", "keras"), "tensorflow": ("tensorflow-cpu", "keras"),
    "jax": ("jax", "jax"), "flax": ("flax", "jax"), "equinox": ("equinox", "jax"), "optax": ("optax", "jax"),
    "lightning": ("lightning", "lightning"), "transformers": ("transformers", "transformers"), "accelerate": ("accelerate", "transformers"),
    "sklearn": ("scikit-learn", "sklearn"), "ray": ("ray", "ray"),
    "zarr": ("zarr", "export"), "safetensors": ("safetensors", "export"), "pyarrow": ("pyarrow", "export"), "tensorboard": ("tensorboard", "export"),
    "xarray": ("xarray", "export"), "fsspec": ("fsspec", "export"), "h5py": ("h5py", "export"),
    "duckdb": ("duckdb", "query"),
}  # fmt: skip


@contextlib.contextmanager
def optional(purpose: str) -> Iterator[None]:
    """An optional package that turns out to be missing inside is told with what needs it and the line that installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if isinstance(error, WeightlapseError) or (known := OPTIONAL.get(str(error.name).split(".")[0])) is None:
            raise
        raise missing_extra(known[0], extra=known[1], purpose=purpose) from error


def refuse_unknown(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise :class:`UnknownArgument` for the first of the keywords ``given`` that is not ``known``, with the nearest that is."""
    names = list(known)
    for name in given:
        if name not in names:
            raise UnknownArgument(f"{where} has no argument {name!r}; {closest(name, names)}")


def suggesting(function: Callable[P, R]) -> Callable[P, R]:
    """``function``; a keyword that it does not have is refused with the nearest that it has. Its signature, also to a type checker, stays its own."""
    known = inspect.signature(function).parameters

    @functools.wraps(function)
    def checked(*arguments: P.args, **options: P.kwargs) -> R:
        refuse_unknown(options, known, f"{function.__name__}()")
        return function(*arguments, **options)

    return checked


def closest(name: str, known: Iterable[str], count: int = 3) -> str:
    """A phrase for error messages: the names of ``known`` nearest to ``name``, or the first few."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=count, cutoff=0.5) or names[:count]
    if not near:
        return "there are none"
    return "nearest: " + ", ".join(repr(n) for n in near)

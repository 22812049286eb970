"""What the recorder asks of a model, whatever its framework.

An adapter turns a model into a :class:`Source`: named arrays, and a way to copy their current values quickly into a ring of rows.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from weightlapse.adapters.rows import Rows
from weightlapse.errors import CannotRecord, InvalidArgument, closest

FLOATS = (
    *("float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2"),
    *("float8_e5m2fnuz", "float8_e8m0fnu", "float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn"),
)  # of eight bits and fewer: stored as uint8 patterns
DTYPES = frozenset(
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 bfloat16 float32 float64 complex64 complex128".split()
    + ["complex32", "bcomplex32", *FLOATS]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)]
)


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """One array of a model. ``dtype`` is a NumPy name, or one of those that NumPy does not have ("bfloat16", "float8_e5m2", "int4", ...)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    stream: str = "weights"
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise CannotRecord(
                f"{self.name} has dtype {self.dtype}, which cannot be recorded (only {', '.join(sorted(DTYPES))}): "
                "leave it out with tensors=[...]"
            )


def left_out_text(left_out: Mapping[str, str]) -> str:
    """In a sentence, which tensors are not recorded, and why."""
    return "; ".join(f"{name} is not recorded: {why}" for name, why in left_out.items())


class Source(Protocol):
    """A model as named arrays. What only some frameworks can say has an answer that says nothing (see :class:`weightlapse.adapters.arrays.EntrySource`)."""

    framework: str
    shards: dict[str, dict[str, list[int]]]  # of arrays that are parts of tensors: "shape" of the whole, "offset" in it
    left_out: dict[str, str]  # tensors that were chosen and cannot be recorded, with the reason
    generation: int  # rises whenever one of its tensors is replaced by another
    takes_params: bool  # True when step() must be given the current values, because the model object does not hold them
    elsewhere: bool  # whether the values are those last given, and the model holds others
    module: Any  # the torch module, None in other frameworks
    unpacked: str  # why frames were not packed though they were to be, or ""
    pending: Callable[[], None] | None  # waits until the last copy is done; None where copies are done at once

    @property
    def on_device(self) -> bool:
        """Whether copies run beside the training, so that :meth:`settle` must be called before the next update."""

    @property
    def device(self) -> str:
        """Where most of what is recorded lies: "cpu", "cuda:0", ..."""

    @property
    def graded(self) -> bool:
        """Whether it copies gradients."""

    def arrays(self, params: Any) -> Sequence[ArrayInfo]:
        """What there is to record now; ``params`` are the values given by the user, None when the model holds them."""

    def bind(self, rows: Rows | None) -> None:
        """From now on, copy the arrays last listed into these rows; None where :meth:`packed_copies` takes them."""

    def before_any(self, slot: int) -> None:
        """Fill the places of what does not exist before the first update (gradients: NaN)."""

    def before(self, slot: int) -> None:
        """Copy what must be read before the optimizer changes it (gradients)."""

    def refresh(self) -> bool:
        """Whether the arrays are still those last listed, replaced ones taken up."""

    def settle(self) -> None:
        """Return when every copy that was begun has read what it copies."""

    def version(self, *, copied: bool = False) -> Any:
        """Something cheap that is unequal after the weights were changed; None where nothing tells. ``copied``: as it was when the last copy was made."""

    def moved_since(self, version: Any) -> bool:
        """Whether weights were changed after :meth:`version` gave this."""

    def held(self, tensors: Sequence[Any]) -> tuple[list[str], list[str]] | None:
        """Names of parameters that are among these tensors, and of trainable ones that are not; None where that cannot be told."""

    def adopt(self, names: Iterable[str]) -> None:
        """Call the arrays as a recording does that goes on, where the framework does not keep their names."""

    def allocate(self, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """Memory for the ring of frames, of the kind that copies are fast into."""

    def packed_copies(self, tolerance: float | None, *, every: int, memory: int) -> Any:
        """What packs frames where the weights are, from the next :meth:`bind` to no rows on; None where they cannot be packed."""

    def follow(self, model: Any, optimizers: Sequence[Any]) -> None:
        """From now on the arrays are those of another model (torch alone)."""

    def copy(self, slot: int, params: Any) -> bool:
        """Copy all values; False (and nothing is promised about the slot) when the arrays are no longer those last listed."""


class Watcher(Protocol):
    """Who is told of updates: ``before`` one begins, and ``after`` a call that made one, or (not ``sure``) may have made one."""

    def before(self) -> None:
        """An update is about to be made; the weights are still those before it."""

    def after(self, *, sure: bool) -> None:
        """A call that made an update has returned; not ``sure``: whether it made one is seen by the weights."""

    def doubt(self, text: str) -> None:
        """What is told does not show everything, for this reason."""

    def wants_next(self) -> bool:
        """Whether the next update becomes a frame."""

    def skip(self, count: int, why: str) -> None:
        """So many updates have been made and cannot be recorded."""


class Steps(Protocol):
    """The optimizers that are given to watch(), as far as they tell of their updates."""

    plain: bool  # whether weights are touched between before() and after() alone
    given: bool  # whether the user gave them, so that rec.step() besides is a mistake; else they come with the model
    iteration: Any  # where several of them make one frame: an Iteration

    def told(self) -> bool:
        """Where the source has no ``version()``: whether an update has been told of since the last time that somebody asked."""

    def parameters(self) -> list[Any] | None:
        """All tensors that they hold, None when that is not known."""

    def wait(self) -> None:
        """Return when all updates that were started have been told of."""

    def follow(self, watcher: Watcher) -> None:
        """Tell ``watcher`` of every update, until :meth:`leave`."""

    def leave(self) -> None:
        """Tell nobody any more, and take off whatever was put around the optimizers."""


class Selection:
    """The globs of ``tensors=`` and the ``streams=`` to record."""

    def __init__(self, tensors: str | Iterable[str] = "*", streams: Iterable[str] = ("weights",)) -> None:
        for name, value in (("tensors", tensors), ("streams", streams)):
            if not isinstance(value, Iterable):
                raise InvalidArgument(f"{name}={value!r}: give a text or a list of texts")
        self.globs = (tensors,) if isinstance(tensors, str) else tuple(tensors)
        self.streams = (streams,) if isinstance(streams, str) else tuple(streams)
        known = ("weights", "buffers", "gradients", "optimizer")
        for stream in self.streams:
            if stream not in known:
                raise InvalidArgument(
                    f"streams={list(self.streams)}: there is no stream {stream!r}, there are {', '.join(known)}; {closest(str(stream), known, 1)}"
                )
        if not self.globs or not self.streams:
            raise InvalidArgument(
                "tensors= and streams= must each name something: a recording of nothing shows nothing"
            )
        if not all(isinstance(glob, str) and glob.removeprefix("!") for glob in self.globs):
            raise InvalidArgument(
                f"tensors={tensors!r}: give a glob such as 'encoder.*' or a list of them; '!*.bias' leaves tensors out"
            )
        self._out = [glob[1:] for glob in self.globs if glob.startswith("!")]
        self._in = [glob for glob in self.globs if not glob.startswith("!")] or ["*"]

    def wants(self, name: str, aliases: Iterable[str] = ()) -> bool:
        """Whether a tensor is recorded: one of its names matches a glob, and none of those that begin with "!"."""
        return any(_matches(n, self._in) and not _matches(n, self._out) for n in (name, *aliases))

    def check(self, names: Iterable[str], others: Iterable[str] = ()) -> None:
        """Raise when one of the globs matches none of the ``names`` (all that the model has), or when nothing is left.

        A pattern that leaves out what is not there is fine; a whole name is a mistake, unless it is one of the ``others``, of streams that are
        not recorded.
        """
        known = list(names)
        outside = set(known) | set(others)
        for glob in [*self._in, *(g for g in self._out if not set("*?[") & set(g) and g not in outside)]:
            if not any(_matches(name, [glob]) for name in known):
                raise InvalidArgument(
                    f"tensors={glob!r} matches none of the model's {len(known)} tensors; {closest(glob, known)}"
                )
        if not any(self.wants(name) for name in known):
            raise InvalidArgument(
                f"tensors={list(self.globs)} leaves none of the model's {len(known)} tensors to record"
            )


def _matches(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs)

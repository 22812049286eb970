"""What stands on one side of a comparison, as tensors by name: modules, mappings, recordings, checkpoint files and folders."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from weightlapse.adapters.arrays import EntrySource, Patterns, flatten, stored
from weightlapse.adapters.find import find_source
from weightlapse.adapters.source import Selection
from weightlapse.differences.tensor import Bytes, FileBytes, MadeBytes, Tensor
from weightlapse.errors import CannotRecord, InvalidArgument
from weightlapse.recording.given import at_path, frame_at
from weightlapse.store.portable import OPEN_FLAGS
from weightlapse.wiring.programs.find import is_keras

if TYPE_CHECKING:
    from weightlapse.recording.recording import Recording

_WRAPPERS = ("_orig_mod.", "module.")
_OF_WRAPPERS = ("n_averaged",)  # what a wrapper (AveragedModel) holds itself


class Side(dict[str, Tensor]):
    """The tensors of one side by name. ``label`` says what it is; ``wiring`` is that of a recording; ``notes``: what was not read."""

    label: str = ""
    wiring: Any = None
    notes: tuple[str, ...] = ()


@contextmanager
def opened(what: Any, which: str) -> Iterator[Side]:
    """The tensors of ``what``; files stay open until the block ends.

    Raises :class:`InvalidArgument` for what has no tensors, and what reading it raises (CannotRecord, NotARecording, MissingStep, ...).
    """
    descriptors: dict[str, int] = {}
    try:
        side = _side(what, which, descriptors)
        if not side:
            raise InvalidArgument(f"{side.label} holds no tensors, so there is nothing to compare")
        yield side
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)


def _side(what: Any, which: str, descriptors: dict[str, int]) -> Side:
    if isinstance(what, (str, os.PathLike)):
        return _of_path(what, descriptors)
    recordings = sys.modules.get("weightlapse.recording.recording")  # of what was never imported there is none
    if recordings is not None and isinstance(what, recordings.Recording):
        return _of_recording(what, None)
    return _of_object(what, which)


# ---- paths --------------------------------------------------------------------------------------------------------


def _of_path(path: str | os.PathLike[str], descriptors: dict[str, int]) -> Side:
    found = at_path(path)
    if found.run is not None:
        return _of_recording(found.run, found.step)
    side = _of_arrays(found.arrays, found.label, descriptors)
    side.notes = found.notes
    return side


def _of_arrays(arrays: Mapping[str, Any], label: str, descriptors: dict[str, int]) -> Side:
    """Arrays of a checkpoint; those that are mapped from a file are read from it instead."""
    side = Side()
    side.label = label
    for name, value in arrays.items():
        array, dtype = stored(name, value)
        source: Bytes
        mapped = value.patterns if isinstance(value, Patterns) else value
        if isinstance(mapped, np.memmap) and array.size:
            file = str(mapped.filename)
            if file not in descriptors:
                descriptors[file] = os.open(file, os.O_RDONLY | OPEN_FLAGS)
            first = np.frombuffer(mapped._mmap, np.uint8).ctypes.data  # type: ignore[attr-defined]
            source = FileBytes(file, descriptors[file], array.ctypes.data - first)
            place: Any = (file, source.offset, array.nbytes)
        else:
            source, place = MadeBytes(lambda array=array: array), _place(value, array)  # type: ignore[misc]
        side[name] = Tensor(name, dtype, tuple(array.shape), source, place)
    return side


# ---- recordings ---------------------------------------------------------------------------------------------------


def _of_recording(run: Recording, step: int | None) -> Side:
    frame = frame_at(run, step)
    side = Side()
    side.label = f"{run.path}@{int(run.steps[frame])}"
    side.wiring = run.wiring
    span = next(e for e in run.layouts if e.start <= frame < e.stop)
    for spec in run.layout_at(frame).tensors:
        if spec.stream not in ("weights", "buffers"):
            continue
        track, at = span[spec.name], frame - span.start
        source = MadeBytes(lambda track=track, at=at: np.asarray(track.raw(at)))  # type: ignore[misc]
        for name in (spec.name, *spec.aliases):
            side[name] = Tensor(name, spec.dtype, spec.shape, source, (str(run.path), frame, spec.name))
    return side


# ---- objects ------------------------------------------------------------------------------------------------------


def _of_object(what: Any, which: str) -> Side:
    side = Side()
    side.label = f"{which} ({type(what).__name__})"
    for name, value in _entries(what, which).items():
        try:
            array, dtype = stored(name, value)
        except CannotRecord as error:
            raise CannotRecord(f"{name!r} of {which} cannot be compared: {error}") from None
        source = MadeBytes(lambda array=array: array)  # type: ignore[misc]
        side[name] = Tensor(name, dtype, tuple(array.shape), source, _place(value, array))
    return side


def _entries(what: Any, which: str) -> dict[str, Any]:
    if hasattr(what, "get_tensor") and hasattr(what, "keys"):  # a file opened with safetensors.safe_open
        return {str(name): what.get_tensor(name) for name in what.keys()}  # noqa: SIM118  it is no mapping
    if hasattr(what, "state_dict") and callable(what.state_dict) and not is_keras(what):
        return {str(n): v for n, v in what.state_dict().items() if hasattr(v, "shape")}
    if isinstance(what, Mapping) and not any(hasattr(v, "state_dict") for v in what.values()):
        return flatten(what)
    if what is None or isinstance(what, (int, float, bool, bytes)):
        raise InvalidArgument(
            f"{which} is {type(what).__name__}: give a network, a mapping of arrays, a recording or a path"
        )
    source = find_source(what, Selection("*", ("weights", "buffers")))
    if not isinstance(source, EntrySource):
        return {f"{k}.{n}": v for k, part in _parts(what).items() for n, v in part.state_dict().items()}
    return {
        name: value
        for name, stream, value in source.entries(what if source.takes_params else None)
        if stream in ("weights", "buffers")
    }


def _parts(what: Any) -> dict[str, Any]:
    from weightlapse.adapters.several import leaves

    return leaves(what)


def _place(value: Any, array: Any) -> Any:
    """Equal for two names of the same memory."""
    value = value.patterns if isinstance(value, Patterns) else value
    if hasattr(value, "data_ptr") and array.size:
        return value.data_ptr(), tuple(value.shape), value.stride()
    return (array.ctypes.data, array.shape, array.strides) if array.size else id(value)


# ---- wrappers -----------------------------------------------------------------------------------------------------


def unwrap(a: Side, b: Side) -> None:
    """Take the prefixes of wrappers (DataParallel, compiled) off the names of a side where all of them carry it.

    A network may have a part named ``module`` of its own: what gives both sides the most names in common is taken.
    """
    ways = [(p, q) for p in _unwrapped(a) for q in _unwrapped(b)]  # the most unwrapped come first
    one, two = max(ways, key=lambda way: len(set(way[0].values()) & set(way[1].values())))
    for side, names in ((a, one), (b, two)):
        tensors = list(side.items())
        side.clear()
        for old, tensor in tensors:
            tensor.name = names[old]
            side[tensor.name] = tensor


def _unwrapped(side: Side) -> list[dict[str, str]]:
    """The names with all prefixes of wrappers off, with the outermost left, ... and as they are."""
    ways = [{name: name for name in side}]
    while side.wiring is None:  # the names of a wiring stay
        names = ways[0]
        inside = {old: name for old, name in names.items() if old not in _OF_WRAPPERS}
        prefix = next((p for p in _WRAPPERS if inside and all(n.startswith(p) for n in inside.values())), None)
        if prefix is None:
            break
        bare = {old: name.removeprefix(prefix) if old in inside else name for old, name in names.items()}
        if len(set(bare.values())) < len(bare) or "" in bare.values():
            break
        ways.insert(0, bare)
    return ways

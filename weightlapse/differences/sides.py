"""What stands on one side of a comparison, as tensors by name: modules, mappings, recordings, checkpoint files and folders."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weightlapse.adapters.arrays import EntrySource, Patterns, flatten, stored
from weightlapse.adapters.checkpoint_files import READERS, missing_shards
from weightlapse.adapters.checkpoints import file_or_folder, read_checkpoint
from weightlapse.adapters.find import find_source
from weightlapse.adapters.source import Selection
from weightlapse.differences.tensor import Bytes, FileBytes, MadeBytes, Tensor
from weightlapse.errors import CannotRecord, InvalidArgument, WeightlapseError
from weightlapse.store.portable import OPEN_FLAGS
from weightlapse.store.remote import is_url
from weightlapse.wiring.programs.find import is_keras

if TYPE_CHECKING:
    from weightlapse.recording.recording import Recording

_WRAPPERS = ("_orig_mod.", "module.")
_OF_WRAPPERS = ("n_averaged",)  # what a wrapper (AveragedModel) holds itself
_INDEXES = "*.index.json"


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
    text = os.fspath(path)
    if is_url(text):
        bare, _, step = text.rpartition("@")
        return (
            _of_recording(load(bare), _step(step, text))
            if bare and "/" not in step
            else _of_recording(load(text), None)
        )
    if not os.path.lexists(text) and "@" in text:
        bare, _, step = text.rpartition("@")
        if bare and os.path.lexists(bare):
            if not os.path.isdir(bare):
                raise InvalidArgument(f"{bare} is a file and has no steps: leave '@{step}' out")
            return _of_recording(load(bare), _step(step, text))
    place = Path(text)
    if file_or_folder(place) == "folder":
        return _of_folder(place, descriptors)
    if not place.name.endswith(tuple(READERS)):
        raise InvalidArgument(f"{place} is neither a recording nor a checkpoint; known endings: {', '.join(READERS)}")
    return _of_arrays(read_checkpoint(place), str(place), descriptors)


def _step(text: str, whole: str) -> int:
    if text.lstrip("-").isdigit() and len(text) < 19:
        return int(text)
    raise InvalidArgument(f"{whole!r} does not exist, and what follows '@' is no step: write it as run@500")


def _of_folder(path: Path, descriptors: dict[str, int]) -> Side:
    """A recording, or a checkpoint: one file, an index with its files, or nothing but shards."""
    if (path / "manifest.json").exists():
        return _of_recording(load(path), None)
    indexes, files = sorted(path.glob(_INDEXES)), sorted(path.glob("*.safetensors"))
    if any((path / name).is_file() for name in _KNOWN):
        notes = _left_out(path)
        _check_index(path, found := read_checkpoint(path))
        side = _of_arrays(found, str(path), descriptors)
        side.notes = notes
        return side
    if len(indexes) > 1 or not files:
        if not indexes and not any(path.glob("*.bin")) and (found_run := _recording_or_none(path)) is not None:
            return found_run
        said = (
            f"has {len(indexes)} indexes, so which one counts is unknown"
            if indexes
            else "holds neither a recording nor a checkpoint"
        )
        raise InvalidArgument(f"{path} {said}: give one file, or a folder of one checkpoint")
    if not indexes:
        _check_shards(path, files)
    arrays: dict[str, Any] = {}
    for file in files:
        for name, value in read_checkpoint(file).items():
            if name in arrays:
                raise CannotRecord(f"{path} holds two tensors with the name {name[:80]!r}: which one counts is unknown")
            arrays[name] = value
    _check_index(path, arrays)
    return _of_arrays(arrays, str(path), descriptors)


_KNOWN = (
    *("model.safetensors.index.json", "pytorch_model.bin.index.json"),
    *("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors"),
)


def _left_out(path: Path) -> tuple[str, ...]:
    """Say which weights beside those of a folder's checkpoint are not read; refuse where they change what the network is (an adapter)."""
    read = next(name for name in _KNOWN if (path / name).is_file())
    adapters = sorted(f.name for f in path.glob("adapter_model*") if f.name.endswith((".safetensors", ".bin")))
    if adapters and not read.startswith("adapter_model"):
        raise InvalidArgument(
            f"{path} holds {read} and {adapters[0]}, weights and an adapter to them: give the file that is meant"
        )
    stem = read.split(".")[0]
    parts = (
        re.compile(rf"{stem}(-\d+-of-\d+)?\.(safetensors|bin)")
        if read.endswith(".index.json")
        else re.compile(re.escape(read))
    )
    kinds = [
        f.name for ending in ("*.safetensors", "pytorch_model*.bin", "adapter_model*.bin") for f in path.glob(ending)
    ]
    others = sorted(name for name in kinds if not parts.fullmatch(name))
    if not others:
        return ()
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return (f"of {path}, {read} was read and {others[0]}{more} left out",)


def _check_shards(path: Path, files: list[Path]) -> None:
    """Refuse a checkpoint without an index, of whose shards some are not there."""
    if short := missing_shards(file.name for file in files):
        raise CannotRecord(f"{path} is not whole: {short}, and no index names them")


def _recording_or_none(path: Path) -> Side | None:
    try:
        return _of_recording(load(path), None)
    except WeightlapseError:
        return None


def _check_index(path: Path, arrays: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose index names tensors that none of its files holds: a shard is old or was cut off."""
    import json

    for index in sorted(path.glob(_INDEXES))[:1]:
        try:
            named = list(json.loads(index.read_bytes())["weight_map"])
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            raise CannotRecord(f"{index} is no index of a sharded checkpoint") from None
        missing = [name for name in named if name not in arrays]
        if missing:
            raise CannotRecord(
                f"{index} names {len(missing)} tensors that the files beside it do not hold, the first {missing[0][:80]!r}: "
                "a file is missing or from another checkpoint"
            )


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


def load(path: str | os.PathLike[str]) -> Recording:
    """Imported when there is a recording: files of weights are compared in less time than that takes."""
    run: Recording = importlib.import_module("weightlapse.recording.recording").load(path)
    return run


def _of_recording(run: Recording, step: int | None) -> Side:
    if run.frames == 0:
        raise InvalidArgument(f"{run.path} has no frames yet, so there is nothing to compare")
    if step is None:
        frame = run.frames - 1
    else:
        found = np.flatnonzero(run.steps == step)
        if not len(found):
            run.state(step)  # raises MissingStep, which names the nearest
        frame = int(found[0])
    side = Side()
    side.label = f"{run.path}@{int(run.steps[frame])}"
    side.wiring = run.wiring
    epoch = next(e for e in run.epochs if e.start <= frame < e.stop)
    for spec in run.layout_at(frame).tensors:
        if spec.stream not in ("weights", "buffers"):
            continue
        track, at = epoch[spec.name], frame - epoch.start
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

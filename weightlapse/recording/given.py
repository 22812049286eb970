"""What lies at a path that a user gives: a recording, one of its steps ("run@500"), a checkpoint file, or a folder of shards."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weightlapse.adapters.checkpoint_files import READERS, missing_shards
from weightlapse.adapters.checkpoints import file_or_folder, read_checkpoint
from weightlapse.errors import CannotRecord, InvalidArgument, WeightlapseError
from weightlapse.store.remote import is_url

if TYPE_CHECKING:
    from weightlapse.recording.recording import Recording

_INDEXES = "*.index.json"


@dataclass(frozen=True)
class AtPath:
    """``run`` and the step that was asked for (None: the last), or else ``arrays`` of a checkpoint by name; ``notes``: what was not read."""

    label: str
    run: Recording | None = None
    step: int | None = None
    arrays: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def widened(self) -> dict[str, Any]:
        """The arrays with floats that NumPy has no dtype for (bfloat16, ...) as float32, which holds them exactly."""
        from weightlapse.adapters.arrays import Patterns
        from weightlapse.store.layout import widen

        return {n: widen(v.patterns, v.dtype) if isinstance(v, Patterns) else v for n, v in self.arrays.items()}


def at_path(path: str | os.PathLike[str]) -> AtPath:
    """What lies at a path; arrays of checkpoints are mapped into memory where the format allows it.

    Raises :class:`InvalidArgument` for what is neither a recording nor a checkpoint, and what reading it raises (CannotRecord, NotARecording, ...).
    """
    text = os.fspath(path)
    if is_url(text):
        bare, _, step = text.rpartition("@")
        return (
            AtPath(text, load(bare), _step(step, text)) if bare and "/" not in step else AtPath(text, load(text), None)
        )
    if not os.path.lexists(text) and "@" in text:
        bare, _, step = text.rpartition("@")
        if bare and os.path.lexists(bare):
            if not os.path.isdir(bare):
                raise InvalidArgument(f"{bare} is a file and has no steps: leave '@{step}' out")
            return AtPath(text, load(bare), _step(step, text))
    place = Path(text)
    if file_or_folder(place) == "folder":
        return _folder(place)
    if not place.name.endswith(tuple(READERS)):
        raise InvalidArgument(f"{place} is neither a recording nor a checkpoint; known endings: {', '.join(READERS)}")
    return AtPath(str(place), arrays=read_checkpoint(place))


def frame_at(run: Recording, step: int | None) -> int:
    """The number of the frame at a step, or of the last one. Raises InvalidArgument for a recording without frames, MissingStep."""
    if run.frames == 0:
        raise InvalidArgument(f"{run.path} has no frames yet, so there is nothing to compare")
    if step is None:
        return run.frames - 1
    found = np.flatnonzero(run.steps == step)
    if not len(found):
        run.state(step)  # raises MissingStep, which names the nearest
    return int(found[0])


def _step(text: str, whole: str) -> int:
    if text.lstrip("-").isdigit() and len(text) < 19:
        return int(text)
    raise InvalidArgument(f"{whole!r} does not exist, and what follows '@' is no step: write it as run@500")


def _folder(path: Path) -> AtPath:
    """A recording, or a checkpoint: one file, an index with its files, or nothing but shards."""
    if (path / "manifest.json").exists():
        return AtPath(str(path), load(path))
    indexes, files = sorted(path.glob(_INDEXES)), sorted(path.glob("*.safetensors"))
    if any((path / name).is_file() for name in _KNOWN):
        notes = _left_out(path)
        _check_index(path, found := read_checkpoint(path))
        return AtPath(str(path), arrays=found, notes=notes)
    if len(indexes) > 1 or not files:
        if not indexes and not any(path.glob("*.bin")) and (found_run := _recording_or_none(path)) is not None:
            return AtPath(str(path), found_run)
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
    return AtPath(str(path), arrays=arrays)


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


def _recording_or_none(path: Path) -> Recording | None:
    try:
        return load(path)
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


def load(path: str | os.PathLike[str]) -> Recording:
    """Imported when there is a recording: files of weights are compared in less time than that takes."""
    run: Recording = importlib.import_module("weightlapse.recording.recording").load(path)
    return run

"""Checkpoint files as named arrays: ``.safetensors``, ``.npz``, ``.pt`` / ``.pth`` / ``.bin`` / ``.ckpt``, Keras ``.weights.h5`` / ``.keras``, and
folders of Hugging Face checkpoints.
"""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any

from weightlapse.adapters.arrays import Entry, EntrySource
from weightlapse.adapters.checkpoint_files import READERS, each_once, first_line
from weightlapse.adapters.step_names import step_in, tells_step
from weightlapse.errors import CannotRecord, InvalidArgument

_BUFFERS = re.compile(r"(^|\.)(running_mean|running_var|num_batches_tracked)$|(^|/)moving_(mean|variance)$")
_SINGLE = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors")
_MAX_INDEX = 100 << 20  # bytes


class Checkpoint(dict[str, Any]):
    """The arrays of one checkpoint by name."""


class CheckpointSource(EntrySource):
    """Records checkpoints; running statistics of norm layers, told by their names, are buffers."""

    framework = "checkpoints"

    def entries(self, params: Any) -> list[Entry]:
        """(name, stream, array) of one checkpoint, a mapping of names to arrays, in its order."""
        return [(name, "buffers" if _BUFFERS.search(name) else "weights", value) for name, value in params.items()]


def read_checkpoint(path: str | Path) -> Checkpoint:
    """The arrays in a checkpoint file or folder, mapped into memory where the format allows it.

    Raises :class:`CannotRecord` when the file cannot be read as a checkpoint, could only be read by running code in it, or says that it
    holds far more than a file of its size can; :class:`InvalidArgument` when there is no such file, or none of a known kind.
    """
    path = Path(path)
    if file_or_folder(path) == "folder":
        return _folder(path)
    for suffix, reader in READERS.items():
        if path.name.endswith(suffix):
            try:
                found = Checkpoint(each_once(path, reader(path)))
            except (OSError, MemoryError) as error:
                raise CannotRecord(f"{path} cannot be read ({first_line(error)})") from None
            if not found:
                raise CannotRecord(f"{path} holds no tensors")
            return found
    raise InvalidArgument(f"{path} is no checkpoint that can be imported; known endings: {', '.join(READERS)}")


def file_or_folder(path: Path) -> str:
    """What a path leads to; anything but those two is refused with :class:`InvalidArgument`: a pipe or a device would be read for ever."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        gone = "is a link to something that does not exist" if path.is_symlink() else "does not exist"
        raise InvalidArgument(f"{path} {gone}") from None
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{path} cannot be read ({first_line(error)})") from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InvalidArgument(f"{path} is neither a file nor a folder: give checkpoint files, or folders of them")
    return "folder" if stat.S_ISDIR(mode) else "file"


def step_of(path: str | Path) -> int:
    """The step that a checkpoint's name tells: the number behind a word for it, else the last number in it, endings left aside.

    >>> step_of("runs/epoch=3-step=1200.ckpt"), step_of("checkpoint-500"), step_of("model_7.weights.h5")
    (1200, 500, 7)
    """
    found = step_in(Path(path).name)
    if found is None:
        raise InvalidArgument(
            f"the name of {path} holds no number that could be its step: give the steps with --steps (steps=[...])"
        )
    return found


def is_tree(path: Path) -> bool:
    """Whether a path is a folder that may hold checkpoints and is none itself; one that also holds the last of them, as trainers leave it, is."""
    if not path.is_dir():
        return False
    single = ("model.safetensors.index.json", "pytorch_model.bin.index.json", *_SINGLE)
    return not any((path / name).exists() for name in single) or any(
        child.is_dir() and tells_step(child.name) for child in path.iterdir()
    )


def _folder(path: Path) -> Checkpoint:
    """A Hugging Face checkpoint: one weights file, or an index that names several."""
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (path / index).is_file():
            shards = (read_checkpoint(path / file) for file in _shards(path / index))
            return Checkpoint(each_once(path, (item for shard in shards for item in shard.items())))
    for file in _SINGLE:
        if (path / file).is_file():
            return read_checkpoint(path / file)
    raise InvalidArgument(
        f"{path} is a folder without model.safetensors or pytorch_model.bin: give checkpoint files, or such folders"
    )


def _shards(index: Path) -> list[str]:
    """The files that an index names, all of them beside it."""
    try:
        if index.stat().st_size > _MAX_INDEX:
            raise ValueError(f"it has {index.stat().st_size:,} bytes")
        files = set(json.loads(index.read_bytes())["weight_map"].values())
        outside = [file for file in files if Path(file).name != file or "\\" in file]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CannotRecord(f"{index} is no index of a sharded checkpoint ({first_line(error)})") from None
    if outside:
        raise CannotRecord(f"{index} names files outside of its folder")
    for file in files:  # a folder could hold this index again, without end
        if file_or_folder(index.parent / file) != "file":
            raise CannotRecord(f"{index} names {file}, which is no file")
    return sorted(files)

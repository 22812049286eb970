"""What a checkpoint holds, by name, dtype and shape, from its headers: the values are never read, whatever its size.

``.safetensors``, ``.pt`` and its kin, ``.npz``, Keras files, and folders of shards with or without an index.
"""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from weightlapse.adapters.checkpoint_files import (
    _MAX_HEADER,
    _SAFETENSORS_DTYPES,
    _SAFETENSORS_PATTERNS,
    _ZIP_ERRORS,
    each_once,
    first_line,
)
from weightlapse.adapters.checkpoints import _BUFFERS, _shards, file_or_folder
from weightlapse.adapters.shapes import Held, chosen, described
from weightlapse.adapters.source import ArrayInfo, Selection
from weightlapse.errors import CannotRecord, InvalidArgument, missing_extra

Described = Iterator[tuple[str, ArrayInfo]]


def is_checkpoint(path: Path) -> bool:
    """Whether a path leads to a file of weights, or to a folder with such files and no recording."""
    if not path.is_dir():
        return True
    return not (path / "manifest.json").exists() and bool(_files(path))


def shapes_in(path: Path, selection: Selection) -> Held:
    """The arrays in a checkpoint file or folder. Running statistics of norm layers, told by their names, are buffers.

    Raises :class:`InvalidArgument` where there is no such file or none of a known kind, :class:`CannotRecord` where it cannot be read.
    """
    files = _files(path) if file_or_folder(path) == "folder" else [path]
    if not files:
        raise InvalidArgument(
            f"{path} is a folder without weights: give a recording, a checkpoint file, or a folder of shards"
        )
    found = each_once(path, (item for file in files for item in _described(file)))
    if not found:
        raise CannotRecord(f"{path} holds no tensors")
    entries = [(n, "buffers" if _BUFFERS.search(n) else "weights", info, False) for n, info in found.items()]
    return chosen(entries, selection, "checkpoints")


def _files(folder: Path) -> list[Path]:
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (folder / index).is_file():
            return [folder / name for name in _shards(folder / index)]
    for file in ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors"):
        if (folder / file).is_file():
            return [folder / file]
    return sorted(file for file in folder.glob("*.safetensors") if file.is_file())


def _described(path: Path) -> Described:
    for suffix, read in HEADERS.items():
        if path.name.endswith(suffix):
            try:
                yield from read(path)
            except (OSError, MemoryError) as error:
                raise CannotRecord(f"{path} cannot be read ({first_line(error)})") from None
            return
    raise InvalidArgument(f"{path} is no recording and no checkpoint; known endings: {', '.join(HEADERS)}")


def _safetensors(path: Path) -> Described:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise CannotRecord(f"{path} is not a safetensors file: its header claims {length} of {size} bytes")
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=lambda pairs: each_once(path, pairs))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            dtype = _SAFETENSORS_DTYPES.get(entry["dtype"]) or _SAFETENSORS_PATTERNS.get(entry["dtype"], ("", ""))[1]
            if not dtype:
                raise ValueError(f"{name!r} has the dtype {str(entry['dtype'])[:20]!r}, which cannot be recorded")
            shape, (start, stop) = tuple(int(n) for n in entry["shape"]), entry["data_offsets"]
            if min(shape, default=0) < 0 or not 0 <= start <= stop <= size - 8 - length:
                raise ValueError(f"{name!r} lies outside of the file, which was cut or is another's")
            yield name, ArrayInfo(name, dtype, shape)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise CannotRecord(f"{path} is not a whole safetensors file ({first_line(error)})") from None


def _torch(path: Path) -> Described:
    try:
        import torch
        from torch._subclasses.fake_tensor import FakeTensorMode
    except ImportError:
        raise missing_extra("torch", extra="torch", purpose=f"reading {path}") from None
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            FakeTensorMode(allow_non_fake_inputs=True),
        ):  # storages stay in the file
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CannotRecord(
            f"{path} holds more than weights, and reading that could run code, so it was not read ({first_line(error)})"
        ) from None
    except Exception as error:  # noqa: BLE001 — a damaged pickle ends in errors of every kind
        raise CannotRecord(f"{path} is not a whole torch file ({first_line(error)})") from None
    for key in ("state_dict", "model_state_dict", "model", "module"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise CannotRecord(f"{path} holds a {type(content).__name__}, not a state dict")
    for name, value in content.items():
        if isinstance(value, torch.Tensor):
            yield str(name), described(str(name), value)


def _npz(path: Path) -> Described:
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if not member.is_dir():
                    with archive.open(member) as file:
                        name = member.filename.removesuffix(".npy")
                        yield name, described(name, _npy(file))
    except _ZIP_ERRORS as error:
        raise CannotRecord(f"{path} cannot be read as arrays of numbers ({first_line(error)})") from None


class _Header:
    """The dtype and shape of an array that is not read."""

    def __init__(self, dtype: Any, shape: tuple[int, ...]) -> None:
        self.dtype, self.shape = dtype, shape


def _npy(file: IO[bytes]) -> _Header:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array is in version {version} of its format, in which plain numbers never are")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.kind not in "?biufc":
        raise ValueError(f"an array of dtype {dtype} holds no numbers")
    return _Header(dtype.newbyteorder("="), shape)


def _h5(source: Any, path: Path) -> Described:
    try:
        import h5py
    except ImportError:
        raise missing_extra("h5py", extra="export", purpose=f"reading {path}") from None
    try:
        found: dict[str, Any] = {}
        with h5py.File(source, "r") as file:
            file.visititems(lambda n, item: found.update({n: item}) if isinstance(item, h5py.Dataset) else None)
            for name, item in found.items():
                stray = name.split("/")[0] in ("optimizer", "_optimizer", "optimizer_weights")
                if not stray and item.dtype.kind in "biuf" and item.shape is not None:
                    yield name, described(name, _Header(item.dtype.newbyteorder("="), item.shape))
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CannotRecord(f"{path} is not a whole HDF5 file ({first_line(error)})") from None


def _keras(path: Path) -> Described:
    try:
        with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as weights:
            yield from _h5(weights, path)
    except _ZIP_ERRORS as error:
        raise CannotRecord(f"{path} is not a Keras model file ({first_line(error)})") from None


HEADERS: dict[str, Callable[[Path], Described]] = {
    ".safetensors": _safetensors,
    ".npz": _npz,
    ".weights.h5": lambda path: _h5(path, path),
    ".keras": _keras,
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt"), _torch),
}

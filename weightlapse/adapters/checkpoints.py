"""Checkpoint files as named arrays: ``.safetensors``, ``.npz``, ``.pt`` / ``.pth`` / ``.bin`` / ``.ckpt``, Keras ``.weights.h5`` / ``.keras``, and
folders of Hugging Face checkpoints.

No file can run code: pickles are read by torch's weights-only loader, which refuses whatever is not a tensor or a plain container.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from weightlapse.adapters.arrays import ArraySource, Entry, Patterns
from weightlapse.errors import CannotRecord, InvalidArgument, missing_extra

_BUFFERS = re.compile(r"(^|\.)(running_mean|running_var|num_batches_tracked)$|(^|/)moving_(mean|variance)$")
_SAFETENSORS_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool", "C64": "complex64",
}  # fmt: skip
_SAFETENSORS_PATTERNS = {
    "BF16": ("u2", "bfloat16"), "F8_E4M3": ("u1", "float8_e4m3fn"), "F8_E5M2": ("u1", "float8_e5m2"), "F8_E8M0": ("u1", "float8_e8m0fnu"),
}  # fmt: skip
_MAX_HEADER = 100 << 20  # the limit that the safetensors format itself names


class Checkpoint(dict[str, Any]):
    """The arrays of one checkpoint by name."""


class CheckpointSource(ArraySource):
    """Records checkpoints; running statistics of norm layers, told by their names, are buffers."""

    framework = "checkpoints"

    def entries(self, params: Any) -> list[Entry]:
        return [(name, "buffers" if _BUFFERS.search(name) else "weights", value) for name, value in params.items()]


def read_checkpoint(path: str | Path) -> Checkpoint:
    """The arrays in a checkpoint file or folder, mapped into memory where the format allows it.

    Raises :class:`CannotRecord` when the file cannot be read as a checkpoint, or could only be read by running code in it.
    """
    path = Path(path)
    if not path.exists():
        raise InvalidArgument(f"{path} does not exist")
    if path.is_dir():
        return _folder(path)
    for suffix, reader in _READERS.items():
        if path.name.endswith(suffix):
            found = Checkpoint(reader(path))
            if not found:
                raise CannotRecord(f"{path} holds no tensors")
            return found
    raise InvalidArgument(f"{path} is no checkpoint that can be imported; known endings: {', '.join(_READERS)}")


def step_of(path: str | Path) -> int:
    """The step that a checkpoint's name tells: the last number in it, endings left aside.

    >>> step_of("runs/epoch=3-step=1200.ckpt"), step_of("checkpoint-500"), step_of("model_7.weights.h5")
    (1200, 500, 7)
    """
    name = Path(path).name
    for suffix in _READERS:
        name = name.removesuffix(suffix)
    numbers = re.findall(r"\d+", name)
    if not numbers:
        raise InvalidArgument(
            f"the name of {path} holds no number that could be its step: give the steps with --steps (steps=[...])"
        )
    return int(numbers[-1])


def _safetensors(path: Path) -> Iterator[tuple[str, Any]]:
    """A safetensors file, parsed here: the format is a length, a JSON header, and flat data."""
    data = np.memmap(path, np.uint8, mode="r") if path.stat().st_size else np.empty(0, np.uint8)
    length = int.from_bytes(data[:8].tobytes(), "little")
    if len(data) < 8 or not 2 <= length <= min(_MAX_HEADER, len(data) - 8):
        raise CannotRecord(f"{path} is not a safetensors file: its header claims {length} of {len(data)} bytes")
    try:
        header = json.loads(data[8 : 8 + length].tobytes())
        body = data[8 + length :]
        for name, entry in header.items():
            if name != "__metadata__":
                yield name, _safetensor(body, entry)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CannotRecord(f"{path} is not a whole safetensors file ({error})") from None


def _safetensor(body: Any, entry: dict[str, Any]) -> Any:
    start, stop = entry["data_offsets"]
    kept, pattern = _SAFETENSORS_PATTERNS.get(entry["dtype"], (None, ""))
    dtype = np.dtype(kept or _SAFETENSORS_DTYPES[entry["dtype"]]).newbyteorder("<")
    shape = tuple(int(n) for n in entry["shape"])
    if not 0 <= start <= stop <= len(body) or min(shape, default=0) < 0:
        raise ValueError("a tensor lies outside of the file")
    values = body[start:stop].view(dtype).reshape(shape)
    return Patterns(values, pattern) if pattern else values


def _npz(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it is one array without a name")
            for name in archive.files:
                yield name, archive[name]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise CannotRecord(f"{path} cannot be read as arrays of numbers ({_first_line(error)})") from None


def _torch(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import torch
    except ImportError:
        raise missing_extra("torch", extra="torch", purpose=f"reading {path}") from None
    try:
        with warnings.catch_warnings(action="ignore"):  # torch wonders aloud about files that it then refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CannotRecord(
            f"{path} holds more than weights, and reading that could run code, so it was not read ({_first_line(error)}); "
            "save the state dict alone, or as safetensors"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CannotRecord(f"{path} is not a whole torch file ({_first_line(error)})") from None
    for key in ("state_dict", "model_state_dict", "model", "module"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise CannotRecord(f"{path} holds a {type(content).__name__}, not a state dict")
    for name, value in content.items():
        if isinstance(value, torch.Tensor):
            yield str(name), value


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _h5(source: Any, path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import h5py
    except ImportError:
        raise missing_extra("h5py", extra="export", purpose=f"reading {path}") from None
    try:
        with h5py.File(source, "r") as file:
            names: list[str] = []
            file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
            for name in names:
                if (
                    name.split("/")[0] not in ("optimizer", "_optimizer", "optimizer_weights")
                    and file[name].dtype.kind in "biuf"
                ):
                    yield name, file[name][()]
    except OSError as error:
        raise CannotRecord(f"{path} is not a whole HDF5 file ({error})") from None


def _keras(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            weights = io.BytesIO(archive.read("model.weights.h5"))
    except (zipfile.BadZipFile, KeyError) as error:
        raise CannotRecord(f"{path} is not a Keras model file ({error})") from None
    return _h5(weights, path)


def _folder(path: Path) -> Checkpoint:
    """A Hugging Face checkpoint: one weights file, or an index that names several."""
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (path / index).is_file():
            files = set(json.loads((path / index).read_text())["weight_map"].values())
            if any(Path(file).name != file for file in files):
                raise CannotRecord(f"{path / index} names files outside of its folder")
            parts = [read_checkpoint(path / file) for file in sorted(files)]
            return Checkpoint({name: value for part in parts for name, value in part.items()})
    for file in ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors"):
        if (path / file).is_file():
            return read_checkpoint(path / file)
    raise InvalidArgument(
        f"{path} is a folder without model.safetensors or pytorch_model.bin: give checkpoint files, or such folders"
    )


_READERS: dict[str, Callable[[Path], Iterator[tuple[str, Any]]]] = {
    ".safetensors": _safetensors,
    ".npz": _npz,
    ".weights.h5": lambda path: _h5(path, path),
    ".keras": _keras,
    ".pt": _torch,
    ".pth": _torch,
    ".bin": _torch,
    ".ckpt": _torch,
}

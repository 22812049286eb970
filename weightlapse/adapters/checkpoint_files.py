"""The formats of checkpoint files, each as a stream of (name, array).

No file can run code: pickles are read by torch's weights-only loader, which refuses whatever is not a tensor or a plain container. And no
file can fill the memory: what it says that it holds is compared with its own size before room is made for it.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from weightlapse.adapters.arrays import Patterns
from weightlapse.errors import CannotRecord, missing_extra

_SAFETENSORS_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool", "C64": "complex64",
}  # fmt: skip
_SAFETENSORS_PATTERNS = {
    "BF16": ("u2", "bfloat16"), "F8_E4M3": ("u1", "float8_e4m3fn"), "F8_E5M2": ("u1", "float8_e5m2"), "F8_E8M0": ("u1", "float8_e8m0fnu"),
}  # fmt: skip
_MAX_HEADER = 100 << 20  # the limit that the safetensors format itself names
_ALWAYS_FINE = 256 << 20  # bytes that any file may unpack to
_LARGEST_RATIO = 100  # trained weights compress by far less
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, KeyError),
    *(RuntimeError, NotImplementedError, OverflowError),  # encrypted; compressed in a way that Python does not know
)

SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)(\.[a-z]+)")  # stem, number, of how many, ending
Arrays = Iterator[tuple[str, Any]]


def each_once(path: Path, arrays: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The arrays by name; two of one name are refused, since one would replace the other."""
    found: dict[str, Any] = {}
    for name, value in arrays:
        if name in found:
            raise CannotRecord(f"{path} holds two tensors with the name {name[:80]!r}: which one counts is unknown")
        found[name] = value
    return found


def missing_shards(names: Iterable[str]) -> str:
    """Of which shards of a checkpoint in parts some are not among these file names, in words; empty where all are.

    >>> missing_shards(["model-00001-of-00002.safetensors", "config.json"]), missing_shards(["a-1-of-1.safetensors"])
    ('1 of 2 shards are there', '')
    """
    there: dict[tuple[str, int], set[int]] = {}
    for name in names:
        if (found := SHARD.fullmatch(name)) and found[4] == ".safetensors":
            there.setdefault((found[1], int(found[3])), set()).add(int(found[2]))
    return next(
        (f"{len(numbers)} of {of} shards are there" for (_, of), numbers in there.items() if len(numbers) != of), ""
    )


def first_line(error: BaseException) -> str:
    """What an error says, in one line, without its number or its file."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _refuse_bombs(path: Path, nbytes: int) -> None:
    """Refuse a file that says it holds far more than its own size, before anything of that is in memory."""
    size = path.stat().st_size
    if nbytes > max(_ALWAYS_FINE, _LARGEST_RATIO * size):
        raise CannotRecord(
            f"{path} has {size:,} bytes and says that it holds {nbytes:,}, which weights never compress to; it was not read. "
            "If it is meant so, save it without compression"
        )


def _safetensors(path: Path) -> Arrays:
    """A safetensors file, parsed here: the format is a length, a JSON header, and flat data."""
    data = np.memmap(path, np.uint8, mode="r") if path.stat().st_size else np.empty(0, np.uint8)
    length = int.from_bytes(data[:8].tobytes(), "little")
    if len(data) < 8 or not 2 <= length <= min(_MAX_HEADER, len(data) - 8):
        raise CannotRecord(f"{path} is not a safetensors file: its header claims {length} of {len(data)} bytes")
    try:
        header = json.loads(data[8 : 8 + length].tobytes(), object_pairs_hook=lambda pairs: each_once(path, pairs))
        header.pop("__metadata__", None)
        body = data[8 + length :]
        ends = sorted(tuple(entry["data_offsets"]) for entry in header.values())
        if any(stop > start for (_, stop), (start, _) in itertools.pairwise(ends)):
            raise ValueError("two tensors share bytes")
        for name, entry in header.items():
            yield name, _safetensor(body, name, entry)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise CannotRecord(f"{path} is not a whole safetensors file ({first_line(error)})") from None


def _safetensor(body: Any, name: str, entry: dict[str, Any]) -> Any:
    start, stop = entry["data_offsets"]
    kept, pattern = _SAFETENSORS_PATTERNS.get(entry["dtype"], (None, ""))
    if kept is None and entry["dtype"] not in _SAFETENSORS_DTYPES:
        raise ValueError(f"{name!r} has the dtype {str(entry['dtype'])[:20]!r}, which cannot be recorded")
    dtype = np.dtype(kept or _SAFETENSORS_DTYPES[entry["dtype"]]).newbyteorder("<")
    shape = tuple(int(n) for n in entry["shape"])
    if not 0 <= start <= stop <= len(body) or min(shape, default=0) < 0:
        raise ValueError("a tensor lies outside of the file")
    values = body[start:stop].view(dtype).reshape(shape)
    return Patterns(values, pattern) if pattern else values


def _npz(path: Path) -> Arrays:
    """Parsed here: np.load makes room for whatever a header claims, and takes one member for another where names end in ".npy"."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            _refuse_bombs(path, sum(member.file_size for member in members))
            for member in members:
                with archive.open(member) as file:
                    yield member.filename.removesuffix(".npy"), _npy(file, member.file_size)
    except _ZIP_ERRORS as error:
        raise CannotRecord(f"{path} cannot be read as arrays of numbers ({first_line(error)})") from None


def _npy(file: IO[bytes], nbytes: int) -> Any:
    """The array of a ``.npy`` file of ``nbytes`` bytes."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array is in version {version} of its format, in which plain numbers never are")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = read_header(file)
    except Exception as error:  # noqa: BLE001 — it is a Python expression, and a damaged one ends in errors of every kind
        raise ValueError(f"the header of an array cannot be read: {first_line(error)}") from None
    if dtype.hasobject:
        raise ValueError("an array holds Python objects, which could run code when they are read")
    wanted = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or wanted != nbytes - file.tell():
        raise ValueError(f"an array of shape {shape} is said to take {nbytes - file.tell()} bytes")
    data = bytearray(file.read(wanted))  # to the end of the member, where its checksum is looked at
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _torch(path: Path) -> Arrays:
    try:
        import torch
    except ImportError:
        raise missing_extra("torch", extra="torch", purpose=f"reading {path}") from None
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                _refuse_bombs(path, sum(member.file_size for member in archive.infolist()))
        with warnings.catch_warnings(action="ignore"):  # torch wonders aloud about files that it then refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
    except CannotRecord:
        raise
    except pickle.UnpicklingError as error:
        raise CannotRecord(
            f"{path} holds more than weights, and reading that could run code, so it was not read ({first_line(error)}); "
            "save the state dict alone, or as safetensors"
        ) from None
    except Exception as error:  # noqa: BLE001 — a damaged pickle ends in errors of every kind
        raise CannotRecord(f"{path} is not a whole torch file ({first_line(error)})") from None
    for key in ("state_dict", "model_state_dict", "model", "module"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise CannotRecord(f"{path} holds a {type(content).__name__}, not a state dict")
    tensors = each_once(path, ((str(name), v) for name, v in content.items() if isinstance(v, torch.Tensor)))
    for name, value in tensors.items():
        if value.layout != torch.strided or value.device.type == "meta" or value.is_quantized:
            raise CannotRecord(f"{path}: {name!r} is sparse, quantized or without values, which cannot be recorded")
    # a view may repeat one stored number without end
    _refuse_bombs(path, sum(value.numel() * value.element_size() for value in tensors.values()))
    yield from tensors.items()


def _h5(source: Any, path: Path) -> Arrays:
    try:
        import h5py
    except ImportError:
        raise missing_extra("h5py", extra="export", purpose=f"reading {path}") from None
    try:
        with h5py.File(source, "r") as file:
            found: dict[str, Any] = {}
            file.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
            numbers = {
                name: item
                for name, item in found.items()
                if name.split("/")[0] not in ("optimizer", "_optimizer", "optimizer_weights")
                and item.dtype.kind in "biuf"
                and item.shape is not None
            }
            for name, item in numbers.items():
                if item.external or item.is_virtual:
                    raise CannotRecord(f"{path}: the values of {name!r} are in another file, which is not read")
            # what was never written takes no room in the file and all of it in memory
            _refuse_bombs(path, sum(math.prod(item.shape) * item.dtype.itemsize for item in numbers.values()))
            for name, item in numbers.items():
                yield name, item[()]
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CannotRecord(f"{path} is not a whole HDF5 file ({first_line(error)})") from None


def _keras(path: Path) -> Arrays:
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo("model.weights.h5")
            _refuse_bombs(path, member.file_size)
            weights = io.BytesIO(archive.read(member))
    except _ZIP_ERRORS as error:
        raise CannotRecord(f"{path} is not a Keras model file ({first_line(error)})") from None
    return _h5(weights, path)


READERS: dict[str, Callable[[Path], Arrays]] = {
    ".safetensors": _safetensors,
    ".npz": _npz,
    ".weights.h5": lambda path: _h5(path, path),
    ".keras": _keras,
    ".pt": _torch,
    ".pth": _torch,
    ".bin": _torch,
    ".ckpt": _torch,
}

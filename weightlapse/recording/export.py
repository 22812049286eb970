"""Recordings in other formats. Every value arrives exactly; bfloat16 becomes float32, which holds every one of them, unless said otherwise."""

from __future__ import annotations

import importlib
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from weightlapse.errors import InvalidArgument, missing_extra
from weightlapse.progress import track
from weightlapse.recording.names import apart, file_names, member_name
from weightlapse.recording.pieces import Piece, pieces
from weightlapse.store.layout import TensorSpec
from weightlapse.store.portable import rename
from weightlapse.store.remove import remove_building

if TYPE_CHECKING:
    from weightlapse.recording.recording import Recording


ExportKind = Literal["zarr", "safetensors", "npz", "parquet", "tensorboard"]


def export(run: Recording, kind: str, dest: str | os.PathLike[str]) -> None:
    """Write ``run`` as ``kind`` to ``dest``, which must not exist yet; nothing is left there when it fails."""
    if kind not in _WRITERS:
        raise InvalidArgument(f"there is no export to {kind!r}; there are {', '.join(_WRITERS)}")
    target = Path(dest)
    if os.path.lexists(target):
        raise InvalidArgument(f"{target} exists already: exports never replace anything; choose another path")
    if run.frames == 0:
        raise InvalidArgument(f"{run.path} has no frames yet: there is nothing to export")
    target.parent.mkdir(parents=True, exist_ok=True)
    building = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        _WRITERS[kind](run, building)
        rename(building, target)
    except BaseException:
        remove_building(building)
        raise


def _needs(module: str, purpose: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise missing_extra(module.split(".")[0], extra="export", purpose=purpose) from None


def _facts(run: Recording) -> dict[str, Any]:
    return {
        "weightlapse": {
            "meta": run.meta,
            "events": [list(event) for event in run.events],
            "gaps": [list(gap) for gap in run.gaps],
            "aliases": run.aliases,
            "tolerance": run.tolerance,
            "wiring": run.wiring_spec,
        }
    }


def _described(run: Recording, piece: Piece) -> dict[str, Any]:
    """What a format without frames and streams should know of an array."""
    name = piece.track.name
    return {"tensor": name, "dtype": run.dtypes[name], "stream": run.streams[name], "first_frame": piece.start}


def to_zarr(run: Recording, dest: Path) -> None:
    """Zarr v3: arrays (T, \\*S) "tensors/NAME", "step" (T,) and "scalars/NAME"; time in chunks of 64 frames.

    Names are file names here (see ``names.py``); the attributes "tensor" and "scalar" of an array hold the true one.
    """
    zarr = _needs("zarr", "exporting to Zarr")
    codec = zarr.codecs.BloscCodec(cname="zstd", clevel=5, shuffle="shuffle")
    root = zarr.create_group(store=str(dest), zarr_format=3, attributes=_facts(run))

    def write(group: Any, name: str, array: Any, attributes: dict[str, Any], dims: list[str]) -> Any:
        chunks = tuple(max(1, min(64 if i == 0 else 512, n)) for i, n in enumerate(array.shape))
        return group.create_array(
            name,
            shape=array.shape,
            dtype=array.dtype,
            chunks=chunks,
            compressors=[codec],
            attributes=attributes,
            dimension_names=dims,
        )

    write(root, "step", run.steps, {}, ["frame"])[:] = run.steps
    scalars = root.create_group("scalars")
    files = file_names(run.scalars)
    for name, column in run.scalars.items():
        write(scalars, files[name], column, {"scalar": name}, ["frame"])[:] = column
    tensors = root.create_group("tensors")
    files = file_names(run.names)
    for piece in track(pieces(run), "exporting"):
        file = files[piece.track.name] + ("" if piece.whole else f"@{piece.start}")
        dims = [
            "frame" if piece.start == 0 else f"frame from {piece.start}",
            *(f"axis{i}" for i in range(piece.track.ndim - 1)),
        ]
        array = write(tensors, file, piece.track, _described(run, piece), dims)
        for part, values in piece.chunks():
            array[part] = values


def to_npz(run: Recording, dest: Path) -> None:
    """One ``.npz``: an array (T, \\*S) per tensor under its name, "step", and "scalar:NAME"; see ``names.py`` for names that cannot be."""

    def is_taken(name: str) -> bool:
        return name == "step" or name.startswith("scalar:")

    with zipfile.ZipFile(dest, "w", zipfile.ZIP_STORED) as archive:

        def write(name: str, array: Any, parts: Any) -> None:
            with archive.open(f"{member_name(name)}.npy", "w", force_zip64=True) as file:
                header = {
                    "descr": np.lib.format.dtype_to_descr(array.dtype),
                    "fortran_order": False,
                    "shape": tuple(array.shape),
                }
                np.lib.format.write_array_header_2_0(file, header)
                for values in parts:
                    file.write(np.ascontiguousarray(values).tobytes())

        write("step", run.steps, [run.steps])
        for name, column in run.scalars.items():
            write("scalar:" + name.replace("%", "%25"), column, [column])
        for piece in track(pieces(run), "exporting"):
            write(apart(piece.name, "tensor", is_taken), piece.track, (values for _, values in piece.chunks()))


_SAFETENSORS = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "bool": "BOOL",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
    **{f"{sign}{bits}": f"{letter}{bits}" for sign, letter in (("int", "I"), ("uint", "U")) for bits in (8, 16, 32, 64)},
}  # fmt: skip


def to_safetensors(run: Recording, dest: Path) -> None:
    """A folder with one ``step-NNNNNNNN.safetensors`` per frame, bfloat16 as it is. Of tied tensors the first name is written.

    The format has "__metadata__" for itself: a tensor of that name becomes "tensor:__metadata__" (see ``names.py``).
    """
    dest.mkdir()
    for frame in track(range(run.frames), "exporting"):
        layout = run.layout_at(frame)
        for spec in layout.tensors:
            if spec.dtype not in _SAFETENSORS:
                raise InvalidArgument(
                    f"{spec.name} has dtype {spec.dtype}, which safetensors files cannot hold: export to zarr or npz"
                )
        _write_safetensors(dest / f"step-{run.steps[frame]:08d}.safetensors", run, frame, layout.tensors)


def _write_safetensors(path: Path, run: Recording, frame: int, specs: tuple[TensorSpec, ...]) -> None:
    values = run.stored_frame(frame)
    header: dict[str, Any] = {"__metadata__": {"step": str(run.steps[frame]), "format": "pt"}}
    end = 0
    for spec in specs:
        header[apart(spec.name, "tensor", "__metadata__".__eq__)] = {
            "dtype": _SAFETENSORS[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [end, end + spec.nbytes],
        }
        end += spec.nbytes
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for spec in specs:
            file.write(values[spec.name].astype(spec.storage, copy=False).tobytes())


def to_parquet(run: Recording, dest: Path) -> None:
    """One Parquet file, a row per frame: "frame", "step", "scalar:NAME", and a list per tensor (shape in the field's metadata).

    The list has a fixed size, but where the tensor is missing from some frames: a null of fixed size is what Arrow before 24 neither writes nor reads.
    A tensor called like one of those becomes "tensor:NAME"; its true name is in the field's metadata too.
    """

    def is_taken(name: str) -> bool:
        return name in ("frame", "step") or name.startswith("scalar:")

    pa, parquet = _needs("pyarrow", "exporting to Parquet"), _needs("pyarrow.parquet", "exporting to Parquet")
    found = pieces(run)
    fields = [pa.field("frame", pa.int64()), pa.field("step", pa.int64())]
    fields += [pa.field(f"scalar:{name}", pa.float64()) for name in run.scalars]
    others = len(fields)
    for piece in found:
        if piece.track.dtype.kind == "c":
            raise InvalidArgument(f"{piece.name} is complex, which Parquet cannot hold: export to zarr or npz")
        size = int(np.prod(piece.track.shape[1:]))
        about = {"shape": json.dumps(piece.track.shape[1:]), **{k: str(v) for k, v in _described(run, piece).items()}}
        name = apart(piece.name, "tensor", is_taken)
        everywhere = len(piece.track) == run.frames
        kind = pa.list_(pa.from_numpy_dtype(piece.track.dtype), size if everywhere else -1)
        fields.append(pa.field(name, kind, metadata=about))
    schema = pa.schema(fields, metadata={"weightlapse": json.dumps(_facts(run)["weightlapse"])})
    row = sum(piece.track[0:1].nbytes for piece in found)
    stride = max(1, min(1024, (32 << 20) // max(row, 1)))
    with parquet.ParquetWriter(dest, schema, compression="zstd") as writer:
        for first in track(range(0, run.frames, stride), "exporting"):
            last = min(first + stride, run.frames)
            columns = [pa.array(np.arange(first, last)), pa.array(run.steps[first:last])]
            columns += [pa.array(column[first:last]) for column in run.scalars.values()]
            columns += [_lists(pa, schema.field(i).type, piece, first, last) for i, piece in enumerate(found, others)]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _lists(pa: Any, kind: Any, piece: Piece, first: int, last: int) -> Any:
    """The rows ``[first, last)`` of a tensor's column: null where the tensor was not there."""
    inside = piece.track[max(first - piece.start, 0) : max(last - piece.start, 0)]
    values = pa.array(np.asarray(inside).ravel())
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(values, type=kind)
    start = min(max(piece.start - first, 0), last - first)
    there = np.zeros(last - first, bool)
    there[start : start + len(inside)] = True
    ends = np.cumsum(there * int(np.prod(piece.track.shape[1:])), dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(np.append(np.int32(0), ends)), values, type=kind, mask=pa.array(~there))


def to_xarray(run: Recording) -> Any:
    """An ``xarray.Dataset`` in memory: tensors over ("step", ...), scalars under their names ("scalar:NAME" where a tensor has it).

    A tensor called "step" becomes "tensor:step" (see ``names.py``). Its further dimensions are "NAME.0", "NAME.1", ...
    """
    xarray = _needs("xarray", "Recording.to_xarray")
    found = {apart(piece.name, "tensor", _is_taken_in_xarray): piece for piece in pieces(run)}
    scalars = {
        apart(name, "scalar", lambda n: n in found or _is_coordinate(n)): column for name, column in run.scalars.items()
    }
    data: dict[str, Any] = {}
    coords: dict[str, Any] = {"step": run.steps}
    for name, piece in found.items():
        time = "step"
        if len(piece.track) != run.frames:
            time = f"step@{piece.start}"
            coords[time] = piece.track.steps
        dims = [f"{name}.{i}" for i in range(piece.track.ndim - 1)]
        # a variable that is called like a dimension would become its coordinate
        dims = [apart(dim, "axis", lambda n: n in found or n in scalars) for dim in dims]
        data[name] = xarray.Variable((time, *dims), piece.track[:], _described(run, piece))
    data |= {name: xarray.Variable(("step",), column) for name, column in scalars.items()}
    return xarray.Dataset(
        data, coords, {"events": [f"{step}: {text}" for step, text in run.events], "path": str(run.path)}
    )


def _is_coordinate(name: str) -> bool:
    return name.split("@")[0] == "step"


def _is_taken_in_xarray(name: str) -> bool:
    return _is_coordinate(name) or name.startswith(("scalar:", "axis:"))


def _to_tensorboard(run: Recording, dest: Path) -> None:
    importlib.import_module("weightlapse.recording.tensorboard").to_tensorboard(run, dest)


_WRITERS: dict[str, Callable[[Recording, Path], None]] = {
    "zarr": to_zarr,
    "safetensors": to_safetensors,
    "npz": to_npz,
    "parquet": to_parquet,
    "tensorboard": _to_tensorboard,
}

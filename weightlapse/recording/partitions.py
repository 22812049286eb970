"""Many recordings as one tree of Parquet files, in the partitions that DuckDB, Polars, Spark and others know (``TABLE/run=NAME/part-0.parquet``)."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from weightlapse.errors import InvalidArgument
from weightlapse.progress import track
from weightlapse.recording.pieces import pieces
from weightlapse.recording.relations import RELATIONS, arrow, relation
from weightlapse.store.portable import rename
from weightlapse.store.remove import remove_building

if TYPE_CHECKING:
    from weightlapse.recording.recording import Recording

FILE = "part-0.parquet"


def add(run: Recording, kind: str, dest: str | os.PathLike[str], name: str | None, *, weights: bool) -> None:
    """Add ``run`` as the partition ``name`` to the tree at ``dest``; nothing is replaced, and nothing is left when it fails."""
    if kind != "parquet" or name is None:
        raise InvalidArgument(
            "partition= goes with parquet, and weights=False with partition=: export('parquet', dest, partition='run-1')"
        )
    if not name or len(name) > 200:
        raise InvalidArgument(f"partition={name!r}: give the run a name, of at most 200 characters")
    if run.frames == 0:
        raise InvalidArgument(f"{run.path} has no frames yet: there is nothing to export")
    arrow("exporting to Parquet")
    root = Path(dest)
    if root.exists() and not root.is_dir():
        raise InvalidArgument(f"{root} is a file: a tree of partitions is a folder")
    folder = f"run={quote(name[:-1], safe=' ')}{_last(name[-1])}"
    tables = [*RELATIONS, *(["weights"] if weights else [])]
    there = [table for table in tables if os.path.lexists(root / table / folder)]
    if there:
        raise InvalidArgument(
            f"{root / there[0] / folder} exists already: exports never replace anything; choose another name"
        )
    root.mkdir(parents=True, exist_ok=True)
    building = root / f".{quote(name, safe='')[:60]}.{os.getpid()}"
    try:
        building.mkdir()
        for table in tables:
            (building / table).mkdir()
            if table == "weights":
                _write_weights(run, building / table / FILE)
            else:
                importlib.import_module("pyarrow.parquet").write_table(
                    relation(run, table), building / table / FILE, compression="zstd"
                )
        for table in tables:
            (root / table).mkdir(exist_ok=True)
            rename(building / table, root / table / folder)
    finally:
        remove_building(building)


def _last(letter: str) -> str:
    """No name ends in a dot or a space on Windows."""
    return f"%{ord(letter):02X}" if letter in ". " else quote(letter)


def _write_weights(run: Recording, path: Path) -> None:
    """A row for each tensor and frame: tensor, frame, step, shape, values (float64 where float32 does not hold them all)."""
    pa, parquet = arrow("exporting to Parquet"), importlib.import_module("pyarrow.parquet")
    found = pieces(run)
    for piece in found:
        if piece.track.dtype.kind == "c":
            raise InvalidArgument(
                f"{piece.name} is complex, which Parquet cannot hold: export to zarr or npz, or leave the weights out"
            )
    exact = all(piece.track.dtype.kind == "f" and piece.track.dtype.itemsize <= 4 for piece in found)
    number = np.float32 if exact else np.float64
    kind = pa.list_(pa.from_numpy_dtype(number))
    fields = [
        ("tensor", pa.string()),
        ("frame", pa.int64()),
        ("step", pa.int64()),
        ("shape", pa.list_(pa.int64())),
        ("values", kind),
    ]
    schema = pa.schema(fields)
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for piece in track(found, "exporting"):
            shape = list(piece.track.shape[1:])
            for part, values in piece.chunks():
                frames = np.arange(part.start, part.stop) + piece.start
                flat = np.asarray(values).reshape(len(frames), -1).astype(number)
                edges = pa.array(np.arange(len(frames) + 1, dtype=np.int32) * flat.shape[1], pa.int32())
                lists: Any = pa.ListArray.from_arrays(edges, pa.array(flat.ravel()))
                columns = [pa.array([piece.track.name] * len(frames)), pa.array(frames), pa.array(run.steps[frames])]
                columns += [pa.array([shape] * len(frames), pa.list_(pa.int64())), lists]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))

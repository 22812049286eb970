"""SQL over a recording, by DuckDB: in memory, and without a way to any file but the recording's."""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from weightlapse.errors import InvalidArgument, WeightlapseError, missing_extra
from weightlapse.recording.relations import RELATIONS, arrow, relation

if TYPE_CHECKING:
    from weightlapse.recording.recording import Recording

MOST_VALUES = 20_000_000  # of a slice of weights
_ENTRY = 'STRUCT(frame BIGINT, step BIGINT, "index" BIGINT[], "value" DOUBLE)[]'


def query(run: Recording, sql: str) -> Any:
    """See :meth:`Recording.query`."""
    if not isinstance(sql, str):
        raise InvalidArgument(f"query({sql!r:.80}): give one SELECT, as text")
    try:
        duckdb = importlib.import_module("duckdb")
    except ImportError:
        raise missing_extra("duckdb", extra="query", purpose="asking a recording in SQL") from None
    pa = arrow("asking a recording in SQL")
    failed: list[WeightlapseError] = []

    def weights(tensors: Any, slices: Any) -> Any:
        try:
            return pa.chunked_array([_slices(run, pa, tensors.to_pylist(), slices.to_pylist())]).combine_chunks()
        except WeightlapseError as error:
            failed.append(error)
            raise

    with duckdb.connect(":memory:", config={"custom_user_agent": "weightlapse"}) as database:
        try:
            statements = database.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise InvalidArgument(f"query({sql[:80]!r}): give one SELECT; recordings are only read")
            for name in RELATIONS:  # made only where they are named: statistics may have to be computed
                if re.search(rf"\b{name}\b", sql, re.IGNORECASE):
                    database.register(name, relation(run, name))
            database.create_function("_weights", weights, ["VARCHAR", "VARCHAR"], _ENTRY, type="arrow")
            database.execute(
                "create macro weights(tensor, slice) as table select unnest(_weights(tensor, slice), recursive := true)"
            )
            database.execute("set python_enable_replacements=false")
            database.execute("set enable_external_access=false")
            database.execute("set lock_configuration=true")
            return database.sql(statements[0].query).to_arrow_table()
        except duckdb.Error as error:
            if failed:
                raise failed[0] from None
            told = f"; there are the tables {', '.join(RELATIONS)}, and weights('NAME', '100:200, 3')"
            more = told if isinstance(error, duckdb.CatalogException) else ""
            raise InvalidArgument(f"query({sql[:80]!r}): {_first_lines(error)}{more}") from None


def _first_lines(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:2] if line.strip())


def _slices(run: Recording, pa: Any, names: list[str], slices: list[str]) -> Any:
    """For each name and slice a list of (frame, step, index, value)."""
    found, offsets, held = [], [0], {}
    for name, text in zip(names, slices):
        if (name, text) not in held:
            held[name, text] = _slice(run, pa, name, text)
        found.append(held[name, text])
        offsets.append(offsets[-1] + len(found[-1]))
    joined = pa.concat_arrays(found) if found else pa.array([], _kind(pa))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), joined)


def _kind(pa: Any) -> Any:
    return pa.struct(
        [("frame", pa.int64()), ("step", pa.int64()), ("index", pa.list_(pa.int64())), ("value", pa.float64())]
    )


def _slice(run: Recording, pa: Any, name: str, text: str) -> Any:
    track = run[name]
    keys = parsed(text)
    if len(keys) > track.ndim:
        raise InvalidArgument(f"weights({name!r}, {text!r}): the tensor has {track.ndim} axes, time first")
    axes = []
    for length, key in zip(track.shape, [*keys, *[slice(None)] * (track.ndim - len(keys))]):
        if isinstance(key, int) and not -length <= key < length:
            raise InvalidArgument(f"weights({name!r}, {text!r}): {key} is out of range for an axis of length {length}")
        axes.append(range(length)[key] if isinstance(key, slice) else range(key % length, key % length + 1))
    count = int(np.prod([len(axis) for axis in axes], dtype=object))
    if count > MOST_VALUES:
        raise InvalidArgument(
            f"weights({name!r}, {text!r}) are {count:,} values, and at most {MOST_VALUES:,} are given: ask for less, as in '100:200, 3'"
        )
    values = np.asarray(track[tuple(slice(a.start, a.stop, a.step) for a in axes)] if count else np.empty(0))
    if values.dtype.kind == "c":
        raise InvalidArgument(f"{name} is complex, which SQL has no numbers for")
    grids = [np.array(axis, np.int64)[at.ravel()] for axis, at in zip(axes, np.indices([len(a) for a in axes]))]
    places = np.stack(grids[1:], axis=1).ravel() if len(grids) > 1 else np.empty(0, np.int64)
    edges = pa.array(np.arange(count + 1, dtype=np.int32) * (len(axes) - 1), pa.int32())
    index = pa.ListArray.from_arrays(edges, pa.array(places.astype(np.int64)))
    columns = [pa.array(grids[0].astype(np.int64)), pa.array(run.steps[grids[0]]), index]
    columns.append(pa.array(values.ravel().astype(np.float64)))
    return pa.StructArray.from_arrays(columns, fields=list(_kind(pa)))


def parsed(text: str) -> list[int | slice]:
    """An index as NumPy writes it, of numbers and slices that rise.

    >>> parsed("100:200, 3"), parsed("[-1]"), parsed("")
    ([slice(100, 200, None), 3], [-1], [])
    """
    inner = text.strip().removeprefix("[").removesuffix("]").strip()
    keys: list[int | slice] = []
    for part in inner.split(",") if inner else []:
        numbers = part.split(":")
        if len(numbers) > 3 or not all(re.fullmatch(r"\s*-?[0-9]{1,18}\s*|\s*", n) for n in numbers):
            raise InvalidArgument(f"{text!r} is no slice: write it as in NumPy, time first: '100:200, 3' or '::10'")
        values = [int(n) if n.strip() else None for n in numbers]
        if (len(values) == 1 and values[0] is None) or (len(values) == 3 and values[2] is not None and values[2] < 1):
            raise InvalidArgument(
                f"{text!r} is no slice that rises: write it as in NumPy, time first: '100:200, 3' or '::10'"
            )
        keys.append(slice(*values) if len(values) > 1 else int(values[0] or 0))
    return keys

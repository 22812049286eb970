"""SQL over a recording, and many recordings as one tree of Parquet files."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.test_store_statistics import record, walk
from weightlapse.capture.watch import watch
from weightlapse.cli import main
from weightlapse.errors import InvalidArgument, UnknownTensor
from weightlapse.recording.query import parsed
from weightlapse.recording.recording import Recording, load

duckdb = pytest.importorskip("duckdb")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    path = tmp_path_factory.mktemp("query") / "run"
    states = walk({"fc.weight": (6, 5), "fc.bias": (6,), "one": ()}, 20)
    with watch(states[0], path) as rec:
        for k, state in enumerate(states[1:], 1):
            rec.step(state, loss=1 / k)
            if k == 7:
                rec.mark("it's dropped")
    return load(path)


def test_tables_hold_what_the_recording_holds(run: Recording) -> None:
    assert run.query("select * from stats").equals(run.table())
    assert run.query("select step from frames order by frame")["step"].to_pylist() == run.steps.tolist()
    losses = run.query("select frame, value from scalars where name = 'loss' order by frame").to_pylist()
    assert [row["value"] for row in losses] == run.scalars["loss"][1:].tolist()
    assert [row["frame"] for row in losses] == list(range(1, 20))
    assert run.query("select * from events").to_pylist() == [{"step": 7, "text": "it's dropped"}]
    assert run.query("select * from gaps").num_rows == 0
    (row,) = run.query(
        "select tensor, dtype, shape, size, stream, first_step, last_step from tensors where tensor = 'fc.weight'"
    ).to_pylist()
    assert list(row.values()) == ["fc.weight", "float32", [6, 5], 30, "weights", 0, 19]
    joined = run.query(
        "select t.tensor, max(s.max) as most from tensors t join stats s using (tensor) group by 1 order by 1"
    ).to_pylist()
    assert [row["most"] for row in joined] == [float(run[row["tensor"]][:].max()) for row in joined]
    assert run.query("with s as (select 1 as x) select x from s").to_pylist() == [{"x": 1}]


@pytest.mark.parametrize(
    ("name", "text", "key"),
    [("fc.weight", "3:9, 2", (slice(3, 9), slice(2, 3))), ("fc.weight", "[-1]", (slice(19, 20),)), ("one", "::5", (slice(None, None, 5),)),
     ("fc.bias", "", ()), ("fc.weight", "2:4, 1:5:2, -1", (slice(2, 4), slice(1, 5, 2), slice(4, 5))), ("fc.bias", "5:5", (slice(5, 5),))],
)  # fmt: skip
def test_a_slice_of_weights(run: Recording, name: str, text: str, key: tuple[Any, ...]) -> None:
    rows = run.query(f"select * from weights('{name}', '{text}')").to_pylist()
    values = np.asarray(run[name][key])
    assert [row["value"] for row in rows] == values.ravel().tolist()
    for row in rows[:: max(len(rows) // 7, 1)]:
        assert row["step"] == run.steps[row["frame"]]
        assert run[name][(row["frame"], *row["index"])] == row["value"]
    assert (
        run.query(f"select avg(value) as v, count(*) as n from weights('{name}', '{text}')").to_pylist()[0]["n"]
        == values.size
    )


def test_parsing_refuses_what_is_no_slice() -> None:
    assert parsed(" [ 1 : , -2 ] ") == [slice(1, None), -2]
    for wrong in ("x", "1,,2", "::-1", "::0", "1:2:3:4", "1.5", "__import__('os')", "1;2", "9" * 30):
        with pytest.raises(InvalidArgument):
            parsed(wrong)


def test_nothing_is_written_and_no_other_file_is_read(run: Recording, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a,b\n1,2\n")
    mine = run.table()  # a variable of this name is no table
    before = sorted((p, p.stat().st_mtime_ns) for p in Path(run.path).rglob("*"))
    for sql in (
        f"select * from '{secret}'", f"select * from read_csv('{secret}')", f"select * from read_text('{secret}')", f"select * from glob('{tmp_path}/*')",
        f"copy stats to '{tmp_path}/out.csv'", f"attach '{tmp_path}/x.db'", "create table t as select 1", "drop table stats", "install httpfs",
        "set enable_external_access=true", "select 1; select 2", "", "select * from mine", "explain select 1",
        "select * from statz", "select nope from stats", "selec", "select * from weights('fc.weight')", "select * from weights('fc.weight', '0:4', 1)",
        "select * from weights('fc.weight', '99')", "select * from weights('fc.weight', '0, 0, 0, 0')",
    ):  # fmt: skip
        with pytest.raises(InvalidArgument) as told:
            run.query(sql)
        assert "query(" in str(told.value) or "weights(" in str(told.value)
    with contextlib.suppress(InvalidArgument):  # DuckDB 1 calls it a SELECT, of what is in memory
        assert run.query("pragma database_list").column("file").to_pylist() == [None]
    with pytest.raises(UnknownTensor, match=r"fc\.weight"):
        run.query("select * from weights('fc.weigt', '0')")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["secret.csv"]
    assert before == sorted((p, p.stat().st_mtime_ns) for p in Path(run.path).rglob("*"))
    assert mine.num_rows


def _call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return int(end.value.code or 0)


def test_the_verbs(run: Recording, capsys: pytest.CaptureFixture[str]) -> None:
    assert _call("query", str(run.path), "select tensor, frames, 0.0/0 as no from stats order by 1", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["columns"] == ["tensor", "frames", "no"]
    assert told["rows"][0] == ["fc.bias", 20, None]
    assert _call("query", str(run.path), "select * from events") == 0
    assert capsys.readouterr().out == "step  text\n7     it's dropped\n"
    assert _call("query", str(run.path), "drop table stats") == 2
    assert "SELECT" in capsys.readouterr().err
    assert (
        _call(
            "top", str(run.path), "update", "-k", "2", "--of", "units", "--steps", "3:9", "--tensors", "fc*", "--json"
        )
        == 0
    )
    shown = json.loads(capsys.readouterr().out)["top"]
    truth = run.top("update", 2, of="units", steps=slice(3, 9), tensors="fc*")
    assert shown == [[name, list(index), value] for name, index, value in truth]
    assert _call("top", str(run.path), "value", "--steps", "x") == 2


def test_sums_are_numbers_in_json(run: Recording, capsys: pytest.CaptureFixture[str]) -> None:
    sql = "select sum(frames), sum(frames)::hugeint * 10^18::hugeint, 1.25::decimal(9,2), 'nan'::double, null, [2::hugeint] from stats"
    assert _call("query", str(run.path), sql, "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row == [60, 60 * 10**18, 1.25, None, None, [2]]
    assert _call("query", str(run.path), "select sum(frames) from stats") == 0
    assert capsys.readouterr().out.split()[-1] == "60"


@pytest.mark.parametrize("sql", [None, 5, b"select 1", ["select 1"]])
def test_what_is_no_text_is_refused(run: Recording, sql: Any) -> None:
    with pytest.raises(InvalidArgument, match="give one SELECT"):
        run.query(sql)


def test_a_tree_of_many_runs(tmp_path: Path) -> None:
    tree, runs = tmp_path / "tree", {}
    for k, name in enumerate(["a", "lr=0.1/b c", "ü%"]):
        runs[name] = record(tmp_path / f"{k}", walk({"w": (4, 5), "b": (3,)}, 10 + k, seed=k))
        runs[name].export("parquet", tree, partition=name, weights=k != 2)
    with pytest.raises(InvalidArgument, match="exists already"):
        runs["a"].export("parquet", tree, partition="a")
    found = duckdb.sql(
        f"select run, sum(frames) as n from read_parquet('{tree}/stats/*/*.parquet', hive_partitioning=true) where tensor = 'w' group by 1"
    )
    assert dict(found.fetchall()) == {name: run.frames for name, run in runs.items()}
    sql = f"select step, shape, values from read_parquet('{tree}/weights/*/*.parquet', hive_partitioning=true) where run = 'a' and tensor = 'w' order by step"
    rows = duckdb.sql(sql).fetchall()
    assert np.array_equal(np.array([values for _, _, values in rows], np.float32).reshape(10, 4, 5), runs["a"]["w"][:])
    polars = pytest.importorskip("polars")
    frame = (
        polars.scan_parquet(f"{tree}/stats/**/*.parquet", hive_partitioning=True)
        .filter(polars.col("tensor") == "b")
        .collect()
    )
    assert sorted(frame["run"].unique().to_list()) == sorted(runs)
    assert sorted(p.name for p in tree.iterdir()) == [
        "events",
        "frames",
        "gaps",
        "scalars",
        "stats",
        "tensors",
        "weights",
    ]
    for wrong in (
        {"kind": "zarr", "partition": "x"},
        {"kind": "parquet", "weights": False},
        {"kind": "parquet", "partition": ""},
    ):
        with pytest.raises(InvalidArgument):
            runs["a"].export(wrong.pop("kind"), tree, **wrong)  # type: ignore[arg-type]


def test_a_tree_gets_nothing_of_what_fails(tmp_path: Path) -> None:
    z = [{"z": v["w"] + 1j} for v in walk({"w": (3,)}, 4)]
    run = record(tmp_path / "run", [{"z": s["z"].astype(np.complex64)} for s in z])
    with pytest.raises(InvalidArgument, match="complex"):
        run.export("parquet", tmp_path / "tree", partition="z")
    assert list((tmp_path / "tree").iterdir()) == []
    run.export("parquet", tmp_path / "tree", partition="z", weights=False)

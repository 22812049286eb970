"""Every export read back by the format's own library: exactly the values of the recording."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import weightlapse as wl
from tests.framework_presence import require
from weightlapse.capture.imports import import_checkpoints
from weightlapse.cli import program

require("zarr", "pyarrow", "xarray", "safetensors", "tensorboard")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> wl.Recording:
    """A network of several dtypes, with tied weights, NaN and Inf, a name with a slash, and a layer that grows in mid-run."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.tied = nn.Linear(4, 4, bias=False)
            self.tied.weight = self.a.weight
            self.bf = nn.Parameter(torch.randn(3, dtype=torch.bfloat16))
            self.f64 = nn.Parameter(torch.randn((), dtype=torch.float64))
            self.grows = nn.Linear(2, 2)
            self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    model = Net()
    path = tmp_path_factory.mktemp("rec") / "run"
    with wl.watch(model, path, streams=("weights", "buffers"), meta={"who": "test"}) as rec:
        for k in range(1, 12):
            with torch.no_grad():
                for p in model.parameters():
                    p.add_(torch.randn_like(p))
                if k == 3:
                    model.a.weight[1, 2] = float("nan")
                    model.a.bias[0] = float("inf")
                if k == 6:
                    model.grows = nn.Linear(2, 5)
                model.count.add_(1)
            rec.step(step=10 * k, loss=1 / k)
            if k == 4:
                rec.mark("four")
    return wl.load(path)


def pieces_of(run: wl.Recording) -> dict[str, tuple[np.ndarray, int]]:
    """What must be in an export, told without the code under test."""
    first, second = run.layouts
    whole = {n: (run[n][:], 0) for n in run.names if not n.startswith("grows.")}
    parts = {f"{n}@{e.start}": (e[n][:], e.start) for e in (first, second) for n in ("grows.weight", "grows.bias")}
    return whole | parts


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def test_zarr(run: wl.Recording, tmp_path: Path) -> None:
    import zarr

    run.export("zarr", tmp_path / "run.zarr")
    root = zarr.open_group(str(tmp_path / "run.zarr"), mode="r")
    assert root.metadata.zarr_format == 3
    assert root.attrs["weightlapse"]["events"][-1] == [60, run.events[-1][1]]
    assert same(root["step"][:], run.steps)
    assert same(root["scalars/loss"][:], run.scalars["loss"])
    for name, (values, start) in pieces_of(run).items():
        array = root[f"tensors/{name}"]
        assert same(array[...], values)
        assert array.attrs["first_frame"] == start
    assert root["tensors/bf"].attrs["dtype"] == "bfloat16"


def test_npz(run: wl.Recording, tmp_path: Path) -> None:
    run.export("npz", tmp_path / "run.npz")
    with np.load(tmp_path / "run.npz", allow_pickle=False) as archive:
        assert set(archive.files) == {"step", "scalar:loss", *pieces_of(run)}
        assert same(archive["step"], run.steps)
        assert same(archive["scalar:loss"], run.scalars["loss"])
        assert all(same(archive[name], values) for name, (values, _) in pieces_of(run).items())


def test_parquet(run: wl.Recording, tmp_path: Path) -> None:
    import pyarrow.parquet as parquet

    run.export("parquet", tmp_path / "run.parquet")
    table = parquet.read_table(tmp_path / "run.parquet")
    assert table["step"].to_pylist() == run.steps.tolist()
    assert same(table["scalar:loss"].to_numpy(), run.scalars["loss"])
    for name, (values, start) in pieces_of(run).items():
        field = table.schema.field(name)
        assert json.loads(field.metadata[b"shape"]) == list(values.shape[1:])
        column = table[name].combine_chunks()
        there = np.flatnonzero(~np.array(column.is_null()))
        assert there.tolist() == list(range(start, start + len(values)))
        read = column.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(values.shape)
        assert same(read, values)


def test_safetensors_and_back(run: wl.Recording, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    run.export("safetensors", tmp_path / "steps")
    files = sorted((tmp_path / "steps").iterdir())
    assert [f.name for f in files[:2]] == ["step-00000000.safetensors", "step-00000010.safetensors"]
    for frame in (0, 3, 11):
        loaded = load_file(files[frame])
        assert loaded["bf"].dtype == torch.bfloat16
        stored = run.stored_frame(frame)
        assert set(loaded) == set(stored)
        for name, tensor in loaded.items():
            values = (
                tensor.view(torch.int16).numpy().view(np.uint16) if tensor.dtype == torch.bfloat16 else tensor.numpy()
            )
            assert same(values, stored[name])
    assert import_checkpoints(files, tmp_path / "again") == 12
    again = wl.load(tmp_path / "again")
    assert again.steps.tolist() == run.steps.tolist()
    assert again.dtypes == run.dtypes
    for frame in range(run.frames):
        one, other = run.stored_frame(frame), again.stored_frame(frame)
        assert set(one) == set(other)
        assert all(same(one[name], other[name]) for name in one)


def test_tensorboard(run: wl.Recording, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run.export("tensorboard", tmp_path / "board")
    board = EventAccumulator(str(tmp_path / "board"), {"histograms": 0, "scalars": 0})
    board.Reload()
    assert [(e.step, np.float32(e.value)) for e in board.Scalars("loss")] == [
        (int(s), np.float32(v)) for s, v in zip(run.steps[1:], run.scalars["loss"][1:])
    ]
    histograms = board.Histograms("a.weight")
    assert [h.step for h in histograms] == run.steps.tolist()
    for frame, histogram in enumerate(histograms):
        values = run["a.weight"][frame]
        finite = values[np.isfinite(values)]
        value = histogram.histogram_value
        assert (value.num, value.min, value.max) == (finite.size, finite.min(), finite.max())
        assert sum(value.bucket) == finite.size
    assert {e.value for e in board.Scalars("a.weight/not finite")} == {1.0}


def test_xarray(run: wl.Recording) -> None:
    data = run.to_xarray()
    assert same(data["step"].values, run.steps)
    for name, (values, start) in pieces_of(run).items():
        assert same(data[name].values, values)
        assert data[name].attrs["first_frame"] == start
    assert same(data["a.weight"].sel(step=50).values, run.state(step=50)["a.weight"])
    assert same(data["loss"].values, run.scalars["loss"])


def test_names_that_are_paths_stay_names(tmp_path: Path) -> None:
    import zarr

    weights = {
        "../../escape": np.ones(2),
        "net/fc/kernel": np.ones(3),
        "net": np.ones(4),
        "x" * 500: np.ones(1),
        "a:b": np.ones(2),
    }
    with wl.watch(weights, tmp_path / "run"):
        pass
    run = wl.load(tmp_path / "run")
    for kind in ("zarr", "npz", "safetensors", "parquet", "tensorboard"):
        run.export(kind, tmp_path / "out" / kind)
    assert {p.name for p in tmp_path.iterdir()} == {"run", "out"}
    arrays = {
        a.attrs["tensor"]: a for _, a in zarr.open_group(str(tmp_path / "out" / "zarr"), mode="r")["tensors"].arrays()
    }
    assert {name: array[:].shape[1:] for name, array in arrays.items()} == {n: v.shape for n, v in weights.items()}


def test_refusals(run: wl.Recording, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("precious")
    with pytest.raises(wl.InvalidArgument, match="exists already"):
        run.export("npz", tmp_path / "there")
    with pytest.raises(wl.InvalidArgument, match="no export to 'csv'; there are zarr"):
        run.export("csv", tmp_path / "new")
    with wl.watch({"c": np.ones(2, np.complex64)}, tmp_path / "complex"):
        pass
    for kind in ("parquet", "safetensors"):
        with pytest.raises(wl.InvalidArgument, match="export to zarr or npz"):
            wl.load(tmp_path / "complex").export(kind, tmp_path / "new")
    assert (tmp_path / "there").read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["complex", "there"]


def test_from_the_shell(run: wl.Recording, tmp_path: Path) -> None:
    arguments = ["export", str(run.path), "--to", "npz", "-o", str(tmp_path / "a.npz"), "--json"]
    done = CliRunner().invoke(program, arguments)
    assert json.loads(done.stdout) == {
        "path": str(tmp_path / "a.npz"),
        "format": "npz",
        "frames": 12,
        "tensors": len(run.names),
    }
    assert (tmp_path / "a.npz").exists()

"""Names in other formats: no two the same, none leads anywhere, all can be read back; by a slow second opinion and by the formats' own readers."""

from __future__ import annotations

import copy
import itertools
import json
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

import weightlapse as wl
from tests.framework_presence import require
from weightlapse.recording.names import apart, file_names, member_name, piece_name

require("zarr", "pyarrow", "xarray", "safetensors", "tensorboard")

NAMES = [
    *("step", "frame", "scalars", "tensors", "scalar:loss", "scalar:step", "tensor:step", "tensor:tensor:step", "loss", "__metadata__", "zarr.json"),
    *("events", "path", "step@0", "step@3", "w", "W", "w.npy", "W.NPY", "step.npy", "w@2", "w%402", "w%40", "%", "%25", "w.0", "v", "v.0", "v.1"),
    *("../../x", "..", ".", "...", "/", "//", "/etc/passwd", "a/../b", "a//b", "a/", "a/.", "a\\..\\b", "C:\\x", "C:x", ".hidden", "__x", "~", "a~b"),
    *("CON", "con", "Con.weight", "NUL", "nul.x.y", "COM1", "com¹", "LPT9 .x", "AUX/weight", "x/aux", "x.", "x..", "x ", "x. ", " x", "PRN:"),
    *("größe", "gro\u0308ße", "STRASSE", "straße", "İ", "i\u0307", "a\nb", "a\tb", "a\x7fb", "a?b*c", "<>|\"", "x" * 300, "X" * 300, "y" * 4096),
]  # fmt: skip
DEVICES = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in "0123456789¹²³")}


def is_harmless(part: str) -> bool:
    """The slow second opinion: one component of a path that means the same, and itself, on every system."""
    stem = part.split(".")[0].split(":")[0].rstrip(" ").lower()
    bad = set('\\/<>"|?*') | {chr(c) for c in (*range(32), 127)}
    return part not in ("", ".", "..") and not part.endswith((" ", ".")) and stem not in DEVICES and not set(part) & bad


def test_the_second_opinion_refuses_what_it_should() -> None:
    bad = ("", ".", "..", "a.", "a ", "CON", "nul.txt", "com1 .x", "a/b", "a\\b", "a?", "\n", "aux:x", "COM³")
    assert [part for part in bad if is_harmless(part)] == []
    assert all(map(is_harmless, ("a", ".hidden", "console", "com", "com10", "a.con", "größe", "%2E%2E")))


def test_file_names() -> None:
    files = file_names(NAMES)
    assert list(files) == NAMES
    assert len({file.casefold() for file in files.values()}) == len(NAMES)
    for name, file in files.items():
        assert is_harmless(file), name
        assert file.isascii()
        assert len(file) <= 200
        assert not file.startswith((".", "__"))
        assert file.lower() != "zarr.json"
        assert ":" not in file
        if "~" not in file:
            assert unquote(file) == name
    assert files["w"] == "w"
    assert files["loss"] == "loss"
    assert file_names(["fc1.Weight", "B"]) == {"fc1.Weight": "fc1.Weight", "B": "B"}, (
        "capitals that trouble nobody stay"
    )


def test_a_name_that_looks_like_a_cut_one_is_another() -> None:
    long = "x" * 500
    cut = file_names([long])[long]
    assert len(set(file_names([long, cut]).values())) == 2


def test_member_names() -> None:
    members = [member_name(piece_name(name, None)) for name in NAMES]
    assert len(set(members)) == len(NAMES)
    for name, member in zip(NAMES, members):
        assert all(map(is_harmless, member.split("/"))), name
        assert unquote(member) == name
        assert not member.endswith(".npy")
    assert member_name("net/fc1/kernel") == "net/fc1/kernel"
    assert member_name("net/größe") == "net/größe"


def test_pieces_and_prefixes_can_be_taken_off_again() -> None:
    taken = {"step", "frame"}.__contains__
    seen = {}
    for name, start in itertools.product(NAMES, (None, 0, 2, 402)):
        key = apart(piece_name(name, start), "tensor", taken)
        assert key not in seen, (name, start, seen[key])
        seen[key] = name, start
        back, at = key.removeprefix("tensor:"), None
        if start is not None:
            back, _, end = back.rpartition("@")
            at = int(end)
        assert (unquote(back), at) == (name, start)


# ---- and in the files themselves -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> wl.Recording:
    """Every awkward name, each tensor with values of its own; "w" and "step" change their shape after two frames."""
    path = tmp_path_factory.mktemp("names") / "run"
    weights = {name: np.full((2, 2) if name.startswith("v") else 2, k, np.float32) for k, name in enumerate(NAMES)}
    with wl.watch(weights, path) as rec:
        for step in range(1, 4):
            if step == 2:
                weights["w"] = np.full(3, 900, np.float32)
                weights["step"] = np.full(3, 901, np.float32)
            rec.step({name: value + 1000 * step for name, value in weights.items()}, step=step)
            rec.log(**{name: float(step * k) for k, name in enumerate(NAMES) if name})
    return wl.load(path)


def truth(run: wl.Recording) -> dict[tuple[str, int | None], np.ndarray]:
    """What must be in an export, by tensor and, where it changes, first frame."""
    found: dict[tuple[str, int | None], np.ndarray] = {}
    for name in run.names:
        if name in ("w", "step"):
            found |= {(name, span.start): span[name][:] for span in run.layouts}
        else:
            found[name, None] = run[name][:]
    return found


def same(a: Any, b: Any) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def test_the_recording_has_them_all(run: wl.Recording) -> None:
    assert set(run.names) == set(NAMES) == set(run.scalars)
    assert run.steps.tolist() == [0, 1, 2, 3]
    assert len(run.layouts) == 2


def test_npz(run: wl.Recording, tmp_path: Path) -> None:
    run.export("npz", tmp_path / "run.npz")
    with np.load(tmp_path / "run.npz", allow_pickle=False) as archive:
        assert len(archive.files) == len(set(archive.files)) == len(truth(run)) + len(NAMES) + 1
        assert same(archive["step"], run.steps)
        assert same(archive["scalar:loss"], run.scalars["loss"])
        tensors, scalars = {}, {}
        for key in set(archive.files) - {"step"}:
            if key.startswith("scalar:"):
                scalars[unquote(key.removeprefix("scalar:"))] = archive[key]
            else:
                name, _, start = (
                    key.removeprefix("tensor:").rpartition("@")
                    if key[-2:-1] == "@"
                    else (key.removeprefix("tensor:"), "", "")
                )
                tensors[unquote(name), int(start) if start else None] = archive[key]
    assert set(tensors) == set(truth(run))
    assert all(same(tensors[key], values) for key, values in truth(run).items())
    assert set(scalars) == set(NAMES)
    assert all(same(scalars[name], column) for name, column in run.scalars.items())
    inside = tmp_path / "inside"
    names = zipfile.ZipFile(tmp_path / "run.npz").namelist()
    for member in names:
        assert (inside / member).resolve().is_relative_to(inside.resolve()), member
        assert all(is_harmless(part) for part in member.split("/")), member


def test_zarr(run: wl.Recording, tmp_path: Path) -> None:
    import zarr

    run.export("zarr", tmp_path / "run.zarr")
    root = zarr.open_group(str(tmp_path / "run.zarr"), mode="r")
    arrays = dict(root["tensors"].arrays())
    found = {
        (a.attrs["tensor"], a.attrs["first_frame"] if a.attrs["tensor"] in ("w", "step") else None): a[...]
        for a in arrays.values()
    }
    assert set(found) == set(truth(run))
    assert all(same(found[key], values) for key, values in truth(run).items())
    assert {a.attrs["scalar"] for _, a in root["scalars"].arrays()} == set(NAMES)
    assert all(same(a[...], run.scalars[a.attrs["scalar"]]) for _, a in root["scalars"].arrays())
    assert len({name.casefold() for name in arrays}) == len(arrays)
    for path in (tmp_path / "run.zarr").rglob("*"):
        assert is_harmless(path.name), path


def test_parquet(run: wl.Recording, tmp_path: Path) -> None:
    import pyarrow.parquet as parquet

    run.export("parquet", tmp_path / "run.parquet")
    table = parquet.read_table(tmp_path / "run.parquet")
    assert len(set(table.column_names)) == len(table.column_names)
    assert same(table["step"].to_numpy(), run.steps)
    found = {}
    for field in table.schema:
        if field.metadata and b"tensor" in field.metadata:
            name = field.metadata[b"tensor"].decode()
            start = int(field.metadata[b"first_frame"]) if name in ("w", "step") else None
            column = table[field.name].combine_chunks().drop_null()
            shape = json.loads(field.metadata[b"shape"])
            found[name, start] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, *shape)
    assert set(found) == set(truth(run))
    assert all(same(found[key], values) for key, values in truth(run).items())
    assert all(same(table[f"scalar:{name}"].to_numpy(), column) for name, column in run.scalars.items())


def test_safetensors(run: wl.Recording, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    run.export("safetensors", tmp_path / "steps")
    for frame, file in enumerate(sorted((tmp_path / "steps").iterdir())):
        loaded = load_file(file)
        stored = run.stored_frame(frame)
        names = {n: f"tensor:{n}" if n == "__metadata__" or n.startswith("tensor:") else n for n in stored}
        assert set(loaded) == set(names.values())
        assert all(same(loaded[names[name]], values) for name, values in stored.items())


def test_tensorboard(run: wl.Recording, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with wl.watch({"w": np.array([np.nan, 1.0]), "x": np.ones(2)}, tmp_path / "run") as rec:
        rec.log(**{"w/not finite": 7.0, "x/not finite": 8.0, "w": 9.0})
    wl.load(tmp_path / "run").export("tensorboard", tmp_path / "one")
    board = EventAccumulator(str(tmp_path / "one"), {"histograms": 0, "scalars": 0})
    board.Reload()
    values = {tag: [event.value for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]}
    assert values == {"w/not finite": [1.0], "scalar:w/not finite": [7.0], "scalar:x/not finite": [8.0], "w": [9.0]}
    run.export("tensorboard", tmp_path / "all")
    board = EventAccumulator(str(tmp_path / "all"), {"histograms": 0, "scalars": 0})
    board.Reload()
    assert len(board.Tags()["histograms"]) == len(truth(run))


def test_xarray(run: wl.Recording) -> None:
    data = run.to_xarray()
    assert same(data["step"].values, run.steps)
    found = {}
    for variable in data.data_vars.values():
        if "tensor" in variable.attrs:
            name = variable.attrs["tensor"]
            found[name, variable.attrs["first_frame"] if name in ("w", "step") else None] = variable.values
    assert set(found) == set(truth(run))
    assert all(same(found[key], values) for key, values in truth(run).items())
    assert len(data.data_vars) == len(found) + len(NAMES), "none became a coordinate"
    tensors = {key for key, variable in data.data_vars.items() if "tensor" in variable.attrs}
    for name, column in run.scalars.items():
        alone = name not in tensors and not name.startswith("scalar:") and name.split("@")[0] != "step"
        assert same(data[name if alone else f"scalar:{name}"].values, column), name


def test_a_dimension_that_is_called_like_a_tensor_does_not_swallow_it(tmp_path: Path) -> None:
    with wl.watch({"v": np.ones((2, 3)), "v.1": np.ones(4)}, tmp_path / "run") as rec:
        rec.log(**{"v.0": 5.0})
    data = wl.load(tmp_path / "run").to_xarray()
    assert data["v"].dims == ("step", "axis:v.0", "axis:v.1")
    assert set(data.data_vars) == {"v", "v.1", "v.0"}
    assert data["v.0"].values.tolist() == [5.0]


@pytest.mark.parametrize("name", ["a\0b", "", "x" * 5000, "\ud800", "half \udfff"])
def test_names_that_no_file_can_hold_are_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises((wl.CannotRecord, wl.InvalidArgument), match=r"name .*of a tensor"):
        wl.watch({name: np.ones(2)}, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_the_listings_of_tensors_are_shared_and_cannot_be_changed(tmp_path: Path) -> None:
    with wl.watch({"w": np.ones(3, "f4"), "v": np.ones((2, 2))}, tmp_path / "run") as rec:
        rec.step({"w": np.zeros(3, "f4"), "v": np.ones((2, 2))})
    run = wl.load(tmp_path / "run")
    assert run.shapes == {"w": (3,), "v": (2, 2)}
    assert isinstance(run.shapes, dict)
    assert run.shapes is run.shapes, "made once, however many ask for one entry"
    for change in (
        lambda d: d.update(w=1),
        lambda d: d.pop("w"),
        lambda d: d.__setitem__("w", 1),
        lambda d: d.clear(),
        lambda d: d.setdefault("x", 1),
        lambda d: d.__delitem__("w"),
    ):
        with pytest.raises(TypeError, match="cannot be changed"):
            change(run.dtypes)
    for copied in (
        dict(run.dtypes),
        run.dtypes | {},
        copy.deepcopy(run.dtypes),
        copy.copy(run.dtypes),
    ):
        copied["w"] = "mine"
        assert type(copied) is dict
    assert run.dtypes == json.loads(json.dumps(run.dtypes)) == {"w": "float32", "v": "float64"}

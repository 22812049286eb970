"""What is damaged is said where it is read: weights with the file and the tensor, numbers and events with a warning."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import weightlapse as wl
from weightlapse.cli import main

SHAPES = {"a.weight": (40, 17), "b.bias": (9,), "c": ()}


@pytest.fixture(scope="module", params=[None, 1e-2], ids=["exact", "bounded"])
def blocks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames in blocks, a loss at each of them but the first."""
    rng = np.random.default_rng(0)
    values = {name: np.asarray(rng.normal(size=shape), np.float32) for name, shape in SHAPES.items()}
    with wl.watch(values, tmp_path_factory.mktemp("whole") / "run", tolerance=request.param) as rec:
        for k in range(1, 60):
            values = {n: np.asarray(v * (1 + 1e-3 * rng.normal(size=v.shape)), np.float32) for n, v in values.items()}
            rec.step(values, loss=1 / k)
    return rec.path


READS: dict[str, Callable[[wl.Recording, str], np.ndarray]] = {
    "one weight": lambda run, name: run[name][(slice(None), *(n - 1 for n in SHAPES[name]))],
    "backwards": lambda run, name: run[name][::-1],
    "one frame": lambda run, name: run[name][7],
    "state": lambda run, name: run.state(frame=7)[name],
}


@pytest.mark.parametrize("what", READS)
def test_damaged_weights_are_told_with_file_and_tensor(blocks: Path, tmp_path: Path, what: str) -> None:
    whole = wl.load(blocks)
    expected = {name: READS[what](whole, name) for name in SHAPES}
    file = next((blocks / "blocks").iterdir())
    data = file.read_bytes()
    run = shutil.copytree(blocks, tmp_path / "run")
    told: list[tuple[str, str]] = []
    for at in range(8, len(data), max(1, len(data) // 120)):
        hurt = bytearray(data)
        hurt[at] ^= 0x10
        (run / "blocks" / file.name).write_bytes(hurt)
        for name, right in expected.items():
            try:
                values = READS[what](wl.load(run), name)
            except wl.DamagedRecording as error:
                told.append((name, str(error)))
            else:
                assert values.tobytes() == right.tobytes(), (at, name)
    assert len(told) > 20
    for name, text in told:
        assert f"blocks/{file.name}" in text, text
        assert name in text or (what == "state" and any(other in text for other in SHAPES)), text


def flipped(journal: Path) -> None:
    data = bytearray(journal.read_bytes())
    data[data.index(b"SCAL") + 60] ^= 1
    journal.write_bytes(data)


def unnamed(journal: Path) -> None:
    data = bytearray(journal.read_bytes())
    data[data.index(b"loss")] ^= 1
    journal.write_bytes(data)


def zeroed(journal: Path) -> None:
    journal.write_bytes(bytes(journal.stat().st_size))


HURT: dict[str, Callable[[Path], None]] = {
    "flipped": flipped,
    "unnamed": unnamed,
    "zeroed": zeroed,
    "missing": Path.unlink,
}


@pytest.mark.parametrize("what", HURT)
@pytest.mark.parametrize("look", ["scalars", "events", "gaps"])
def test_lost_numbers_are_not_lost_in_silence(blocks: Path, tmp_path: Path, what: str, look: str) -> None:
    path = shutil.copytree(blocks, tmp_path / "run")
    HURT[what](path / "journal.log")
    run = wl.load(path)
    with pytest.warns(wl.RecordingIncomplete, match=r"journal\.log: .*the weights are untouched.*weightlapse verify"):
        getattr(run, look)
    getattr(run, look)  # once is enough
    dict(run.scalars)
    assert "loss" not in run.scalars or np.isnan(run.scalars["loss"]).all()
    assert np.array_equal(run["a.weight"][:], wl.load(blocks)["a.weight"][:])


def test_a_whole_journal_and_one_that_is_being_written_are_no_reason_to_warn(blocks: Path, tmp_path: Path) -> None:
    assert np.isfinite(wl.load(blocks).scalars["loss"][1:]).all()
    rec = wl.watch({"w": np.zeros(3)}, tmp_path / "run")
    rec.step({"w": np.ones(3)}, loss=0.5)
    rec.flush()
    copy = shutil.copytree(rec.path, tmp_path / "copy")
    rec.close()
    with (copy / "journal.log").open("r+b") as file:  # as a writer leaves it that was killed in the middle
        file.truncate(file.seek(0, 2) - 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert wl.load(copy).events == []
        assert set(wl.load(copy).scalars) <= {"loss"}


def test_the_command_line_says_it_in_a_line(blocks: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = shutil.copytree(blocks, tmp_path / "run")
    flipped(path / "journal.log")
    with pytest.raises(SystemExit) as ended:
        main(["info", str(path), "--json"])
    assert ended.value.code == 0
    out, err = capfd.readouterr()
    assert out.startswith("{")
    assert err.startswith(f"weightlapse: {path}: journal.log: bytes ")
    assert err.count("\n") == 1

"""torch.distributed on two processes: what is read equals the gathered weights, bit for bit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import weightlapse as wl
from tests.framework_presence import require
from tests.scripts import run_ranks
from weightlapse.cli import program

require("torch")
pytestmark = pytest.mark.slow


PROGRAM = Path(__file__).parent / "programs" / "distributed_train.py"
ENVIRONMENT = {"GLOO_SOCKET_IFNAME": "lo", "TORCH_CPP_LOG_LEVEL": "ERROR"}


def train(kind: str, folder: Path, processes: int = 2) -> list[subprocess.CompletedProcess[str]]:
    return run_ranks(PROGRAM, folder, kind, str(folder), ranks=processes, seconds=200, **ENVIRONMENT)


def done(kind: str, folder: Path, processes: int = 2) -> dict[str, np.ndarray]:
    for rank in train(kind, folder, processes):
        assert rank.returncode == 0, rank.stdout[-2000:] + rank.stderr[-6000:]
    return truth(folder)


def truth(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "truth.npz") as archive:
        return dict(archive)


def check(run: wl.Recording, weights: dict[str, np.ndarray], frames: int) -> None:
    for name, values in weights.items():
        if name.startswith("gradients:"):
            assert np.array_equal(run[name][1:frames], values[: frames - 1])
        else:
            assert run[name].raw(slice(0, frames)).tobytes() == values[:frames].tobytes(), name


def test_ddp_is_recorded_once(tmp_path: Path) -> None:
    """Under ``torchrun`` itself; the others have its environment without its start."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": "1", "WEIGHTLAPSE_STRICT": "1"}
    job = subprocess.run([*launch, str(PROGRAM), "ddp", str(tmp_path)], env=environment, capture_output=True, text=True, timeout=200)  # fmt: skip
    assert job.returncode == 0, job.stdout[-2000:] + job.stderr[-6000:]
    run, weights = wl.load(tmp_path / "run"), truth(tmp_path)
    assert run.steps.tolist() == list(range(9))
    assert set(run.names) == set(weights)
    check(run, weights, 9)
    assert not (tmp_path / "run" / "ranks").exists()
    assert run.scalars["loss"][1:].tolist() == list(range(8))
    assert run.closed


def test_every_rank_may_record_for_itself(tmp_path: Path) -> None:
    done("plain", tmp_path)
    first, second = wl.load(tmp_path / "run0"), wl.load(tmp_path / "run1")
    assert first.frames == second.frames == 9
    assert np.array_equal(first["first.weight"][0], second["first.weight"][0])
    assert not np.array_equal(first["first.weight"][8], second["first.weight"][8])


@pytest.fixture(scope="module", params=[2, 3], ids=["2 processes", "3 processes"])
def sharded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, np.ndarray], int]:
    """A folder in which so many processes have trained with FSDP2, and what the weights really were."""
    folder = tmp_path_factory.mktemp("fsdp")
    return folder, done("fsdp", folder, request.param), request.param


def test_fsdp_shards_are_merged(sharded: tuple[Path, dict[str, np.ndarray], int]) -> None:
    tmp_path, weights, processes = sharded
    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == list(range(10))  # the last one from the resumed fit
    assert run.shapes["first.weight"] == (7, 5)
    assert run.dtypes["brief.weight"] == "bfloat16"
    check(run, weights, 9)
    with np.load(tmp_path / "after.npz") as after:
        assert all(run[name].raw(-1).tobytes() == values.tobytes() for name, values in after.items())
    assert run.closed
    assert len(list((tmp_path / "run" / "ranks").iterdir())) == processes - 1
    # slices across the border of two shards read like those of the whole
    whole = run["first.weight"][:]
    for key in (
        (slice(2, 7, 2), slice(1, 6), 3),
        (4, slice(None, None, 3)),
        (-1, slice(5, 1, -2), slice(None)),
        (0, 6, 4),
    ):
        assert np.array_equal(run["first.weight"][key], whole[key])
    state = run.state(step=4)
    assert np.array_equal(state["first.weight"], whole[4])
    assert run["optimizer:first.weight.exp_avg"].shape == (10, 7, 5)
    assert run["optimizer:first.weight.step"][:].tolist() == list(range(10))
    verified = CliRunner().invoke(program, ["verify", str(tmp_path / "run")])
    assert verified.output.startswith(str(tmp_path / "run") + ": 10 frames, every checksum right")


def test_a_rank_that_dies_leaves_a_readable_recording(tmp_path: Path) -> None:
    assert [rank.returncode for rank in train("dies", tmp_path)] == [0, 9]
    run, weights = wl.load(tmp_path / "run"), truth(tmp_path)
    assert run.frames >= 5
    assert not run.closed
    check(run, {n: v for n, v in weights.items() if n != "gradient to come"}, run.frames)


def test_one_refusal_is_everybodys(tmp_path: Path) -> None:
    for number, rank in enumerate(train("refused", tmp_path)):
        assert rank.returncode == 0, rank.stderr[-4000:]
        assert f"rank {number} refused: rank 1: one frame takes" in rank.stdout


def test_missing_and_hostile_ranks_are_said(sharded: tuple[Path, dict[str, np.ndarray], int], tmp_path: Path) -> None:
    shutil.copytree(sharded[0] / "run", tmp_path / "run")
    shutil.move(tmp_path / "run" / "ranks" / "0001", tmp_path / "away")
    with pytest.raises(wl.DamagedRecording, match="the part of rank 1 is missing"):
        wl.load(tmp_path / "run")
    manifest = tmp_path / "run" / "manifest.json"
    text = manifest.read_text()
    (tmp_path / "run" / "journal.log").unlink()  # its copy of the manifest would count
    for count in ("-1", "1e9", '"many"', str(10**30)):
        manifest.write_text(text.replace(f'"world_size": {sharded[2]}', f'"world_size": {count}'))
        with pytest.raises(wl.NotARecording, match="its manifest was changed"):
            wl.load(tmp_path / "run")

"""``weightlapse film`` and ``weightlapse plot``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlapse as wl
from weightlapse.cli.film import frames_of, size_of
from weightlapse.errors import InvalidArgument


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(0)
    for name in ("run", "other"):
        with wl.watch({"fc.weight": rng.normal(size=(4, 5)), "fc.bias": np.zeros(4)}, path / name) as rec:
            for _ in range(20):
                rec.step({"fc.weight": rng.normal(size=(4, 5)), "fc.bias": rng.normal(size=4)})
                rec.log(loss=float(rng.random()))
    return path


def run(folder: Path, *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "weightlapse", *arguments], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert "Traceback" not in done.stderr
    return done


def test_film(folder: Path) -> None:
    done = run(
        folder,
        "film",
        "run",
        "-o",
        "film.gif",
        "--size",
        "320x240",
        "--fps",
        "5",
        "--steps",
        "2:12:3",
        "--tensors",
        "*weight",
        "--json",
    )
    assert done.returncode == 0
    assert json.loads(done.stdout) == {
        "path": "film.gif",
        "width": 320,
        "height": 240,
        "fps": 5.0,
        "frames": 4,
        "seconds": 0.8,
    }
    assert (folder / "film.gif").read_bytes().startswith(b"GIF89a")
    two = (
        "film",
        "run",
        "-o",
        "pair.mp4",
        "--other",
        "other",
        "--no-align",
        "--theme",
        "dark",
        "--pace",
        "2",
        "--faithful",
    )
    done = run(folder, *two)
    assert (done.returncode, done.stdout) == (0, "pair.mp4: 11 frames, 0.5 s, 1280×720\n")
    done = run(folder, *two, "--panels", "weights")
    assert (done.returncode, done.stdout) == (2, "")
    assert "leave one of them out" in done.stderr
    done = run(folder, "film", "run", "-o", "panels.mp4", "--steps", "0:9", "--panels", "weights")
    assert (done.returncode, done.stdout) == (0, "panels.mp4: 9 frames, 0.4 s, 1280×720\n")
    done = run(folder, "film", "run", "-o", "still.svg", "--steps", "7")
    assert (done.returncode, done.stdout) == (0, "still.svg: one picture, 1280×720\n")


@pytest.mark.parametrize("kind", ["lines", "heatmap", "mass", "norms", "scalars"])
def test_plot(folder: Path, kind: str) -> None:
    done = run(folder, "plot", "run", "--kind", kind, "-o", f"{kind}.png", "--json")
    assert done.returncode == 0
    said = json.loads(done.stdout)
    assert (said["path"], said["kind"]) == (f"{kind}.png", kind)
    assert said["title"]
    assert (folder / f"{kind}.png").read_bytes().startswith(b"\x89PNG")


def test_plot_of_a_step_and_a_tensor(folder: Path) -> None:
    done = run(folder, "plot", "run", "--kind", "heatmap", "--tensors", "*bias", "--step", "3", "-o", "bias.svg")
    assert (done.returncode, done.stdout) == (0, "bias.svg: fc.bias, step 3, 4\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["film", "run", "-o", "x.avi"], 2, "cannot tell the format"),
        (["film", "run", "-o", "x.mp4", "--size", "big"], 2, "--size 'big' must read WIDTHxHEIGHT"),
        (
            ["film", "run", "-o", "x.mp4", "--steps", "50:60"],
            2,
            "--steps '50:60' selects no recorded step; the recording has steps 0 to 20",
        ),
        (["film", "run", "-o", "x.mp4", "--tensors", "conv*"], 1, "no tensor of the recording matches 'conv*'"),
        (
            ["film", "run", "-o", "x.mp4", "--pace", "slow"],
            2,
            "pace must be a stride or one of 'every', 'log', 'equal change'",
        ),
        (["film", "nothing", "-o", "x.mp4"], 1, "nothing"),
        (["film", "run"], 2, "Missing option '-o'"),
        (["plot", "run", "--kind", "pie", "-o", "x.png"], 2, "'pie' is not one of"),
        (["plot", "run", "--kind", "lines", "-o", "x.txt"], 2, "cannot tell the format"),
        (
            ["plot", "run", "--kind", "heatmap", "--step", "99", "-o", "x.png"],
            1,
            "step 99 was not recorded; the nearest that were: 20",
        ),
    ],
)
def test_one_line_and_no_file_for_what_is_wrong(folder: Path, arguments: list[str], code: int, message: str) -> None:
    done = run(folder, *arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert done.stdout == ""
    assert not list(folder.glob("x.*"))
    assert not list(folder.glob(".*"))


def test_steps() -> None:
    steps = np.array([0, 2, 4, 10, 11, 12, 30])
    for words, frames in {
        "0:": [0, 1, 2, 3, 4, 5, 6],
        ":10": [0, 1, 2],
        "3:12": [2, 3, 4],
        "::5": [0, 3, 6],
        "10": [3],
        "2:31:2": [1, 2, 3, 5, 6],
    }.items():
        assert frames_of(steps, words).tolist() == frames
    for words in ("a:b", "1:2:3:4", "::0", "5", ""):
        with pytest.raises(InvalidArgument, match="--steps"):
            frames_of(steps, words if words else "x")


def test_size() -> None:
    assert size_of("640X480") == (640, 480)
    for words in ("640", "ax480", "640x", "-640x480"):
        with pytest.raises(InvalidArgument, match="--size"):
            size_of(words)

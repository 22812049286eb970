"""Where a recording lies: folders with spaces and letters of other alphabets, by every verb that takes one; processes that are spawned, not forked."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlapse as wl
from tests.framework_presence import require, run_program
from weightlapse.cli import main

# spaces, quotes, what patterns and URLs give a meaning, composed and decomposed letters, scripts of their own, one beyond the basic plane
NAMES = ["two words", "größe и gro\u0308ße", "重み وزن 🎞", "it's 100% #1 [a] {b} & $c;b=c,d+e"]


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_lives_under_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    folder = tmp_path / name
    state = {"W": np.arange(6, dtype="f4").reshape(2, 3), "größe/重み": np.zeros(3, "f4")}
    kept = []
    with wl.watch(state, folder / "run") as rec:
        for step in range(4):
            state = {key: value + 1 for key, value in state.items()}
            rec.step(state, loss=1.0 / (step + 1))
            kept.append(state)
    run = folder / "run"
    told = {}
    for words in (
        ("info", run), ("ls", folder), ("ls", folder, "--json"), ("verify", run), ("doctor", run), ("top", run, "update"), ("diff", f"{run}@0", f"{run}@4"),
        ("compact", run), ("page", run, "-o", folder / "page.html"), ("export", run, "--to", "npz", "-o", folder / "run.npz"),
        ("export", run, "--to", "safetensors", "-o", folder / "states"), ("import", folder / "run.npz", "--steps", "1", "-o", folder / "back"),
    ):  # fmt: skip
        if words[0] == "import":
            np.savez(folder / "run.npz", **state)  # type: ignore[arg-type]  # a checkpoint in the place of the export
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        output = capsys.readouterr()
        assert end.value.code in (0, None) or (words[0] == "diff" and end.value.code == 1), (words, output.err)
        told[words[0]] = output.out
    assert json.loads(told["ls"])["recordings"][0]["last_step"] == 4
    for key in state:
        assert np.array_equal(np.asarray(wl.load(run)[key])[1:], np.stack([s[key] for s in kept]))
        assert np.array_equal(wl.load(folder / "back")[key][0], state[key])
    assert (folder / "page.html").stat().st_size > 10_000
    assert len(list((folder / "states").iterdir())) == 5


@pytest.mark.parametrize("name", ["two words", "重み", "it's 100% #1 & $c"])
def test_a_shell_opens_it(tmp_path: Path, name: str) -> None:
    """Through the program itself, so that words are decoded as the system gives them."""
    with wl.watch({"W": np.zeros((2, 2), "f4")}, tmp_path / name / "run") as rec:
        rec.step({"W": np.ones((2, 2), "f4")})
    done = subprocess.run(
        [sys.executable, "-m", "weightlapse", "ls", str(tmp_path / name)], capture_output=True, text=True, encoding="utf-8", check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "run" in done.stdout


def copied(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301


def rewound(path: Path) -> wl.Recording:
    """Steps 0 to 3, then rewound to 1 and trained to 5: a recording with a branch."""
    for first, values in ((None, (1, 2, 3)), (1, (10, 20, 30, 40))):
        more = {} if first is None else {"resume": True, "resume_at": first}
        with wl.watch({"W": np.full(3, 0.0 if first is None else 1.0)}, path, **more) as rec:
            for value in values:
                rec.step({"W": np.full(3, float(value))}, loss=float(value))
    return wl.load(path)


def test_what_was_opened_goes_to_another_process(tmp_path: Path) -> None:
    run = rewound(tmp_path / "run")
    assert run.scalars["loss"][-1] == 40
    for here in (run, run.branches["after-1"]):
        there = copied(here)
        assert there.branch == here.branch
        assert there.steps.tolist() == here.steps.tolist()
        assert np.array_equal(there["W"][:], here["W"][:])
        assert np.array_equal(there.scalars["loss"], here.scalars["loss"], equal_nan=True)
        assert np.array_equal(copied(here["W"])[-1], here["W"][-1])
        assert np.array_equal(copied(here.layouts[0])["W"][:], here["W"][:])
    assert run.branches["after-1"]["W"][:, 0].tolist() == [2, 3]


def test_what_took_its_place_is_not_it(tmp_path: Path) -> None:
    sent = pickle.dumps(rewound(tmp_path / "run"))
    with wl.watch({"W": np.zeros(3)}, tmp_path / "run", overwrite=True):
        pass
    with pytest.raises(wl.DamagedRecording, match="replaced by another recording"):
        pickle.loads(sent)  # noqa: S301


def test_processes_that_are_spawned(tmp_path: Path) -> None:
    require("torch")
    said = run_program("spawned.py", tmp_path, WEIGHTLAPSE_STRICT="1").splitlines()
    assert said == ["recorded", "read", "loaded"]

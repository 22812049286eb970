"""The shell as people know it: completion, many recordings, what fits, `ls`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import weightlapse as wl
import weightlapse.cli
from tests.test_cli_info import run_cli
from weightlapse.cli import VERBS
from weightlapse.cli.completion import SHELLS
from weightlapse.store.sizes import size


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three recordings, one of them deeper, another of them still open, and a file beside them; the present folder holds ``runs``."""
    folder = tmp_path / "runs"
    for name, frames in (("a", 5), ("b", 7), ("deep/er/c", 3)):
        with wl.watch({"w": np.zeros(3)}, folder / name) as rec:
            for k in range(1, frames):
                rec.step({"w": np.full(3, float(k))}, loss=1 / k, val_loss=9.0)
    (folder / "notes.txt").write_text("which seed was it")
    (folder / "more.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    return folder


def test_ls(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_cli(capsys, "ls", "runs")
    assert (code, err) == (0, "")
    head, *rows = [line.split() for line in out.splitlines()]
    assert head == ["recording", "size", "frames", "steps", "loss", "findings"]
    assert [row[0] for row in rows] == ["a", "b", os.path.join("deep", "er", "c")]
    assert rows[1][3:] == ["7", "0", "to", "6", "0.1667"]


def test_ls_json(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "b" / "manifest.json").write_text("{")
    rec = wl.watch({"w": np.zeros(3)}, runs / "open")
    rec.step({"w": np.ones(3)}, train_loss=2.0)
    rec.gap(2, 3, "the disk was slow")
    rec.flush()
    code, out, _ = run_cli(capsys, "ls", "runs", "--json")
    rec.close()
    assert code == 0
    found = {Path(row["path"]).name: row for row in json.loads(out)["recordings"]}
    assert list(found) == ["a", "b", "open", "c"]
    assert found["a"] == {
        "path": os.path.join("runs", "a"), "stored_bytes": wl.load(runs / "a").stored_nbytes, "frames": 5, "first_step": 0, "last_step": 4,
        "loss": 0.25, "loss_name": "loss", "findings": 0, "closed": True, "error": None,
    }  # fmt: skip
    assert "manifest" in found["b"]["error"]
    assert (found["open"]["closed"], found["open"]["loss_name"], found["open"]["findings"]) == (False, "train_loss", 1)


def test_ls_decodes_nothing(runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: object) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr(wl.Track, "__getitem__", decoded)
    monkeypatch.setattr(wl.Recording, "state", decoded)
    assert run_cli(capsys, "ls", "runs")[0] == 0


def test_ls_of_nothing_is_an_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["ls", str(tmp_path)], ["ls", str(tmp_path), "--json"], ["ls", str(tmp_path / "gone")]):
        code, out, err = run_cli(capsys, *arguments)
        assert code == 1
        assert "recording" in err
        assert out == "" or json.loads(out)["recordings"] == []


@pytest.mark.parametrize(
    "nbytes, words",
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1500, "1.5 kB"), (99_600, "100 kB"), (999_600, "1 MB"), (52_000_000, "52 MB"), (7.2e12, "7.2 TB"), (3e18, "3000 PB")],
)  # fmt: skip
def test_sizes_in_words(nbytes: float, words: str) -> None:
    assert size(int(nbytes)) == words


@pytest.mark.parametrize("verb", ["info", "doctor", "verify", "compact"])
@pytest.mark.parametrize("words", [["runs/a", "runs/b"], ["runs/[ab]"], ["runs/?", "runs/b"]], ids=str)
def test_verbs_take_many(runs: Path, capsys: pytest.CaptureFixture[str], verb: str, words: list[str]) -> None:
    _, out, _ = run_cli(capsys, verb, *words)
    assert [out.count(os.path.join("runs", name)) for name in "ab"] == [1, 1]
    _, out, _ = run_cli(capsys, verb, *words, "--json")
    paths = [found.get("path", found.get("recording")) for found in json.loads(out)["recordings"]]
    assert [os.path.basename(path) for path in paths] == ["a", "b"]


def test_one_that_is_bad_does_not_stop_the_others(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "a" / "manifest.json").unlink()  # verify must not pass it over
    code, out, err = run_cli(capsys, "verify", "runs/?", "--json")
    assert code == 1
    assert [("error" in found, found.get("whole")) for found in json.loads(out)["recordings"]] == [
        (True, None),
        (False, True),
    ]
    assert "runs/a is not a recording" in err.replace(os.sep, "/")


def test_files_beside_recordings_are_left_out_and_told(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(runs / "deep")
    code, out, err = run_cli(capsys, "verify", "runs/*")
    assert code == 0
    assert len(out.splitlines()) == 2
    assert "left out" in err
    assert "notes.txt" in err


@pytest.mark.parametrize("words", [["runs/x*"], ["runs/*.txt"], ["runs/notes.txt", "runs/more.txt"], ["runs/a", "nothing-[0-9]"]], ids=str)  # fmt: skip
def test_an_empty_selection_is_an_error(runs: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    code, out, err = run_cli(capsys, "info", *words)
    assert (code, out) == (1, "")
    assert "recording" in err


def test_what_fits_is_opened(runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for words, verb in (
        (["runs/a"], "info"),
        (["runs/a", "runs/b", "--json"], "info"),
        (["runs/[ab]"], "info"),
        (["runs"], "ls"),
    ):
        code, out, err = run_cli(capsys, *words)
        assert (code, err.splitlines()[0]) == (0, f"weightlapse {verb} {' '.join(words)}")
        assert (code, out) == run_cli(capsys, verb, *words)[:2]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert weightlapse.cli._fitting(["runs/a"]) == "view"
    assert weightlapse.cli._fitting(["runs/a", "--json"]) == "info"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert weightlapse.cli._fitting(["runs/a"]) == "info"  # nothing is there to serve it


def test_what_fits_nothing_is_wrong_usage(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for word, said in (
        ("flim", "there is no verb 'flim'; nearest: 'film'"),
        ("runs/notes.txt", "runs/notes.txt is no recording"),
        ("runs/gone", "there is nothing at runs/gone"),
    ):
        code, out, err = run_cli(capsys, word)
        assert (code, out) == (2, "")
        assert said in err


def asked(*words: str) -> list[str]:
    """What the program answers to a shell that wants to complete the last of the words."""
    env = os.environ | {
        "_WEIGHTLAPSE_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["weightlapse", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run([sys.executable, "-m", "weightlapse"], env=env, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    "words, found",
    [
        (["co"], ["plain,compare", "plain,compact", "plain,completion"]),
        (["film", "run", "--th"], ["plain,--theme"]),
        (["export", "run", "--to", "z"], ["plain,zarr"]),
        (["info", "ru"], ["file,ru"]),
        (["runs/a"], ["file,runs/a"]),
    ],
)
def test_completion_answers(words: list[str], found: list[str]) -> None:
    assert asked(*words) == found


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_is_a_program_that_its_shell_reads(
    shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = run_cli(capsys, "completion", shell)
    assert code == 0
    assert "_WEIGHTLAPSE_COMPLETE" in out
    if shutil.which(shell):
        (tmp_path / "script").write_text(out)
        done = subprocess.run([shell, "-n", str(tmp_path / "script")], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_real_bash_completes(tmp_path: Path) -> None:
    program = tmp_path / "weightlapse"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m weightlapse "$@"\n')
    program.chmod(0o755)
    script = 'eval "$(weightlapse completion bash)"; COMP_WORDS=(weightlapse do); COMP_CWORD=1; _weightlapse_completion weightlapse; echo "${COMPREPLY[@]}"'
    env = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "--norc", "-c", script], env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "doctor\n", done.stderr


def test_completion_guesses_the_shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    assert run_cli(capsys, "completion") == run_cli(capsys, "completion", "fish")
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    code, out, err = run_cli(capsys, "completion")
    assert (code, out) == (2, "")
    assert "say which shell" in err


def test_completing_a_verb_imports_none() -> None:
    code = "import sys\nfrom weightlapse.cli import main\ntry:\n main([])\nexcept SystemExit: pass\nprint(*[m for m in sys.modules if m.startswith('weightlapse.cli.')])"
    env = os.environ | {"_WEIGHTLAPSE_COMPLETE": "bash_complete", "COMP_WORDS": "weightlapse d", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    *found, modules = done.stdout.split("\n")[:-1]
    assert [line.split(",")[1] for line in found] == [verb for verb in VERBS if verb.startswith("d")]
    assert modules == ""

"""A few seconds of the torture, and proof that each breaker notices what it is there to notice."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.torture import damage, faults, kills, mutations, truth
from tests.torture.__main__ import Tally, table

ROOT = Path(__file__).resolve().parents[2]


def breaker(what: str, *words: int) -> list[dict[str, object]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", f"tests.torture.{what}", *map(str, words)], cwd=ROOT, env=environment,
                          capture_output=True, text=True, timeout=300, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert told[-1]["done"] >= words[-1]
    return [line for line in told if "wrong" in line]


def test_damage() -> None:
    assert breaker("damage", 11, 0, 120) == []


def test_faults() -> None:
    assert breaker("faults", 12, 0, 20) == []


def test_kills() -> None:
    assert breaker("kills", 13, 40) == []


# ---- the breakers themselves ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", truth.KINDS)
def test_the_oracle_finds_nothing_wrong_in_whole_recordings_and_a_wrong_value_in_any(kind: str, tmp_path: Path) -> None:
    known = truth.KINDS[kind](tmp_path / "run", 3)
    seen = truth.look(tmp_path / "run", known)
    assert (seen.lost, seen.lost_scalars, seen.clean, seen.closed) == (0, 0, True, known.closed)
    assert seen.good
    for line in (known.main, *known.branches.values()):
        frame, name = line.values[-1], next(iter(line.values[-1]))
        kept = frame[name]
        frame[name] = kept + np.float32(1)
        with pytest.raises(truth.Wrong):
            truth.look(tmp_path / "run", known)
        frame[name] = kept
    step = known.main.steps[2]
    known.main.steps[2] = 999_999
    with pytest.raises(truth.Wrong):
        truth.look(tmp_path / "run", known)
    known.main.steps[2] = step
    if known.sealed and known.main.scalars:
        known.main.scalars[step] = -1.0
        with pytest.raises(truth.Wrong, match="scalar"):
            truth.look(tmp_path / "run", known)


def test_the_oracle_counts_what_is_lost(tmp_path: Path) -> None:
    known = truth.KINDS["log"](tmp_path / "run", 3)
    file = tmp_path / "run/log/000000.seg"
    file.write_bytes(file.read_bytes()[:-200])
    seen = truth.look(tmp_path / "run", known)
    assert seen.lost > 0
    assert not seen.clean


def test_every_mutation_changes_something(tmp_path: Path) -> None:
    """On at least one kind of recording each; a mutator that does nothing would find nothing."""
    for kind in ("mixed", "ranks"):
        truth.KINDS[kind](tmp_path / kind, 3)
        truth.KINDS[kind](tmp_path / f"{kind}-twin", 4)
    for change in {*mutations.PLAIN, *mutations.LIES}:
        changed = 0
        for attempt in range(6):
            kind = ("mixed", "ranks")[attempt % 2]
            run = tmp_path / "run"
            shutil.copytree(tmp_path / kind, run)
            before = content(run)
            with contextlib.suppress(ValueError):  # by these draws it would be another change: the breaker draws again
                change(run, tmp_path / f"{kind}-twin", random.Random(attempt))
            changed += content(run) != before
            shutil.rmtree(run)
        assert changed, change.__name__


def content(run: Path) -> dict[str, bytes | str]:
    return {
        p.relative_to(run).as_posix(): p.read_bytes()
        if p.is_file() and not p.is_symlink()
        else f"{p.is_symlink()} {p.is_dir()}"
        for p in run.rglob("*")
    }


def test_damage_is_noticed_by_the_breaker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that forgets its checksums, a verify that is always content, an error that is not ours: each is found."""
    samples = damage.Samples(tmp_path / "samples")
    samples.folder.mkdir()
    samples.make(3)

    def found(count: int = 40) -> str:
        wrongs = []
        for number in range(count):
            (tmp_path / f"{number}").mkdir()
            wrongs.append(damage.one(samples, 3, number, tmp_path / f"{number}")[1])
            shutil.rmtree(tmp_path / f"{number}")
        return "\n".join(wrongs)

    from weightlapse.store.reader import Store

    with monkeypatch.context() as patch:
        patch.setattr(Store, "verify", lambda self: [])
        assert "verify finds nothing" in found()
    with monkeypatch.context() as patch:
        real = Store.read
        patch.setattr(
            Store,
            "read",
            lambda self, *a, **k: (
                real(self, *a, **k) + np.uint8(0) if self.location.endswith("x") else real(self, *a, **k)[::-1]
            ),
        )
        assert "WRONG" in found(20)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "read_frame", lambda self, *a, **k: {}["not there"])
        assert "RAW KeyError" in found(20)


def raised(self: object, error: BaseException) -> None:
    raise error


def test_faults_are_noticed_by_the_breaker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.delenv("WEIGHTLAPSE_STRICT", raising=False)
    real = faults.writing.segment_frames

    def results(count: int = 8) -> list[faults.Result]:
        out = []
        for number in range(count):
            (tmp_path / f"{number}").mkdir()
            out.append(faults.one(5, number, tmp_path / f"{number}"))
            shutil.rmtree(tmp_path / f"{number}")
        return out

    with monkeypatch.context() as patch:
        patch.setattr("weightlapse.capture.pump.Pump.flush", lambda self: True)
        patch.setattr("weightlapse.capture.pump.Pump._drain", lambda self: None)
        assert any("flushed frames are lost" in r.wrong for r in results())
    with monkeypatch.context() as patch:
        patch.setattr("weightlapse.capture.recorder.Recorder._meet", raised)
        patch.setattr("weightlapse.capture.pump.Pump.log", lambda self, frame, name, value: 1 / 0)
        assert any(r.wrong.startswith("RAW ZeroDivisionError") for r in results())
    assert sum(r.failed for r in results()) > 5, "faults do reach the package"
    monkeypatch.setattr(faults.writing, "segment_frames", real)


def test_the_disk_is_well_again_after_the_faults(tmp_path: Path) -> None:
    before = {name: getattr(os, name) for name in faults.REAL}
    plan = [("open", 5, 1, 1), ("write", 28, 1, 1)]
    with faults.Faults(tmp_path, plan)():
        with pytest.raises(OSError):
            (tmp_path / "x").write_text("x")
        fd = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT)
        with pytest.raises(OSError, match="No space"):
            os.write(fd, b"a")
        assert os.write(fd, b"a") == 1
        os.close(fd)
        with open(ROOT / "pyproject.toml") as other:
            assert other.read(1), "files elsewhere are not touched"
    assert {name: getattr(os, name) for name in faults.REAL} == before


@pytest.mark.parametrize("spoil", ["user", "value", "frame", "branch", "scalar"])
def test_kills_notice(tmp_path: Path, spoil: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kills.writing, "segment_frames", kills.writing.segment_frames)
    run = tmp_path / "run"
    with kills.wl.watch(kills.values(1, 0), run) as rec:
        for step in range(1, 20):
            rec.step(kills.values(1, step), step=step, loss=1 + step / 1024)
    kills.put_users_files(run)
    known = kills.Known(kills.Store.open(run).id, dict.fromkeys(range(20), 1), set(range(20)))
    kills.check(run, known)
    if spoil == "user":
        (run / "best.pt").write_bytes(b"other")
    elif spoil == "value":
        known.wrote[7] = 2
    elif spoil == "frame":
        known.certain.add(20)
    elif spoil == "branch":
        known.left.append({3: 1})
    else:
        monkeypatch.setattr("weightlapse.recording.recording.Recording.scalars", {"loss": np.zeros(20)})
    with pytest.raises(kills.Wrong):
        kills.check(run, known)


def test_the_table_counts_every_fault_and_an_idle_run_is_no_pass() -> None:
    tally = Tally()
    told = [
        {"at": 3}, {"seed": 1, "number": 3, "case": "log; bit", "wrong": "WRONG: line '', step 4: w is not what was written"},
        {"seed": 1, "number": 4, "case": "log; bit", "wrong": "RAW KeyError: 'x': recorder.py:1 _step"}, {"done": 5, "peak_mb": 80},
    ]  # fmt: skip
    tally.take("damage", 1, "\n".join(map(json.dumps, told)), 0, "")
    tally.take("kills", 2, '{"at": 9}', -11, "boom")
    assert {
        k: tally.counts[k] for k in ("wrong values", "raw exceptions", "killed trainings", "crashes")
    } == dict.fromkeys(("wrong values", "raw exceptions", "killed trainings", "crashes"), 1)
    text = table(tally, 20)
    assert "| damaged recordings | 5 |" in text
    assert "damage 1 3: log; bit" in text
    assert "kills 2 9: the process ended with -11" in text


@pytest.mark.parametrize(
    ("seed", "number"),
    [
        (39, 290),  # a chunk of another place in a block that has lost its index
        (12, 387),  # a journal that was cut behind its head
        (54, 79),  # bytes taken out of the middle of a journal
        (126, 127),  # a rewind of which nothing is left
    ],
)
def test_what_was_found_once(seed: int, number: int) -> None:
    assert breaker("damage", seed, number, 1) == []

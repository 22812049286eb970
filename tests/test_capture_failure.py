"""A recorder never kills a training run: it warns once, says so in the recording, and training goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from weightlapse.errors import RecorderWarning, RecordingStopped
from weightlapse.store.writer import Writer


@pytest.fixture(autouse=True)
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEIGHTLAPSE_STRICT", raising=False)


def run_training(path: Path, *, breaks: Any = None, steps: int = 20, **arguments: Any) -> tuple[np.ndarray, Any]:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    rec = wl.watch(model, path, optimizer=optimizer, **arguments)
    for k in range(steps):
        if breaks is not None and (k == 10 or breaks.__code__.co_argcount == 2):
            breaks(rec, k) if breaks.__code__.co_argcount == 2 else breaks(rec)
        model(torch.randn(5, 4)).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        rec.log(loss=k)
    rec.close()
    return model.weight.detach().clone().numpy(), rec


def break_copy(rec: Any) -> None:
    def broken(*_: Any) -> bool:
        raise RuntimeError("planted")

    rec._source.copy = broken


def break_writer(rec: Any) -> None:
    def broken(*_: Any) -> None:
        raise OSError(27, "File too large")

    rec.flush()
    rec._pump.writer.append = broken


def test_a_broken_store_ends_the_recording_and_leaves_training_unchanged(tmp_path: Path) -> None:
    whole, _ = run_training(tmp_path / "whole")
    with pytest.warns(RecordingStopped, match="File too large") as caught:
        broken, rec = run_training(tmp_path / "broken", breaks=break_writer)
    assert len(caught) == 1
    assert "11 frames are in the recording, the last 10 taken could not be written" in str(caught[0].message)
    assert np.array_equal(whole, broken)
    assert "File too large" in rec.stopped
    assert rec.failed == rec.stopped
    run = wl.load(tmp_path / "broken")
    assert "File too large" in str(run.stopped)
    assert run.steps.tolist() == list(range(11))
    assert np.array_equal(run["weight"][:], wl.load(tmp_path / "whole")["weight"][:11])
    assert any("File too large" in text for _, text in run.events)


def test_frames_that_cannot_be_read_are_a_gap(tmp_path: Path) -> None:
    """What breaks for a while costs the frames of that while, is said once, and the rest is there."""
    whole, _ = run_training(tmp_path / "whole")
    real: list[Any] = []

    def breaks(rec: Any, k: int) -> None:
        if k == 10:
            real.append(rec._source.copy)
            break_copy(rec)
        if k == 13:
            rec._source.copy = real[0]

    with pytest.warns(RecorderWarning, match="planted") as caught:
        broken, rec = run_training(tmp_path / "broken", breaks=breaks)
    assert len(caught) == 1
    assert np.array_equal(whole, broken)
    run = wl.load(tmp_path / "broken")
    assert run.stopped is rec.stopped is None
    assert run.closed
    assert run.steps.tolist() == [*range(11), *range(14, 21)]
    assert run.gaps == [(11, 13, "RuntimeError: planted")]
    assert np.array_equal(run["weight"][:], wl.load(tmp_path / "whole")["weight"][run.steps])
    assert run.scalars["loss"][1:].tolist() == [*range(10), *range(13, 20)]


def test_strict_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTLAPSE_STRICT", "1")
    with pytest.raises(RuntimeError, match="planted"):
        run_training(tmp_path / "run", breaks=break_copy)


def test_off_is_the_same_face_with_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTLAPSE_MODE", "off")
    _, rec = run_training(tmp_path / "run")
    with rec as same:
        same.step({"w": 1}, step=3, loss=2.0)
        same.mark("x")
        same.flush()
    assert rec.path == tmp_path / "run"
    assert rec.frames == 0
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_keep_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """block: training waits and nothing is lost; stretch: steps are left out and every gap is in the recording."""
    real = Writer.append

    def slow(self: Writer, steps: Any, rows: Any) -> None:
        time.sleep(0.05)
        real(self, steps, rows)

    monkeypatch.setattr(Writer, "append", slow)
    run_training(tmp_path / "block", steps=60, memory=400)
    assert wl.load(tmp_path / "block").steps.tolist() == list(range(61))
    run_training(tmp_path / "stretch", steps=60, memory=400, backpressure="stretch")
    run = wl.load(tmp_path / "stretch")
    missing = {step for first, last, _ in run.gaps for step in range(first, last + 1)}
    assert missing
    assert missing | set(run.steps.tolist()) == set(range(61))
    assert missing.isdisjoint(run.steps.tolist())
    whole = wl.load(tmp_path / "block")
    assert all(np.array_equal(run.state(step=s)["weight"], whole.state(step=s)["weight"]) for s in run.steps)


def test_flush_means_on_disk(tmp_path: Path) -> None:
    weights = {"w": np.zeros(3)}
    rec = wl.watch(weights, tmp_path / "run")
    for k in range(1, 20):
        rec.step({"w": np.full(3, float(k))}, loss=k)
        rec.flush()
        run = wl.load(tmp_path / "run")
        assert run.frames == k + 1
        assert run["w"][-1].tolist() == [k, k, k]
        assert run.scalars["loss"][-1] == k
    rec.close()
    rec.close()
    rec.step({"w": np.zeros(3)})  # after close: nothing happens
    assert wl.load(tmp_path / "run").frames == 20


FORGETS = """
import sys, numpy as np, weightlapse as wl
rec = wl.watch({"w": np.zeros(3)}, sys.argv[1])
for k in range(1, 500):
    rec.step({"w": np.full(3, float(k))}, loss=k)
if sys.argv[2] == "raise":
    raise SystemExit(3)
if sys.argv[2] == "lose":
    del rec
if sys.argv[2] == "fork":
    import os
    pid = os.fork()
    if pid == 0:
        rec.step({"w": np.full(3, -1.0)})
        sys.exit(0)
    os.waitpid(pid, 0)
    rec.step({"w": np.full(3, 500.0)})
"""


@pytest.mark.parametrize("how", ["end", "raise", "lose", "fork"])
def test_a_forgotten_close_loses_nothing(tmp_path: Path, how: str) -> None:
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    subprocess.run([sys.executable, "-c", FORGETS, str(tmp_path / "run"), how], timeout=60, env=environment)
    run = wl.load(tmp_path / "run")
    last = 500 if how == "fork" else 499
    assert run["w"][:, 0].tolist() == list(range(last + 1))
    assert run.scalars["loss"][499] == 499
    assert run.closed


KILLED = """
import sys, numpy as np, weightlapse as wl
w = {"weight": np.zeros((20, 10)), "bias": np.zeros(20, np.float32)}
rec = wl.watch(w, sys.argv[1])
step = 0
while True:
    step += 1
    for values in w.values():
        values += 1
    rec.step(w, loss=step)
    if step % 50 == 0:
        rec.flush()
        print(step, flush=True)
"""


def test_kill_9_at_random_moments(tmp_path: Path) -> None:
    """After flush() nothing is lost; without it at most 256 frames; and no frame is ever wrong."""
    draw = random.Random(2)
    for k in range(12):
        path = tmp_path / f"run{k}"
        with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(draw.random() * 0.2)
            process.send_signal(signal.SIGKILL)
            flushed = max([50, *(int(line) for line in process.stdout.read().splitlines()[:-1])])
        run = wl.load(path)
        assert run.frames > flushed
        assert run.steps.tolist() == list(range(run.frames))
        values = run["weight"][1:]
        assert np.array_equal(values, np.broadcast_to(np.arange(1, run.frames)[:, None, None], values.shape))
        assert not run.closed
        assert np.array_equal(run.scalars["loss"][1 : flushed + 1], np.arange(1, flushed + 1))


def test_the_exception_that_ends_training_is_in_the_recording(tmp_path: Path) -> None:
    def fit() -> None:
        with wl.watch({"w": np.zeros(3)}, tmp_path / "run") as rec:
            rec.step({"w": np.ones(3)})
            1 / 0

    with pytest.raises(ZeroDivisionError):
        fit()
    run = wl.load(tmp_path / "run")
    assert run.closed
    assert run.events == [(1, "training ended with ZeroDivisionError: division by zero")]


def test_a_read_only_place(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        target = Path("/proc/weightlapse-run")  # root may write anywhere but there
    else:
        tmp_path.chmod(0o500)
        target = tmp_path / "run"
    with warnings.catch_warnings(), pytest.raises(wl.CannotRecord, match="cannot be written"):
        wl.watch({"w": np.zeros(3)}, target)


def test_the_program_may_change_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rec = wl.watch({"w": np.zeros(3)}, "run")
    assert rec.path == tmp_path / "run"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    rec.step({"w": np.ones(3)})
    rec.step({"w": np.ones(4)})  # another layout, so another file
    rec.close()
    assert wl.load(rec.path).frames == 3
    assert list((tmp_path / "elsewhere").iterdir()) == []


FULL_DISK = """
import resource, sys, warnings
import numpy as np, weightlapse as wl
draw = np.random.default_rng(0)
frames = draw.normal(size=(400, 1000))
warnings.simplefilter("error")
rec = wl.watch({"w": frames[0]}, sys.argv[1], compact="after")
rec.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))  # as a full disk: no file grows beyond this
warned = 0
for k in range(1, 400):
    try:
        rec.step({"w": frames[k]}, loss=k)
    except UserWarning:
        warned += 1
rec.close()
print(warned)
"""


def test_a_full_disk(tmp_path: Path) -> None:
    """What fits is kept, the missing steps are named, the warning comes once, and the program goes on."""
    environment = {**os.environ, "WEIGHTLAPSE_STRICT": "0"}
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout.split() == ["1"], done.stderr
    run = wl.load(tmp_path / "run")
    frames = np.random.default_rng(0).normal(size=(400, 1000))
    assert run.frames == (1_000_000 - 56) // 8032
    assert np.array_equal(run["w"][:], frames[: run.frames])
    assert run.scalars["loss"][1:].tolist() == list(range(1, run.frames))
    assert "File too large" in str(run.stopped)
    (first, last, reason) = run.gaps[0]
    assert first == run.frames
    assert last >= first
    assert "File too large" in reason
    assert not run.closed


@pytest.mark.parametrize("what", ["nothing", "flush", "two recorders"])
def test_a_program_that_never_closes_its_recorder_leaves_a_whole_recording(tmp_path: Path, what: str) -> None:
    """At exit the pools that compress take nothing any more: what is left is compressed all the same."""
    program = f"""
import numpy as np, weightlapse as wl
recorders = [({{"w": np.zeros(9000)}}, f"run{{k}}") for k in range({2 if what == "two recorders" else 1})]
recorders = [(weights, wl.watch(weights, {str(tmp_path)!r} + "/" + name)) for weights, name in recorders]
for step in range(150):
    for weights, rec in recorders:
        weights["w"] += np.random.default_rng(step).normal(size=9000)
        rec.step()
{"recorders[0][1].flush()" if what == "flush" else ""}
"""
    environment = {**os.environ, "WEIGHTLAPSE_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    for path in tmp_path.glob("run*"):
        run = wl.load(path)
        assert run.frames == 151
        assert run.closed
        assert not list((path / "log").glob("*.seg"))
        assert np.array_equal(run["w"][1], np.random.default_rng(0).normal(size=9000))

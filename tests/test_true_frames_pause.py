"""A store that takes nothing for a while pauses the recording and never the training; what is missing is noted when it goes on."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlapse as wl
from tests.test_true_frames_updates import said
from weightlapse.capture.pump import Pump
from weightlapse.store.writer import Writer


@pytest.fixture(autouse=True)
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEIGHTLAPSE_STRICT", raising=False)


class Disk:
    """A disk that can be filled and freed: writing of frames and of everything else fails as an operating system lets it fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOSPC) -> None:
        self.full = False
        self.refused = 0
        for name in ("append", "scalars", "event", "gap", "relayout", "flush"):
            monkeypatch.setattr(Writer, name, self.guarded(getattr(Writer, name), number))

    def guarded(self, real: Any, number: int) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            if self.full:
                self.refused += 1
                raise OSError(number, "No space left on device" if number == errno.ENOSPC else "planted")
            return real(*arguments, **named)

        return call


def values(k: int) -> dict[str, np.ndarray]:
    return {"w": np.full(10, float(k))}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE])
def test_full_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    disk = Disk(monkeypatch, number)
    rec = wl.watch(values(0), tmp_path / "run")
    longest = 0.0
    with said() as texts:
        for k in range(1, 3001):
            if k == 1500:
                rec.flush()
                disk.full = True
            if k == 2400:
                disk.full = False
                wait_until(lambda: rec._pump.paused is None)
            began = time.monotonic()
            rec.step(values(k), loss=k)
            longest = max(longest, time.monotonic() - began)
        rec.close()
    assert disk.refused > 0
    assert longest < 1  # never held
    assert len(texts) == 1
    assert "the store takes nothing at the moment" in texts[0]
    run = wl.load(tmp_path / "run")
    assert run.closed
    assert run.stopped is None
    missing = {step for first, last, _ in run.gaps for step in range(first, last + 1)}
    assert missing
    assert missing <= set(range(1500, 2400))
    assert sorted(missing | set(run.steps.tolist())) == list(range(3001))
    assert missing.isdisjoint(run.steps.tolist())
    assert np.array_equal(run["w"][:, 0], run.steps)
    assert np.array_equal(run.scalars["loss"][1:], run.steps[1:])
    reason = "No space left on device" if number == errno.ENOSPC else "planted"
    assert all(reason in why for *_, why in run.gaps)
    assert any(f.kind == "paused" for f in wl.diagnose(run))


def wait_until(true: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_memory_holds_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    rec = wl.watch(values(0), tmp_path / "run")
    rec.flush()
    disk.full = True
    with said() as texts:
        for k in range(1, 100):  # less than the ring holds
            rec.step(values(k), loss=k)
        wait_until(lambda: rec._pump.paused)
        began = time.monotonic()
        rec.flush()  # cannot, and is not waited for
        assert time.monotonic() - began < 5
        rec.mark("full")
        disk.full = False
        rec.close()
    assert len(texts) == 1
    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == list(range(100))
    assert run.gaps == []
    assert run.scalars["loss"][1:].tolist() == list(range(1, 100))
    assert "full" in [text for _, text in run.events]


def test_another_layout_amid_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    rec = wl.watch(values(0), tmp_path / "run")
    with said():
        for k in range(1, 40):
            if k == 10:
                rec.flush()
                disk.full = True
                rec.step(values(10))
                wait_until(lambda: rec._pump.paused)
                continue
            if k == 30:
                disk.full = False
                wait_until(lambda: rec._pump.paused is None)
            rec.step(values(k) if k < 20 else {"w": np.full(11, float(k))})
        rec.close()
    run = wl.load(tmp_path / "run")
    assert [span.steps.tolist() for span in run.layouts] == [list(range(20)), list(range(30, 40))]
    assert [gap[:2] for gap in run.gaps] == [(20, 29)]
    assert "the store takes nothing" in run.gaps[0][2]
    assert run.layouts[1]["w"][:, 0].tolist() == list(range(30, 40))


def test_full_until_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """close() waits with bounded patience and then tells what is missing."""
    monkeypatch.setattr(Pump, "patience", 0.5)
    disk = Disk(monkeypatch)
    rec = wl.watch(values(0), tmp_path / "run")
    for k in range(1, 50):
        rec.step(values(k))
    rec.flush()
    disk.full = True
    with said() as texts:
        for k in range(50, 70):
            rec.step(values(k))
        began = time.monotonic()
        rec.close()
        assert 0.4 < time.monotonic() - began < 10
    (last,) = [text for text in texts if "stopped recording" in text]
    assert "50 frames are in the recording, the last 20 taken could not be written" in last
    assert "No space left" in str(rec.stopped)
    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == list(range(50))
    assert not run.closed


def test_what_is_not_passing_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (errno.EBADF, errno.EACCES, errno.EROFS):
        with monkeypatch.context() as patch:
            disk = Disk(patch, number)
            rec = wl.watch(values(0), tmp_path / f"run{number}")
            rec.flush()
            disk.full = True
            with said() as texts:
                rec.step(values(1))
                rec.flush()
            assert len(texts) == 1
            assert "stopped recording" in texts[0]
            assert "planted" in texts[0]
            disk.full = False
            rec.close()
            assert rec.stopped is not None


def test_space_that_comes_while_closing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    disk = Disk(monkeypatch)
    rec = wl.watch(values(0), tmp_path / "run")
    rec.flush()
    disk.full = True
    rec.step(values(1))
    threading.Timer(0.6, lambda: setattr(disk, "full", False)).start()
    rec.close()
    assert rec.stopped is None
    assert wl.load(tmp_path / "run").steps.tolist() == [0, 1]
    assert wl.load(tmp_path / "run").closed


@pytest.mark.parametrize("call", ["journal.put", "list"])
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSPC])
def test_a_close_waits_for_a_fault_that_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    rec = wl.watch(values(0), tmp_path / "run")
    for k in range(1, 20):
        rec.step(values(k), loss=k)
    rec.flush()
    failing = [2]

    def once_or_twice(real: Any) -> Any:
        def called(*arguments: Any, **options: Any) -> Any:
            if failing[0]:
                failing[0] -= 1
                raise OSError(number, "planted")
            return real(*arguments, **options)

        return called

    if call == "list":
        monkeypatch.setattr(Path, "glob", once_or_twice(Path.glob))
    else:
        journal = rec._pump.writer._journal
        journal.put = once_or_twice(journal.put)
    rec.close()
    assert failing == [0]
    assert rec.failed is None
    run = wl.load(tmp_path / "run")
    assert run.closed
    assert run.steps.tolist() == list(range(20))


@pytest.mark.parametrize("times", [1, 2, 10**9])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_what_could_not_be_compressed_is_told_when_the_fault_has_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, times: int
) -> None:
    """The frames are in the log and the recording has ended: that a sentence about it finds no room is no failure."""
    monkeypatch.setattr("weightlapse.capture.pump.Pump.patience", 0.3)
    rec = wl.watch(values(0), tmp_path / "run")
    for k in range(1, 20):
        rec.step(values(k), loss=k)
    writer, left = rec._pump.writer, [times]
    real = writer._journal.put

    def put(*parts: Any) -> Any:
        if parts[0][0] == b"EVNT" and left[0]:
            left[0] -= 1
            raise OSError(number, "planted")
        return real(*parts)

    writer._journal.put = put  # type: ignore[method-assign]
    writer._compactor.failure = OSError(number, "planted")
    with pytest.warns(UserWarning, match="not all frames could be compressed"):
        rec.close()
    run = wl.load(tmp_path / "run")
    assert run.closed
    assert run.steps.tolist() == list(range(20))
    told = [text for _, text in run.events if "could be compressed" in text]
    assert len(told) == (times < 10)
    assert rec.failed is None

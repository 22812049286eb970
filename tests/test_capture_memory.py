"""What a recorder takes of memory, what it says before it begins, and while it ends."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from weightlapse.capture import memory
from weightlapse.capture.memory import auto_memory, needed, ring_for

GB = 10**9


@pytest.mark.parametrize(
    ("row", "free", "frames"),
    [
        (1000, 100 * GB, 256),  # all that a ring has
        (40_000_000, 100 * GB, 16),
        (500_000_000, 128 * GB, 16),
        (500_000_000, 16 * GB, 6),  # a quarter of what is free
        (500_000_000, 100_000, 2),  # never a refusal
        (4 * GB, 12 * GB, 2),
        (2_000_000, 1 * GB, 93),
        (2_000_000, 40_000_000, 3),
    ],
)
def test_auto_is_enough_for_the_model_and_a_share_of_what_is_free(row: int, free: int, frames: int) -> None:
    budget = auto_memory(row, free)
    assert min(256, budget * 3 // 4 // row) == frames
    assert budget <= max(free // 4, needed(row))


def test_less_is_taken_where_memory_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 100 * GB)
    asked: list[int] = []

    def allocate(shape: tuple[int, int]) -> Any:
        asked.append(shape[0])
        if shape[0] > 5:
            raise RuntimeError("CUDA error: out of memory") if len(asked) % 2 else MemoryError()
        return np.empty(shape, np.uint8)

    assert ring_for(40_000_000, None, allocate).capacity == 3
    assert asked == [16, 8, 3]
    with pytest.raises(wl.CannotRecord, match="no memory for two frames of 60,000,000 bytes"):
        ring_for(60_000_000, None, lambda shape: exec("raise MemoryError()"))
    with pytest.raises(wl.CannotRecord, match="at least two frames must fit"):
        ring_for(1000, 1000, None)


def test_a_container_has_less_than_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("max", "1000000000"), ("current", "700000000"), ("stat", "anon 1\ninactive_file 200000000\n")):
        (tmp_path / name).write_text(text)
    (tmp_path / "none").write_text("max\n")
    paths = tuple(str(tmp_path / name) for name in ("max", "current", "stat"))
    monkeypatch.setattr(memory, "_CGROUPS", (("/none", "/none", "/none"), (str(tmp_path / "none"), *paths[1:]), paths))
    monkeypatch.setattr(memory, "_of_the_machine", lambda: 90 * GB)
    assert memory.available_memory() == 500_000_000
    monkeypatch.setattr(memory, "_CGROUPS", ())
    assert memory.available_memory() == 90 * GB


@pytest.mark.parametrize("count", [1000, 4000])
def test_many_small_tensors_take_little_beside_the_ring(tmp_path: Path, count: int) -> None:
    def taken() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    model = nn.ParameterList([torch.zeros(4, 4) for _ in range(count)])
    with wl.watch(model, tmp_path / "warm", compact="never") as rec:
        rec.step()
    before = taken()
    with wl.watch(model, tmp_path / "run", compact="never") as rec:
        for k in range(300):
            model[k % count].data.add_(1.0)
            rec.step()
        assert rec.frames == 301
        more = taken() - before
        assert rec._camera.ring.rows.nbytes == 256 * count * 64
    assert more < rec._camera.ring.rows.nbytes + 4_000 * count + 20_000_000


def test_what_a_large_frame_costs_is_said_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("weightlapse.capture.watch._SPOKEN_OF", 1_000_000)
    large, small = {"w": np.zeros(500_000, np.float32)}, {"w": np.zeros(5, np.float32)}
    wl.watch(small, tmp_path / "small").close()
    assert capsys.readouterr().err == ""
    wl.watch(large, tmp_path / "run").close()
    said = capsys.readouterr().err
    for part in (
        f"recording to {tmp_path / 'run'}: a frame of dict has 2 MB: copied in",
        "written in",
        "compressed in",
        "is kept up with",
        "frames wait",
    ):
        assert part in said
    assert len(said.strip().splitlines()) == 1
    ((step, text),) = wl.load(tmp_path / "run").events
    assert step == 0
    assert text in said

    def unmeasured(*_: Any, **__: Any) -> Any:
        raise OSError("no space")

    monkeypatch.setattr("weightlapse.capture.plan.measure", unmeasured)
    with wl.watch(large, tmp_path / "again") as rec:
        large["w"] += 1
        rec.step()
    assert "could not be measured (OSError: no space)" in capsys.readouterr().err
    assert wl.load(tmp_path / "again").frames == 2


def test_a_long_close_says_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("weightlapse.capture.pump._SILENT_SECONDS", 0.05)
    weights = {"w": np.zeros(1000)}
    rec = wl.watch(weights, tmp_path / "run")
    append = rec._pump.writer.append

    def slow(steps: Any, rows: Any) -> None:
        time.sleep(0.4)
        append(steps, rows)

    rec.flush()
    monkeypatch.setattr(rec._pump.writer, "append", slow)
    for _ in range(20):
        weights["w"] += 1
        rec.step()
    rec.close()
    assert f"closing {tmp_path / 'run'}, 20 frames (0 MB) are still to be written" in capsys.readouterr().err
    assert wl.load(tmp_path / "run").frames == 21


def test_frames_that_are_packed_are_announced_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("weightlapse.capture.watch._SPOKEN_OF", 10_000)
    model = nn.Linear(100, 100)
    with wl.watch(model, tmp_path / "run", pack=True) as rec:
        model.weight.data.add_(1.0)
        rec.step()
    assert (
        "a frame of Linear has 40 kB, and is packed on cpu before it is copied and written" in capsys.readouterr().err
    )
    assert np.array_equal(wl.load(tmp_path / "run")["weight"][1], model.weight.detach().numpy())

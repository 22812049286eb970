"""Copies from a device, with a stand-in for it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from tests.device_stand_in import BACKEND, MAIN, Backend, Event, Stream
from weightlapse.adapters import torch as adapter
from weightlapse.adapters.torch_device import SideStreams
from weightlapse.capture.ring import Ring
from weightlapse.capture.witness import Witness


class CopyStream(Stream):
    """Copies wait for updates, and for nothing else."""

    def wait_event(self, event: Event) -> None:
        raise AssertionError("a stream of copies waits for an event")


class DeviceTensors(SideStreams):
    """Treats tensors in main memory as if they lay on a device."""

    def holds(self, tensor: torch.Tensor) -> bool:
        return True

    def start(self, targets: Any, sources: Any) -> Callable[[], None]:
        side = self._streams.setdefault("device", CopyStream())
        side.wait_stream(BACKEND.current_stream("device"))
        with BACKEND.stream(side):
            BACKEND.run(partial(torch._foreach_copy_, list(targets), list(sources)))
            event = Event()
            event.record(side)
        self._running["device"] = event
        return event.synchronize


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Backend:
    remember = adapter.TorchSource._remember

    def on_device(self: adapter.TorchSource) -> None:
        self._side = self._side or DeviceTensors(BACKEND)
        remember(self)

    monkeypatch.setattr(adapter.TorchSource, "_remember", on_device)
    monkeypatch.setattr(adapter, "pinned", lambda shape: np.empty(shape, np.uint8))
    BACKEND.waits = 0
    return BACKEND


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[np.ndarray]:
    truth = [model.weight.detach().numpy().copy()]
    for k in range(steps):
        optimizer.zero_grad()
        (model(torch.full((1, 3), float(k + 1))) ** 2).sum().backward()
        optimizer.step()
        truth.append(model.weight.detach().numpy().copy())
    return truth


def test_a_late_copy_is_never_a_later_value(tmp_path: Path, device: Backend) -> None:
    model = nn.Linear(3, 4)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with wl.watch(model, tmp_path / "run", optimizer=optimizer):
        truth = train(model, optimizer, 30)
    assert device.waits == 30, "each update waited, on the device, for the copies before it"
    run = wl.load(tmp_path / "run")
    assert run.frames == 31
    assert np.array_equal(run["weight"][:], np.stack(truth))


def test_by_hand_too(tmp_path: Path, device: Backend) -> None:
    model = nn.Linear(3, 4)
    truth = [model.weight.detach().numpy().copy()]
    with wl.watch(model, tmp_path / "run") as rec:
        for _ in range(5):
            with torch.no_grad():
                model.weight.add_(1.0)
            truth.append(model.weight.detach().numpy().copy())
            rec.step()
    assert np.array_equal(wl.load(tmp_path / "run")["weight"][:], np.stack(truth))


def test_without_settling_the_stand_in_shows_wrong_values(
    tmp_path: Path, device: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the tests above would look like if nobody waited: this one must find it."""
    monkeypatch.setattr(SideStreams, "settle", lambda self: None)
    monkeypatch.setattr("weightlapse.capture.pump._IDLE_SECONDS", 60.0)
    model = nn.Linear(3, 4)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with wl.watch(model, tmp_path / "run", optimizer=optimizer):
        truth = train(model, optimizer, 30)
    assert not np.array_equal(wl.load(tmp_path / "run")["weight"][:], np.stack(truth))


def test_the_ring_hands_out_only_what_has_arrived() -> None:
    ring = Ring(8, 1000)
    arrived: list[int] = []
    for k in range(3):
        ring.publish(k, lambda k=k: arrived.append(k))
    assert arrived == []
    ready = ring.ready()
    assert ready is not None
    assert arrived == [0, 1, 2]
    ring.release(3)
    assert ring.ready() is None


def test_side_streams_copy_each_device_on_its_own_stream() -> None:
    calls: list[tuple[str, int]] = []

    class Fake:
        Stream, Event = Stream, Event

        def current_stream(self, device: Any) -> Stream:
            return MAIN

        @contextmanager
        def stream(self, stream: Stream) -> Iterator[None]:
            calls.append(("side", id(stream)))
            yield

    class Tensor:
        def __init__(self, kind: str) -> None:
            self.device = torch.device(kind)

    copied: list[int] = []
    streams = SideStreams(Fake(), lambda there, here: copied.append(len(here)))
    sources: Any = [Tensor("cuda:0"), Tensor("cuda:1"), Tensor("cuda:0"), Tensor("cpu")]
    finished = streams.start([None] * 4, sources)  # type: ignore[list-item]
    assert sorted(copied) == [1, 1, 2]
    assert len({stream for _, stream in calls}) == 2
    streams.settle()
    finished()


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device; the stand-in above tests the order of things"
)
def test_a_real_device(tmp_path: Path) -> None:
    model = nn.Linear(300, 400).cuda()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    truth = [model.weight.detach().cpu().numpy()]
    with wl.watch(model, tmp_path / "run", optimizer=optimizer):
        for _ in range(50):
            optimizer.zero_grad()
            (model(torch.randn(8, 300, device="cuda")) ** 2).sum().backward()
            optimizer.step()
            truth.append(model.weight.detach().cpu().numpy())
    assert np.array_equal(wl.load(tmp_path / "run")["weight"][:], np.stack(truth))


@pytest.mark.parametrize("moves", [True, False])
def test_updates_that_torch_does_not_count_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: bool
) -> None:
    """Fused optimizers raise no counter. On a device the values are looked at until they are seen to move, and no frame is waited for after that."""
    monkeypatch.setattr(adapter.TorchSource, "on_device", property(lambda _: True))
    looked: list[int] = []
    real = Witness._differing

    def differing(self: Any, slot: int, other: int, **options: Any) -> list[str]:
        looked.append(slot)
        return real(self, slot, other, **options)

    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2 if moves else 0.0, fused=True)
    rec = wl.watch(model, tmp_path / "run", optimizer=optimizer, compact="never")
    monkeypatch.setattr(Witness, "_differing", differing)
    with pytest.warns(UserWarning, match="do not change") if not moves else nullcontext():
        for _ in range(8):
            optimizer.zero_grad()
            model(torch.randn(4, 3)).square().sum().backward()
            optimizer.step()
    assert len(looked) == (1 if moves else 8)
    monkeypatch.setattr(Witness, "_differing", real)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rec.close()
    weights = wl.load(tmp_path / "run")["weight"][:]
    assert len(weights) == 9
    assert bool((np.diff(weights, axis=0) != 0).any(axis=(1, 2)).all()) is moves

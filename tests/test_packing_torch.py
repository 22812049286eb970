"""Packing on a device: the obvious way gives the same bytes, every value is within its bound, and nothing is read too late or too early."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from tests.device_stand_in import BACKEND, Backend
from weightlapse.adapters import torch as adapter
from weightlapse.adapters.source import ArrayInfo
from weightlapse.adapters.torch_packed_copies import Arena, PackedCopies
from weightlapse.adapters.torch_packing import Packer, Report, words_of
from weightlapse.capture.packed_ring import PackedRing
from weightlapse.store.blockread import BlockSegment
from weightlapse.store.layout import Layout, TensorSpec
from weightlapse.store.packed import PackedFrame, group_ends, pack_frame, restored
from weightlapse.store.packed_segment import PackedSegment
from weightlapse.store.packing import GROUP, Packed

FRAMES = 24


def some_tensors(device: str = "cpu") -> list[torch.Tensor]:
    torch.manual_seed(0)
    found = [
        torch.randn(70, 50) * 0.02,
        torch.zeros(50),
        torch.tensor([3, 4, 5]),
        torch.randn(9, 300).bfloat16(),
        torch.randn(33).half(),
        torch.tensor([True, False, True, True, False]),
        torch.randn(5, dtype=torch.complex64),
        torch.tensor(1.5, dtype=torch.float64),
        torch.empty(0, 3),
        torch.randn(40, 30).t(),
        torch.full((1500,), 7.0) + torch.randn(1500) * 1e-3,
    ]
    return [t.to(device) for t in found]


def change(tensors: list[torch.Tensor], t: int) -> None:
    """What happens to tensors before frame ``t``: small moves, a NaN that comes and goes, a halving, an infinity, a tensor that wakes up."""
    draw = torch.Generator().manual_seed(t)
    for i in (0, 9, 10):
        tensors[i].add_(torch.randn(tensors[i].shape, generator=draw).to(tensors[i].device) * 1e-4)
    if t == 5:
        tensors[0][3, 4] = float("nan")
    if t == 6:
        tensors[0][3, 4] = 0.1
    if t == 9:
        tensors[9].mul_(0.5)
    if t == 11:
        tensors[10][3], tensors[10][4] = float("inf"), 3e38
    if t == 13:
        tensors[10][3], tensors[10][4] = 7.0, 7.0
    if t > 6:
        tensors[1].add_(torch.randn(50, generator=draw).to(tensors[1].device) * 1e-3)
    tensors[2] += 1


def infos_of(tensors: list[torch.Tensor]) -> list[ArrayInfo]:
    return [ArrayInfo(f"t{i}", str(t.dtype).removeprefix("torch."), tuple(t.shape)) for i, t in enumerate(tensors)]


def frame_of(packer: Packer, slot: int) -> tuple[Report, bytes]:
    found, report = packer.pack(slot)
    report.numbers = found.cpu().numpy()
    packer.take(report)
    return report, packer.out[slot][: packer.outer_words + sum(report.words)].cpu().numpy().tobytes()


def entries_of(report: Report, count: int) -> tuple[list[float], list[float], list[bool]]:
    on = report.table[:, 0] & 1 != 0
    steps, bounds = np.where(on, report.steps, 0.0), np.where(on, report.bounds, 0.0)
    assert len(on) == count
    return steps.tolist(), bounds.tolist(), (report.table[:, 1] != 0).tolist()


def numbers_of(layout: Layout, report: Report, data: bytes) -> list[np.ndarray]:
    """What a frame says of each tensor."""
    ends, (width_words, number_words) = group_ends(layout), report.words
    held = np.frombuffer(data, np.uint8)
    at = -(-ends[-1] // 4) * 4
    widths, words = held[at : at + 4 * width_words].view("<u4"), held[at + 4 * width_words :].view("<u4")
    firsts = [*report.table[:, 4:6].tolist(), [width_words, number_words]]
    found = []
    for i, spec in enumerate(layout.tensors):
        (a, c), (b, d) = firsts[i], firsts[i + 1]
        packed = Packed(held[ends[i] : ends[i + 1]], widths[a:b], compiled=False)
        out = np.zeros((ends[i + 1] - ends[i]) * GROUP, np.int32)
        packed.add(0, ends[i + 1] - ends[i], words[c:d], out, fresh=True)
        item = 2 if spec.storage.itemsize == 2 else 4
        found.append(out[: -(-spec.nbytes // item)])
        assert not out[len(found[-1]) :].any(), "nothing behind the last value"
    return found


@pytest.mark.parametrize("tolerance", [None, 1e-2, 0.05, 0.5])
def test_the_obvious_way_gives_the_same_bytes_and_every_value_is_within_its_bound(tolerance: float | None) -> None:
    tensors = some_tensors()
    infos = infos_of(tensors)
    layout = Layout([TensorSpec(i.name, i.dtype, i.shape) for i in infos])
    packer = Packer(infos, tensors, tolerance, every=8, slots=2)
    assert packer.group_ends.tolist() == group_ends(layout)
    state: list[np.ndarray] = []
    seen: dict[int, set[float]] = {i: set() for i in range(len(tensors))}
    for t in range(FRAMES):
        change(tensors, t)
        report, data = frame_of(packer, t % 2)
        steps, bounds, keys = entries_of(report, len(tensors))
        assert all(keys) if t % 8 == 0 else not all(keys)
        numbers = numbers_of(layout, report, data)
        told = pack_frame(layout, numbers, steps, bounds, keys)
        assert told.data.tobytes() == data
        with np.errstate(over="ignore"):
            state = [n if key else before + n for before, n, key in zip(state or numbers, numbers, keys)]
        for i, (tensor, spec) in enumerate(zip(tensors, layout.tensors)):
            seen[i].add(steps[i])
            stored = restored(state[i], steps[i], spec).view(np.uint8)[: spec.nbytes].tobytes()
            if steps[i] == 0:
                assert stored == words_of(tensor).numpy().tobytes()[: spec.nbytes], (t, i)
                continue
            true = tensor.double().numpy().ravel()
            back = torch.frombuffer(bytearray(stored), dtype=tensor.dtype).double().numpy()
            assert np.abs(back - true).max() <= bounds[i] <= (tolerance or 0) * true.std(), (t, i)
    on_grid = {i for i, found in seen.items() if found != {0.0}}
    expected = {None: set(), 1e-2: {0, 1, 9, 10}, 0.05: {0, 1, 3, 9, 10}, 0.5: {0, 1, 3, 9, 10}}[tolerance]
    assert on_grid == expected, "what has a grid lies on it, at some time"
    if tolerance is not None:
        assert 0.0 in seen[0], "exact while it had a NaN"
        assert len(seen[9] - {0.0}) >= 2, "a new grid after its deviation was halved"


def test_values_that_would_be_out_of_bounds_are_exact_and_not_only_nearly_right() -> None:
    tensors = [torch.randn(40, 50)]
    packer = Packer(infos_of(tensors), tensors, 1e-2, every=100, slots=1)
    assert frame_of(packer, 0)[0].table[0, 0] == 3
    packer._grid[0, 2] = packer._grid[0, 0] * 0.49  # a bound that not every code keeps
    packer._dirty = True
    report, _ = frame_of(packer, 0)
    assert report.table[0, 0] == 0
    assert report.table[0, 1] == 1, "what the frame before said cannot be added to"
    packer = Packer(infos_of(tensors), tensors, 1e-2, every=100, slots=1)
    frame_of(packer, 0)
    packer._grid[0] *= (2, 0.5, 2)  # a bound above what the deviation allows
    packer._dirty = True
    assert frame_of(packer, 0)[0].table[0, 0] == 2


@pytest.mark.parametrize("tolerance", [None, 1e-2])
@pytest.mark.parametrize("compact", ["never", "after"])
def test_a_training_is_recorded_packed(
    tmp_path: Path, tolerance: float | None, compact: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weightlapse.capture.packed_ring._SEGMENT_FRAMES", (20, 20))
    model = nn.Sequential(nn.Linear(64, 70), nn.LayerNorm(70), nn.Tanh(), nn.Linear(70, 10))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    truth = [{k: v.clone().numpy() for k, v in model.state_dict().items()}]
    rec = wl.watch(model, tmp_path / "run", optimizer=optimizer, tolerance=tolerance, pack=True, compact=compact)
    assert isinstance(rec._camera.ring, PackedRing)  # type: ignore[union-attr]
    for k in range(50):
        x = torch.randn(32, 64)
        optimizer.zero_grad()
        ((model(x) - x[:, :10]) ** 2).mean().backward()
        optimizer.step()
        truth.append({k: v.clone().numpy() for k, v in model.state_dict().items()})
        rec.log(loss=float(k))
        if k == 30:
            rec.flush()
            assert wl.load(tmp_path / "run").frames == 32
    rec.close()
    run = wl.load(tmp_path / "run")
    assert [type(s) for s in run._store.segments] == [BlockSegment if compact == "after" else PackedSegment] * 3
    assert run._store.verify() == []
    assert run.scalars["loss"][1:].tolist() == list(range(50))
    for k in (0, 1, 19, 20, 21, 37, 50):
        state = run.state(frame=k)
        for name, true in truth[k].items():
            error = np.abs(state[name].astype(np.float64) - true).max()
            assert error <= (0 if tolerance is None else tolerance * true.astype(np.float64).std()), (k, name)
            assert error <= run.bound(name, k)
    assert run.stored_nbytes < run.nbytes / (1.25 if tolerance is None else 8)


def test_by_hand_resumed_and_without_a_step_in_between(tmp_path: Path) -> None:
    """A row that is read and not kept must not be what the next frame adds to."""
    model = nn.Linear(60, 50)
    truth = []

    def move(rec: Any) -> None:
        with torch.no_grad():
            model.weight.add_(torch.randn_like(model.weight) * 1e-3)
        rec.step()
        truth.append(model.weight.detach().numpy().copy())

    truth.append(model.weight.detach().numpy().copy())
    with wl.watch(model, tmp_path / "run", pack=True, compact="never") as rec:
        for _ in range(5):
            move(rec)
        rec._camera.copy(None, 99)  # type: ignore[union-attr]
        for _ in range(5):
            move(rec)
        with torch.no_grad():
            model.weight.mul_(2)
        truth.append(model.weight.detach().numpy().copy())
        with pytest.warns(wl.errors.RecorderWarning, match="changed after"):
            rec.close()
    with wl.watch(model, tmp_path / "run", pack=True, resume=True, compact="never") as rec:
        for _ in range(3):
            move(rec)
    run = wl.load(tmp_path / "run")
    assert np.array_equal(run["weight"][:], np.stack(truth))
    assert all(isinstance(s, PackedSegment) for s in run._store.segments)


def test_what_cannot_be_packed_is_recorded_in_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients, thousands of tiny tensors, recordings of a version that knows no packed frames; and the CPU, unless it is asked for."""
    model = nn.Linear(30, 40)
    many = nn.ParameterList(torch.randn(3) for _ in range(300))
    with wl.watch(model, tmp_path / "old", tolerance=0.01):
        pass
    for k, (net, options) in enumerate(
        [
            (model, {"streams": ("weights", "gradients")}),
            (many, {}),
            (model, {"pack": "auto"}),
            (model, {"resume": True}),
        ]
    ):
        path = tmp_path / ("old" if "resume" in options else f"{k}")
        with wl.watch(net, path, tolerance=0.01, **{"pack": True, **options}) as rec:  # type: ignore[arg-type]
            assert rec._camera.ring.has_rows  # type: ignore[union-attr]
    assert "not packed" in wl.load(tmp_path / "0").events[0][1]
    monkeypatch.setattr(adapter, "has_room_to_pack", lambda infos, tensors, slots: False)
    with wl.watch(model, tmp_path / "full", tolerance=0.01, pack=True) as rec:
        assert rec._camera.ring.has_rows  # type: ignore[union-attr]
    assert "memory" in wl.load(tmp_path / "full").events[0][1]
    with pytest.raises(wl.errors.InvalidArgument, match="pack="):
        wl.watch(model, tmp_path / "x", pack="yes")  # type: ignore[arg-type]


# ---- a stand-in for a device ---------------------------------------------------------------------------------------


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Backend:
    def packed_copies(self: adapter.TorchSource, tolerance: float | None, *, every: int, memory: int) -> PackedCopies:
        packer = Packer(self._infos, [t.detach() for t in self._here], tolerance, every=every, slots=2)
        self._packed = PackedCopies(packer, memory, BACKEND, BACKEND.run)
        return self._packed

    monkeypatch.setattr(adapter.TorchSource, "packed_copies", packed_copies)
    monkeypatch.setattr(adapter.TorchSource, "on_device", property(lambda self: True))
    monkeypatch.setattr("weightlapse.capture.packed_ring._SEGMENT_FRAMES", (7, 7))
    BACKEND.waits = 0
    return BACKEND


def train(model: nn.Linear, optimizer: torch.optim.Optimizer, steps: int) -> list[np.ndarray]:
    truth = [model.weight.detach().numpy().copy()]
    for k in range(steps):
        optimizer.zero_grad()
        (model(torch.full((1, 30), float(k % 3))) ** 2).sum().backward()
        optimizer.step()
        truth.append(model.weight.detach().numpy().copy())
    return truth


def test_late_packing_is_never_of_a_later_value(tmp_path: Path, device: Backend) -> None:
    model = nn.Linear(30, 40)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with wl.watch(model, tmp_path / "run", optimizer=optimizer, pack=True, compact="never"):
        truth = train(model, optimizer, 30)
    assert device.waits == 30, "each update waited, on the device, for the packing before it"
    assert np.array_equal(wl.load(tmp_path / "run")["weight"][:], np.stack(truth))


def test_without_settling_the_stand_in_shows_wrong_values(
    tmp_path: Path, device: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above would look like if nobody waited: this one must find it."""
    monkeypatch.setattr(PackedCopies, "settle", lambda self: None)
    monkeypatch.setattr("weightlapse.capture.pump._IDLE_SECONDS", 60.0)
    model = nn.Linear(30, 40)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with wl.watch(model, tmp_path / "run", optimizer=optimizer, pack=True, compact="never") as rec:
        rec._camera.ring._next_wake = 1 << 60  # type: ignore[union-attr]
        truth = train(model, optimizer, 30)
    assert not np.array_equal(wl.load(tmp_path / "run")["weight"][:], np.stack(truth))


@pytest.mark.parametrize("backpressure", ["block", "stretch"])
def test_a_slow_disk_holds_the_training_or_leaves_gaps(
    tmp_path: Path, device: Backend, backpressure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames wait on the device and in memory, and where there is no more room nothing is overwritten."""
    from weightlapse.store.writer import Writer

    real = Writer.append

    def slow(self: Writer, steps: Any, rows: Any) -> None:
        threading.Event().wait(0.01)
        real(self, steps, rows)

    monkeypatch.setattr(Writer, "append", slow)
    monkeypatch.setattr("weightlapse.capture.packed_ring._MOST_WAITING", 0)  # of memory: one frame at its longest
    model = nn.Linear(30, 40)
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    options: dict[str, Any] = {"optimizer": optimizer, "pack": True, "backpressure": backpressure}
    with wl.watch(model, tmp_path / "run", **options):
        truth = train(model, optimizer, 100)
    run = wl.load(tmp_path / "run")
    assert (run.frames == 101) == (backpressure == "block")
    assert np.array_equal(run["weight"][:], np.stack(truth)[run.steps])
    missing = {step for first, last, _ in run.gaps for step in range(first, last + 1)}
    assert missing == set(range(101)) - set(run.steps.tolist())


def test_an_arena_gives_no_byte_twice() -> None:
    rng = np.random.default_rng(0)
    for size in (1000, 4096, 65_536):
        arena, held, given = Arena(torch.empty(size, dtype=torch.uint8)), [], 0
        for _ in range(3000):
            if held and rng.random() < 0.45:
                arena.take_back()
                held.pop(0)
            wanted = int(rng.integers(1, size // 2))
            place = arena.give(wanted)
            if place is None:
                assert held, "an arena that holds nothing gives all of itself"
                continue
            given += 1
            assert 0 <= place[0] < place[1] <= size
            assert place[1] - place[0] == wanted
            assert all(place[1] <= a or b <= place[0] for a, b in held)
            held.append(place)
        assert given > 500


def test_a_frame_that_is_a_key_says_so() -> None:
    layout = Layout([TensorSpec("a", "float32", (5,))])
    frame = pack_frame(layout, [np.arange(5, dtype=np.int32)], [0.0], [0.0], [True])
    assert isinstance(frame, PackedFrame)
    assert frame.key
    assert not pack_frame(layout, [np.arange(5, dtype=np.int32)], [0.0], [0.0], [False]).key


# ---- a real one ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device; on the CPU the plain way is tested above"
)
@pytest.mark.parametrize("tolerance", [None, 1e-2, 0.05])
def test_compiled_kernels_give_the_same_bytes(tolerance: float | None) -> None:
    tensors = [*some_tensors("cuda"), torch.randn(3000, 1000, device="cuda") * 0.02]
    infos = infos_of(tensors)
    plain = Packer(infos, tensors, tolerance, every=8, slots=2, compiled=False)
    fused = Packer(infos, tensors, tolerance, every=8, slots=2, compiled=True)
    for t in range(FRAMES):
        change(tensors, t)
        tensors[-1].add_(torch.randn_like(tensors[-1]) * 1e-4)
        (a, data), (b, other) = frame_of(plain, t % 2), frame_of(fused, t % 2)
        assert np.array_equal(a.numbers, b.numbers), t
        assert data == other, t


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device; the stand-in above tests the order of things"
)
@pytest.mark.parametrize("tolerance", [None, 1e-2])
def test_a_real_device(tmp_path: Path, tolerance: float | None) -> None:
    model = nn.Sequential(nn.Linear(300, 400), nn.Tanh(), nn.Linear(400, 300)).cuda()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    truth = [model[2].weight.detach().clone()]
    with wl.watch(model, tmp_path / "run", optimizer=optimizer, tolerance=tolerance, pack=True):
        for _ in range(100):
            optimizer.zero_grad()
            (model(torch.randn(8, 300, device="cuda")) ** 2).sum().backward()
            optimizer.step()
            truth.append(model[2].weight.detach().clone())
    values, true = wl.load(tmp_path / "run")["2.weight"][:], torch.stack(truth).cpu().numpy()
    error = np.abs(values.astype(np.float64) - true).reshape(101, -1).max(1)
    assert (error <= (tolerance or 0) * true.astype(np.float64).reshape(101, -1).std(1)).all()

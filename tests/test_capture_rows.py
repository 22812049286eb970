"""Arrays are gathered into rows with few calls: the same bytes as one by one, nothing beside them, nothing held."""

from __future__ import annotations

import gc
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from tests.oracles_capture import fill
from weightlapse.adapters.rows import Gather, GatherBytes, Rows
from weightlapse.adapters.structure import Structure

DTYPES = ["f4", "f8", "f2", "i1", "u2", "i8", "?", "c8", "c16"]


def made(seed: int) -> tuple[Rows, list[np.ndarray]]:
    """Arrays of odd sizes and mixed dtypes, some not in C order, and rows for them."""
    rng = np.random.default_rng(seed)
    arrays, offsets, end = [], [], 0
    for _ in range(int(rng.integers(1, 30))):
        shape = tuple(int(n) for n in rng.integers(0 if rng.random() < 0.1 else 1, 6, int(rng.integers(0, 4))))
        dtype = np.dtype(DTYPES[rng.integers(2 if seed % 2 else len(DTYPES))])
        array = rng.integers(0, 255, (*shape, dtype.itemsize), np.uint8)
        array = (array & 1 if dtype == "?" else array).view(dtype)[..., 0]
        arrays.append(array.T.copy().T if rng.random() < 0.3 else array)
        offsets.append(end)
        end += -(-array.nbytes // 8) * 8
    memory = np.zeros((5, end), np.uint8)
    return Rows(memory, offsets, [a.dtype for a in arrays], [a.shape for a in arrays]), arrays


@pytest.mark.parametrize("seed", range(40))
def test_gathered_rows_are_those_filled_one_by_one(seed: int) -> None:
    rows, arrays = made(seed)
    expected = Rows(np.zeros_like(rows.memory), rows.offsets, rows.dtypes, rows.shapes)
    fill(expected, 3, arrays)
    Gather(rows, range(len(arrays))).copy(3, arrays)
    assert np.array_equal(rows.memory, expected.memory)
    for i, array in enumerate(arrays):
        assert rows.column(i)[3, ...].tobytes() == array.tobytes()
        assert rows.bytes_of(i)[3].tobytes() == array.tobytes()
    rows.memory[:] = 0
    some = [i for i in range(len(arrays)) if i % 3 != 1]
    GatherBytes(rows, some, [np.array(arrays[i], order="C") for i in some]).copy(3)
    left_out = [i for i in range(len(arrays)) if i % 3 == 1]
    for i in left_out:
        expected.bytes_of(i)[:] = 0
    assert np.array_equal(rows.memory, expected.memory)


def test_nothing_of_what_was_copied_is_held() -> None:
    rows = Rows(np.zeros((2, 16), np.uint8), (0, 8), [np.dtype("f4")] * 2, [(1,), (2,)])
    gather = Gather(rows, (0, 1))  # with padding between them
    arrays = [np.ones(1, "f4"), np.ones(2, "f4")]
    gone = [weakref.ref(a) for a in arrays]
    gather.copy(0, arrays)
    del arrays
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"a": [1, {"b": 2}], "n": None, "t": (3, 4)}, [1, 2, 3, 4]),
        (OrderedDict(a=[1, {"b": 2}], n=None, t=(3, 4)), None),  # of another type: looked at anew
        ({"a": [1, {"b": 2, "c": 5}], "n": None, "t": (3, 4)}, None),
        ({"a": [1, {"c": 2}], "n": None, "t": (3, 4)}, None),
        ({"a": [1, {"b": [2]}], "n": None, "t": (3, 4)}, None),
        ({"a": [1, {"b": 2}], "n": 5, "t": (3, 4)}, None),
        ({"a": [1, {"b": 2}], "n": None, "t": (3, None)}, None),
        ({"n": None, "a": [1, {"b": 2}], "t": (3, 4)}, None),
    ],
)
def test_a_structure_that_is_another_is_seen(changed: Any, found: Any) -> None:
    assert Structure({"a": [1, {"b": 2}], "n": None, "t": (3, 4)}).leaves(changed) == found


def test_mappings_that_change_what_they_hold(tmp_path: Path) -> None:
    """Other dtypes, byte orders, types of arrays and orders of keys, in mid-run."""
    base = {"w": np.arange(6, dtype="f4").reshape(2, 3), "b": {"x": np.ones(3), "y": np.zeros((), "i8")}}
    given: list[Any] = [
        {"w": base["w"] + 1, "b": {"x": np.ones(3) * 2, "y": np.array(3, "i8")}},
        {"w": (base["w"] + 2).astype(">f4"), "b": {"x": np.ones(3), "y": np.array(4, "i8")}},  # of the other byte order
        {"w": torch.ones(2, 3), "b": {"x": np.ones(3), "y": np.int64(4)}},
        {"w": np.asfortranarray(base["w"]), "b": {"x": np.ones(6)[::2], "y": np.array(4, "i8")}},
        {"b": {"y": np.array(5, "i8"), "x": np.ones(3) * 7}, "w": base["w"]},  # in another order
        {"w": base["w"].astype("f8"), "b": {"x": np.ones(3), "y": np.array(4, "i8")}},  # of another dtype
        {"w": base["w"].astype(ml_dtypes.bfloat16), "b": {"x": np.ones(3), "y": np.array(4, "i8")}},
        {"w": base["w"].astype(ml_dtypes.bfloat16) + 1, "b": {"x": np.ones(3), "y": np.array(4, "i8")}},
    ]
    with wl.watch(base, tmp_path / "run") as rec:
        for values in given:
            rec.step(values)
    run = wl.load(tmp_path / "run")
    assert run.steps.tolist() == list(range(len(given) + 1))
    for step, values in enumerate([base, *given]):
        state = run.state(step=step)
        assert np.array_equal(state["w"], np.asarray(values["w"]).astype(state["w"].dtype)), step
        assert np.array_equal(state["b.x"], values["b"]["x"]), step
        assert state["b.y"] == values["b"]["y"], step


@pytest.mark.parametrize("streams", [("weights",), ("weights", "buffers", "gradients", "optimizer")])
def test_modules_of_every_kind_of_memory_at_once(tmp_path: Path, streams: tuple[str, ...]) -> None:
    """Small and large, of several dtypes, of odd sizes, not in order, empty and of no dimension: each the way that is cheapest for it."""
    torch.manual_seed(0)
    model = nn.ParameterDict(
        {
            "small": torch.randn(3, 5),
            "odd": torch.randn(7).bfloat16(),
            "short": torch.randn(3, 3).half(),
            "large": torch.randn(300, 300),
            "turned": torch.randn(8, 4).t(),
            "turned_large": torch.randn(300, 290).t(),
            "last": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
            "none": torch.randn(0, 3),
            "one": torch.randn(()),
            "wide": torch.randn(3, dtype=torch.float64),
            "wave": torch.randn(3, dtype=torch.complex128),
        }
    )
    model.register_buffer("count", torch.zeros((), dtype=torch.int64))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    seen = [{n: p.detach().clone() for n, p in model.named_parameters()}]
    gradients = []
    with wl.watch(model, tmp_path / "run", optimizer=optimizer, streams=streams):
        for _ in range(5):
            sum((p.abs() ** 2).sum().float() for p in model.parameters()).backward()
            gradients.append({n: p.grad.clone() for n, p in model.named_parameters()})
            optimizer.step()
            optimizer.zero_grad()
            seen.append({n: p.detach().clone() for n, p in model.named_parameters()})
    run = wl.load(tmp_path / "run")
    for step, state in enumerate(seen):
        for name, value in state.items():
            assert run[name].raw()[step].tobytes() == value.contiguous().view(-1).view(torch.uint8).numpy().tobytes(), (
                step,
                name,
            )
    if "gradients" in streams:
        for step, state in enumerate(gradients, 1):
            for name, value in state.items():
                read = run[f"gradients:{name}"].raw()[step]
                assert read.tobytes() == value.contiguous().view(-1).view(torch.uint8).numpy().tobytes(), (step, name)


@pytest.mark.parametrize("shapes", [[(3,)] * 40, [(1, 5), (2, 2, 2), ()] * 9, [(700,), (3,)] * 30, [(4, 0), (7,)] * 20])
@pytest.mark.parametrize("dtype", ["f4", "u1", "f8", "?"])
def test_many_small_arrays_are_joined_in_their_places(shapes: list[tuple[int, ...]], dtype: str) -> None:
    rng = np.random.default_rng(0)
    arrays = [(rng.normal(size=shape) * 9).astype(dtype) for shape in shapes]
    sizes = [-(-a.nbytes // 8) * 8 for a in arrays]
    offsets = [8 + sum(sizes[:i]) for i in range(len(sizes))]
    for turned in (False, True):  # arrays in another order in memory cannot be joined
        given = [np.asfortranarray(a) if turned else a for a in arrays]
        memory = np.zeros((3, 8 + sum(sizes) + 8), np.uint8)
        rows = Rows(memory, offsets, [a.dtype for a in arrays], [a.shape for a in arrays])
        Gather(rows, range(len(arrays))).copy(1, given)
        if not turned:
            GatherBytes(rows, range(len(arrays)), arrays).copy(2)
        for slot in (1,) if turned else (1, 2):
            for i, array in enumerate(arrays):
                assert rows.column(i)[slot].tobytes() == array.tobytes(), (i, slot)
        assert not memory[0].any()
        assert not memory[:, :8].any()
        assert not memory[:, -8:].any()

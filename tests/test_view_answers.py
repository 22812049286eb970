"""What the viewer answers: planes, pyramids, clips, trajectories and packed blocks, each against slow obvious twins."""

from __future__ import annotations

import json
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

import weightlapse as wl
from weightlapse.errors import InvalidArgument, UnknownTensor
from weightlapse.picture.arrangement import plain
from weightlapse.picture.codes import codes
from weightlapse.picture.limits import limit_of
from weightlapse.picture.reduce import MODES, reduce_to
from weightlapse.view.answers import Answers
from weightlapse.view.pack import decoded, encode
from weightlapse.view.pictures import nearest
from weightlapse.view.subject import Subject
from weightlapse.view.wire import Cancelled


def unpack(message: bytes, dtype: str | None = None) -> tuple[dict[str, Any], NDArray[Any]]:
    length = int.from_bytes(message[:4], "little")
    header = json.loads(message[4 : 4 + length])
    return header, np.frombuffer(message[4 + length :], dtype or header["dtype"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("view") / "run"
    rng = np.random.default_rng(0)
    state = {
        "conv.weight": rng.standard_normal((4, 3, 2, 5)).astype(np.float32),
        "fc.weight": rng.standard_normal((37, 53)),
        "half": rng.standard_normal((3, 4)).astype(np.float16),
        "count": np.arange(5, dtype=np.int64),
    }
    with wl.watch(state, path) as rec:
        for step in range(20):
            state["fc.weight"] = state["fc.weight"] + 0.1 * rng.standard_normal((37, 53))
            state["conv.weight"] = state["conv.weight"] * np.float32(1.01)
            if step == 10:
                state["fc.weight"][3, 4] = np.nan
            rec.step(state, loss=1 / (step + 1))
    return wl.load(path)


@pytest.fixture(scope="module")
def answers(run: Any) -> Answers:
    return Answers([Subject(run, "run")])


# -- reduction ------------------------------------------------------------------------------------------------------------

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(
    arrays(np.float32, st.tuples(st.integers(1, 13), st.integers(1, 13)), elements=FLOATS),
    st.sampled_from([1, 2, 3, 4, 6, 8]),
    st.sampled_from([1, 2, 4, 5, 8]),
)
def test_tiles_hold_what_their_rule_says(values: NDArray[np.float32], fr: int, fc: int) -> None:
    found = {mode: reduce_to(values, fr, fc, mode, 4.0) for mode in MODES}
    for i in range(found["min"].shape[0]):
        for j in range(found["min"].shape[1]):
            tile = values[i * fr : (i + 1) * fr, j * fc : (j + 1) * fc]
            cells = tile.astype(np.float64)
            middle = values[min(i * fr + fr // 2, len(values) - 1), min(j * fc + fc // 2, values.shape[1] - 1)]
            with np.errstate(all="ignore"):
                low, high = cells.min(), cells.max()
                extreme = high if high >= -low else low
                typical = middle if abs(extreme) <= 3.0 or tile.size == fr * fc == 1 else extreme
                expected = {"min": low, "max": high, "extreme": extreme, "typical": typical}
                for mode, value in expected.items():
                    assert np.array_equal(found[mode][i, j], np.float32(value), equal_nan=True), mode
                np.testing.assert_allclose(
                    found["mean"][i, j], cells.mean(), rtol=1e-5, atol=1e-44 + 1e-5 * np.abs(cells).max()
                )


def test_a_single_spike_and_a_single_nan_survive_any_reduction() -> None:
    values = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)
    values[100, 300], values[400, 20] = -50, np.nan
    for mode in ("typical", "extreme"):
        reduced = reduce_to(values, 64, 64, mode, 4.0)
        assert reduced[1, 4] == -50
        assert np.isnan(reduced[6, 0])


@given(arrays(np.float32, st.integers(1, 40), elements=FLOATS), st.floats(1e-3, 1e3))
def test_codes_are_the_table_of_the_module(values: NDArray[np.float32], limit: float) -> None:
    found = codes(values, limit)
    for value, code in zip(values.tolist(), found.tolist(), strict=True):
        if np.isnan(value):
            assert code == 0
        elif np.isinf(value):
            assert code == (255 if value > 0 else 1)
        elif abs(value) > limit * 126 / 125:
            assert code == (254 if value > 0 else 2)
        else:
            assert abs((code - 128) - value * 125 / limit) <= 0.51


def test_the_scale_ignores_one_outlier_and_marks_it() -> None:
    values = np.random.default_rng(0).uniform(-1, 1, 10_000)
    values[7] = 1e6
    assert limit_of(values) < 4
    assert codes(values.astype(np.float32), limit_of(values))[7] == 254
    assert limit_of(np.full(3, np.nan)) == 1.0
    assert limit_of(np.zeros(3)) == 1.0


# -- answers --------------------------------------------------------------------------------------------------------------


def test_a_plane_is_the_stored_values_bit_for_bit(run: Any, answers: Answers) -> None:
    _, body = answers.reply("plane", {"tensor": "fc.weight", "frame": "15", "r": "3:9", "c": "4:40"})
    header, values = unpack(body)
    assert (header["dtype"], header["bound"]) == ("float64", 0.0)
    assert values.reshape(6, 36).tobytes() == run["fc.weight"][15, 3:9, 4:40].tobytes()


def test_half_floats_and_integers_travel_without_loss(run: Any, answers: Answers) -> None:
    for name in ("half", "count"):
        _, values = unpack(answers.reply("plane", {"tensor": name, "frame": "3"})[1])
        assert np.array_equal(values, run[name][3].ravel())


def test_differences_are_taken_from_the_frames_named(run: Any, answers: Answers) -> None:
    for reference, frame in (("first", 0), ("prev", 8), ("frame:4", 4)):
        _, values = unpack(answers.reply("plane", {"tensor": "conv.weight", "frame": "9", "ref": reference})[1])
        plane = plain((4, 3, 2, 5))
        twin = run["conv.weight"][9].astype(float) - run["conv.weight"][frame].astype(float)
        assert np.array_equal(
            values.reshape(8, 15), plane.read(twin.astype(np.float32)[None], 0, slice(0, 8), slice(0, 15))
        )


def test_a_clip_shows_what_the_single_frames_show(run: Any, answers: Answers) -> None:
    query = {"tensor": "fc.weight", "frames": "5:15:3", "limit": "2.5", "f": "2,4", "mode": "extreme"}
    header, pixels = unpack(answers.reply("clip", query)[1], "uint8")
    assert header["frames"] == [5, 8, 11, 14]
    for frame, picture in zip(header["frames"], pixels.reshape(4, header["h"], header["w"]), strict=True):
        assert np.array_equal(picture, codes(reduce_to(run["fc.weight"][frame], 2, 4, "extreme"), 2.5))


@pytest.mark.parametrize("reference", ["first", "prev", "frame:4"])
def test_a_clip_of_differences_shows_what_the_single_planes_hold(answers: Answers, reference: str) -> None:
    query = {"tensor": "conv.weight", "frames": "0:9:2", "limit": "0.05", "ref": reference}
    header, pixels = unpack(answers.reply("clip", query)[1], "uint8")
    for frame, picture in zip(header["frames"], pixels.reshape(5, 8, 15), strict=True):
        _, values = unpack(answers.reply("plane", {"tensor": "conv.weight", "frame": str(frame), "ref": reference})[1])
        assert np.array_equal(picture, codes(values.reshape(8, 15), 0.05))


def test_trajectories_are_the_track(run: Any, answers: Answers) -> None:
    _, values = unpack(
        answers.reply("series", {"tensor": "conv.weight", "cells": "5,11;0,0", "frames": "2:18", "step": "2"})[1]
    )
    plane = plain((4, 3, 2, 5))
    for line, cell in zip(values.reshape(2, 8), ((5, 11), (0, 0)), strict=True):
        assert np.array_equal(line, run["conv.weight"][(slice(2, 18, 2), *plane.index(*cell))])


def test_curves_are_their_definitions(run: Any, answers: Answers) -> None:
    whole = run["conv.weight"][:].astype(np.float64).reshape(21, -1)
    twins = {
        "norm": np.linalg.norm(whole, axis=1),
        "mass": np.abs(whole).sum(axis=1),
        "mean": whole.mean(axis=1),
        "distance": np.linalg.norm(whole - whole[0], axis=1),
        "update": np.linalg.norm(np.diff(whole, axis=0, prepend=whole[:1]), axis=1),
    }
    for kind, twin in twins.items():
        found = json.loads(answers.reply("curve", {"tensor": "conv.weight", "kind": kind})[1])
        np.testing.assert_allclose(found["values"], twin, rtol=1e-12, atol=1e-12)
    found = json.loads(answers.reply("curve", {"tensor": "fc.weight", "kind": "row:5"})[1])
    np.testing.assert_allclose(found["values"], run["fc.weight"][:, 5].mean(axis=1))


def test_units_come_largest_first(run: Any, answers: Answers) -> None:
    order = json.loads(answers.reply("order", {"tensor": "half", "frame": "0", "order": "norm"})[1])
    sizes = np.linalg.norm(run["half"][-1].astype(float), axis=1)
    assert (np.diff(sizes[order["rows"]]) <= 0).all()


@pytest.mark.parametrize(
    "word,query",
    [
        ("plane", {"tensor": "nope", "frame": "0"}),
        ("plane", {"tensor": "half", "frame": "21"}),
        ("plane", {"tensor": "half", "frame": "-1"}),
        ("plane", {"tensor": "half", "frame": "x"}),
        ("plane", {"tensor": "half", "frame": "0", "r": "0:99"}),
        ("plane", {"tensor": "half", "frame": "0", "f": "3,1"}),
        ("plane", {"tensor": "half", "frame": "0", "run": "7"}),
        ("plane", {"tensor": "half", "frame": "0", "ref": "run:7"}),
        ("plane", {"tensor": "../../etc/passwd", "frame": "0"}),
        ("clip", {"tensor": "half", "frames": "0:99:1"}),
        ("clip", {"tensor": "half", "frames": "0:5:0"}),
        ("clip", {"tensor": "half", "frames": "0:5:1", "limit": "inf"}),
        ("clip", {"tensor": "half", "frames": "0:5:1", "mode": "median"}),
        ("series", {"tensor": "half", "cells": "9,9"}),
        ("series", {"tensor": "half", "cells": "a"}),
        ("order", {"tensor": "half", "frame": "0", "order": "random"}),
        ("curve", {"tensor": "half", "kind": "sine"}),
        ("neuron", {"group": "fc1", "unit": "0"}),
        ("pair", {}),
        ("shutdown", {}),
    ],
)
def test_questions_without_an_answer_are_refused_in_words(answers: Answers, word: str, query: dict[str, str]) -> None:
    with pytest.raises((InvalidArgument, UnknownTensor)) as refusal:
        answers.reply(word, query)
    assert len(str(refusal.value)) > 15


def test_a_cancelled_question_stops_at_the_next_frame(run: Any) -> None:
    asked: list[int] = []
    subject = Subject(run, "run")
    original, cancel = subject.picture, threading.Event()

    def picture(name: str, frame: int, *region: Any) -> NDArray[Any]:
        asked.append(frame)
        if frame == 3:
            cancel.set()
        return original(name, frame, *region)

    subject.picture = picture  # type: ignore[method-assign]
    with pytest.raises(Cancelled):
        Answers([subject]).reply("clip", {"tensor": "half", "frames": "0:20:1", "order": "norm"}, cancel)
    assert sorted(set(asked) - {20}) == [0, 1, 2, 3]  # the order of units looks at the last frame


def test_the_nearest_step_is_found() -> None:
    steps = np.array([0, 10, 20, 40])
    assert [nearest(steps, s) for s in (-5, 4, 6, 29, 31, 99)] == [0, 0, 1, 2, 3, 3]


# -- packed blocks --------------------------------------------------------------------------------------------------------


def unpacked(block: Any, dtype: str, frames: int) -> NDArray[np.float64]:
    """The obvious twin of the page's decoder."""
    planes = np.frombuffer(zlib.decompress(block.data, -15), np.uint8).reshape(block.width, -1)
    unsigned = np.ascontiguousarray(planes.T).view(f"<u{block.width}").reshape(frames, -1)
    total = np.cumsum(unsigned, axis=0, dtype=unsigned.dtype)
    if block.step == 0:
        return total.view(dtype).astype(np.float64)
    signed = total.view(f"<i{block.width}").astype(np.int64)
    top = (1 << (8 * block.width - 1)) - 2
    values = decoded(np.where(np.abs(signed) > top, 0, signed), block.step, dtype)
    values[signed > top], values[signed == -top - 1], values[signed == -top - 2] = np.inf, -np.inf, np.nan
    return values


@given(
    arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 9)), elements=FLOATS),
    st.sampled_from([0, 8, 16]),
)
def test_blocks_decode_within_their_stated_bound(values: NDArray[np.float32], bits: int) -> None:
    block = encode(values, "float32", bits, [0.0] * len(values), 0)
    found = unpacked(block, "float32", len(values))
    finite = np.isfinite(values)
    assert np.array_equal(found[~finite], values[~finite].astype(float), equal_nan=True)
    with np.errstate(invalid="ignore"):
        error = np.max(np.abs(found - values.astype(float)), axis=1, where=finite, initial=0.0)
    assert (error <= np.array(block.bound)).all()
    if bits == 0:
        assert found.astype(np.float32).tobytes() == values.tobytes() or not finite.all()
        assert set(block.bound) == {0.0}


def test_the_bound_is_not_idle() -> None:
    values = np.random.default_rng(0).standard_normal((4, 100)).astype(np.float32)
    block = encode(values, "float32", 8, [0.0] * 4, 0)
    found = unpacked(block, "float32", 4)
    assert np.abs(found - values).max() > 0.5 * max(block.bound)
    assert max(block.bound) < 0.02


def test_a_recording_of_counters_stays_exact(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.int64).reshape(3, 4) * 10**12
    assert np.array_equal(unpacked(encode(values, "int64", 8, [0.0] * 3, 0), "int64", 3), values)


def test_a_pair_is_seen_in_the_frame_that_follows_its_units(tmp_path: Path) -> None:
    """Of two runs from one start the second is put into another order in mid-run: one alignment for all frames is wrong somewhere, the followed ones nowhere."""
    rng = np.random.default_rng(3)
    wiring = wl.Wiring.from_spec(
        "tensor a.weight (6, 5)\ntensor b.weight (4, 6)\ngroup a: 6 units, permutation\n  a.weight[0]: out\n  b.weight[1]: in\n"
    )
    start = {"a.weight": rng.standard_normal((6, 5)), "b.weight": rng.standard_normal((4, 6))}
    states = [{n: v + 0.05 * step * rng.standard_normal(v.shape) for n, v in start.items()} for step in range(8)]
    order = [3, 0, 5, 1, 4, 2]
    for name in ("one", "two"):
        seen = [wl.permute(s, wiring, "a", order) if name == "two" and i >= 4 else s for i, s in enumerate(states)]
        with wl.watch(seen[0], tmp_path / name, wiring=wiring) as rec:
            for state in seen[1:]:
                rec.step(state)
    subjects = [Subject(wl.load(tmp_path / name), name) for name in ("one", "two")]
    answers = Answers(subjects)

    def ask(word: str, **query: str) -> bytes:
        return answers.reply(word, query)[1]

    aligned, followed = json.loads(ask("pair")), json.loads(ask("pair", follow="1"))
    assert (aligned["number"], followed["number"], followed["run"]["name"]) == (2, 3, "two, followed")
    assert followed["parting"] == {"a": None}
    assert max(followed["aligned"]) == 0
    assert max(aligned["aligned"]) > 0.5
    for tensor in start:
        for frame in range(8):
            drawn = [unpack(ask("plane", run=str(k), tensor=tensor, frame=str(frame)))[1] for k in (0, 2, 3)]
            assert np.array_equal(drawn[2], drawn[0])
            assert np.array_equal(drawn[1], drawn[0]) == (frame >= 4)
        lines = [unpack(ask("series", run=str(k), tensor=tensor, cells="1,2;3,4"))[1] for k in (0, 3)]
        assert np.array_equal(lines[0], lines[1])
    assert json.loads(ask("pair", follow="1")) == followed
    assert len(answers.subjects) == 4


@pytest.mark.parametrize("f", [(2, 2), (3, 5), (8, 1)])
@pytest.mark.parametrize("odd", [[], [np.nan], [np.inf, -np.inf], [7.0, -8.0, 7.5]])
def test_few_spikes_change_their_own_tiles_only(f: tuple[int, int], odd: list[float]) -> None:
    """Where few weights stand out only their tiles are looked at: the same as looking at every tile."""
    rng = np.random.default_rng(len(odd))
    values = rng.uniform(-1, 1, (61, 83)).astype(np.float32)
    values.ravel()[rng.choice(values.size, len(odd), replace=False)] = odd
    values[-1, -1] = 9  # in a tile that is not whole
    drawn = reduce_to(values, *f, "typical", 4.0)
    for row in range(drawn.shape[0]):
        for col in range(drawn.shape[1]):
            tile = values[row * f[0] : (row + 1) * f[0], col * f[1] : (col + 1) * f[1]]
            at = (min(row * f[0] + f[0] // 2, 60), min(col * f[1] + f[1] // 2, 82))
            out = tile[~(np.abs(tile) <= 3.0)]
            expected = values[at] if not out.size else np.nan if np.isnan(out).any() else out[np.abs(out).argmax()]
            assert np.array_equal(drawn[row, col], np.float32(expected), equal_nan=True), (row, col)


def test_what_a_page_opens_with_is_read_beforehand_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {
        "bias": np.zeros(3, np.float32),
        "large": np.zeros((2100, 2000), np.float32),
        "small": np.eye(5, dtype=np.float32),
        "later": np.eye(4),
    }
    with wl.watch(state, tmp_path / "run") as rec:
        rec.step(state)
    subject = Subject(wl.load(tmp_path / "run"), "run")
    asked: list[str] = []
    sample = subject.sample
    monkeypatch.setattr(subject, "sample", lambda name: asked.append(name) or sample(name))
    answers = Answers([subject])
    answers.warm()
    assert asked == ["small"]  # the first matrix that is not too large, as viewer/src/address.ts opens
    first = answers.reply("stats", {"tensor": "small"})
    assert asked == ["small"]
    assert answers.reply("stats", {"tensor": "small"}) == first
    answers.reply("stats", {"tensor": "bias"})
    assert asked == ["small", "bias"]


@pytest.mark.parametrize("compact", ["after", "never"])
def test_sparklines_are_of_all_values_without_reading_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compact: Any
) -> None:
    draw = np.random.default_rng(0)
    state = {"w": draw.normal(size=(300, 40)), "b": np.zeros(3), "none": np.zeros((0, 4))}
    by_hand = [np.sqrt(np.mean(state["w"] ** 2))]
    with wl.watch(state, tmp_path / "run", compact=compact) as rec:
        for _ in range(300):
            state = {**state, "w": state["w"] + draw.normal(size=(300, 40)) / 10, "b": state["b"] + np.nan}
            by_hand.append(np.sqrt(np.mean(state["w"] ** 2)))
            rec.step(state)
    subject = Subject(wl.load(tmp_path / "run"), "run")
    answers = Answers([subject])
    read: list[str] = []
    sample = subject.sample
    monkeypatch.setattr(subject, "sample", lambda name: read.append(name) or sample(name))
    found = json.loads(answers.reply("trend", {"tensor": "w"})[1])
    assert found["frames"][0] == 0
    assert found["frames"][-1] == 300
    if compact == "after":
        assert read == []
        assert found["rms"] == pytest.approx([by_hand[frame] for frame in found["frames"]], rel=1e-9)
        odd = json.loads(answers.reply("trend", {"tensor": "b"})[1])
        assert odd["frames"] == found["frames"]
        assert json.loads(answers.reply("trend", {"tensor": "none"})[1]) == {"frames": [], "rms": []}
    else:  # a log alone keeps no statistics: a sample of the cells stands for all
        assert read == ["w"]
        assert found["rms"] == pytest.approx([by_hand[frame] for frame in found["frames"]], rel=0.05)

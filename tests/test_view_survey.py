"""What the map, the distributions, the norms of units and the spectra say, beside slow twins that read whole tensors."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlapse as wl
from weightlapse.errors import InvalidArgument
from weightlapse.view.answers import Answers
from weightlapse.view.distributions import PERCENTILES
from weightlapse.view.overview import overview
from weightlapse.view.subject import Subject

FRAMES = 21


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("survey") / "run"
    rng = np.random.default_rng(0)
    state = {
        "fc.weight": rng.standard_normal((12, 7)).astype(np.float32),
        "fc.bias": np.zeros(12, np.float32),
        "conv.weight": rng.standard_normal((5, 3, 2, 2)).astype(np.float32),
        "big.weight": rng.standard_normal((400, 300)).astype(np.float32),
        "gradients:fc.weight": np.zeros((12, 7), np.float32),
        "still": np.ones(4, np.float32),
        "empty": np.zeros((0, 3), np.float32),
    }
    with wl.watch(state, path) as rec:
        for step in range(1, FRAMES):
            for name in ("fc.weight", "fc.bias", "conv.weight", "big.weight", "gradients:fc.weight"):
                state[name] = state[name] + np.float32(0.1) * rng.standard_normal(state[name].shape).astype(np.float32)
            if step == 13:
                state["conv.weight"][1, 2, 0, 1] = np.nan
            rec.step(state)
    return wl.load(path)


@pytest.fixture(scope="module")
def answers(run: Any) -> Answers:
    return Answers([Subject(run, "run")])


def ask(answers: Answers, word: str, **query: Any) -> Any:
    return json.loads(answers.reply(word, {k: str(v) for k, v in query.items()})[1])


@pytest.mark.parametrize("name", ["fc.weight", "fc.bias", "conv.weight", "still"])
def test_the_survey_is_that_of_whole_tensors_where_they_are_small(run: Any, answers: Answers, name: str) -> None:
    found = ask(answers, "overview")["tensors"][name]
    values = run[name][:].astype(np.float64).reshape(FRAMES, -1)
    finite = np.where(np.isfinite(values), values, 0)
    assert found["exact"]
    assert found["frames"][0] == 0
    assert found["frames"][-1] == FRAMES - 1
    for i, frame in enumerate(found["frames"]):
        before = finite[found["frames"][max(0, i - 1)]]
        assert found["norm"][i] == pytest.approx((finite[frame] ** 2).sum())
        assert found["moved"][i] == pytest.approx(((finite[frame] - finite[0]) ** 2).sum())
        assert found["step"][i] == pytest.approx(((finite[frame] - before) ** 2).sum())
    bad = [f for f in found["frames"] if not np.isfinite(values[f]).all()]
    assert found["bad"] == (bad[0] if bad else None)
    assert (name == "conv.weight") == (found["bad"] is not None)


def test_a_large_tensor_is_estimated_from_a_sample(run: Any, answers: Answers) -> None:
    found = ask(answers, "overview")["tensors"]["big.weight"]
    values = run["big.weight"][:].astype(np.float64)
    assert not found["exact"]
    assert found["norm"][-1] == pytest.approx((values[-1] ** 2).sum(), rel=0.1)
    assert found["moved"][-1] == pytest.approx(((values[-1] - values[0]) ** 2).sum(), rel=0.1)


def test_the_survey_comes_in_parts_that_make_the_whole(run: Any) -> None:
    subject = Subject(run, "run")
    whole = overview(subject, 0, lambda: False, seconds=60)
    parts: dict[str, Any] = {}
    since: int | None = 0
    rounds = 0
    while since is not None:
        part = overview(subject, since, lambda: False, seconds=0)
        assert len(part["tensors"]) == 1  # no time, and yet it goes on
        parts |= part["tensors"]
        since, rounds = part["next"], rounds + 1
    assert rounds == len(run.names) == whole["of"]
    assert parts == whole["tensors"]
    assert whole["next"] is None


def test_a_tensor_that_changes_its_shape_is_surveyed_in_each(tmp_path: Path) -> None:
    small, large = np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)
    with wl.watch({"w": small}, tmp_path / "run") as rec:
        rec.step({"w": small * 2})
        rec.step({"w": large * 3})
        rec.step({"w": large * 5})
    found = overview(Subject(wl.load(tmp_path / "run"), "run"), 0, lambda: False)["tensors"]["w"]
    assert found["frames"] == [0, 1, 2, 3]
    assert found["moved"] == [0, 6, 0, 48]  # from the first frame of each shape
    assert found["norm"] == [6, 24, 108, 300]


@pytest.mark.parametrize("of", ["weights", "updates"])
@pytest.mark.parametrize(
    "name,unit", [("fc.weight", None), ("fc.weight", 3), ("conv.weight", None), ("conv.weight", 1)]
)
def test_percentiles_and_histograms_are_those_of_all_values(run: Any, answers: Answers, name: str, unit: int | None, of: str) -> None:  # fmt: skip
    found = ask(answers, "distribution", tensor=name, of=of, unit=-1 if unit is None else unit)
    track = run[name][:].astype(np.float64)
    track = track if unit is None else track[:, unit : unit + 1]
    values = track if of == "weights" else np.concatenate([track[:1], np.diff(track, axis=0)])
    assert found["sampled"] is None
    assert found["frames"] == list(range(int(of == "updates"), FRAMES))
    for i, frame in enumerate(found["frames"]):
        row = values[frame].ravel()
        finite = row[np.isfinite(row)]
        np.testing.assert_allclose(found["percentiles"][i], np.percentile(finite, PERCENTILES), rtol=1e-9)
        counts = [int(((finite >= a) & (finite < b)).sum()) for a, b in _bins(found)]
        counts[-1] += int((finite == found["high"]).sum())
        assert sum(abs(a - b) for a, b in zip(found["counts"][i], counts, strict=True)) <= 2  # values on a border
        assert found["bad"][i] == len(row) - len(finite)
        assert sum(found["counts"][i]) + found["beyond"][i] == len(finite)


def _bins(found: Any) -> list[tuple[float, float]]:
    edges = np.linspace(found["low"], found["high"], len(found["counts"][0]) + 1)
    return list(itertools.pairwise(edges))


def test_a_layer_and_its_gradients(run: Any, answers: Answers) -> None:
    found = ask(answers, "distribution", tensor="fc.weight", scope="layer")
    last = np.concatenate([run["fc.weight"][-1].ravel(), run["fc.bias"][-1]])
    np.testing.assert_allclose(found["percentiles"][-1], np.percentile(last.astype(np.float64), PERCENTILES))
    found = ask(answers, "distribution", tensor="fc.weight", of="gradients")
    last = run["gradients:fc.weight"][-1].astype(np.float64)
    np.testing.assert_allclose(found["percentiles"][-1], np.percentile(last, PERCENTILES))
    with pytest.raises(InvalidArgument, match="no gradient of 'still'"):
        ask(answers, "distribution", tensor="still", of="gradients")


def test_a_large_tensor_says_how_many_it_read(run: Any, answers: Answers) -> None:
    read, there = ask(answers, "distribution", tensor="big.weight")["sampled"]
    assert there == 120_000
    assert 1000 < read < there


@pytest.mark.parametrize("name", ["fc.weight", "conv.weight"])
def test_norms_of_units_and_spectra(run: Any, answers: Answers, name: str) -> None:
    track = run[name][:].astype(np.float64)
    found = ask(answers, "units", tensor=name)
    assert found["units"] == list(range(track.shape[1]))
    expected = np.sqrt((track.reshape(*track.shape[:2], -1) ** 2).mean(axis=2)).T[:, found["frames"]]
    np.testing.assert_allclose(np.array(found["lines"], float), expected, rtol=1e-9)
    spectrum = ask(answers, "spectrum", tensor=name)
    good = [f for f in spectrum["frames"] if np.isfinite(track[f]).all()]
    assert good == spectrum["frames"]
    assert good
    for frame, values in zip(spectrum["frames"], spectrum["values"], strict=True):
        np.testing.assert_allclose(values, np.linalg.svd(track[frame].reshape(track.shape[1], -1), compute_uv=False))


@pytest.mark.parametrize("word,query,message", [("distribution", {"tensor": "fc.weight", "of": "pink"}, "of='pink'"),
    ("distribution", {"tensor": "fc.weight", "unit": 99}, "unit=99"), ("units", {"tensor": "fc.bias"}, "no units"),
    ("spectrum", {"tensor": "empty"}, "no matrix")])  # fmt: skip
def test_questions_without_an_answer_are_refused_in_words(answers: Answers, word: str, query: dict[str, Any], message: str) -> None:  # fmt: skip
    with pytest.raises(InvalidArgument, match=message):
        ask(answers, word, **query)


BARE = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {missing}: raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
sys.argv = ["weightlapse", *{arguments}]
from weightlapse.cli import main
main()
"""


def bare(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The program where nothing but its required packages is installed."""
    missing = ("starlette", "uvicorn", "anywidget", "av", "matplotlib", "PIL", "torch", "scipy", "numba")
    code = BARE.format(missing=missing, arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_a_page_needs_no_server_package(run: Any, tmp_path: Path) -> None:
    done = bare("page", str(run.path), "-o", str(tmp_path / "page.html"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.html").stat().st_size > 50_000
    done = bare("view", str(run.path), "--no-browser")  # this one does, and says which in a sentence
    assert done.returncode != 0
    assert "weightlapse[view]" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_survey_of_a_large_recording_reads_its_statistics_alone(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weightlapse.view.overview.LARGE", 1000)
    again = wl.load(run.path)
    monkeypatch.setattr(type(again._store), "read", lambda *_: pytest.fail("weights were read"))
    found = overview(Subject(again, "run"), 0, lambda: False)
    assert (found["next"], found["of"]) == (None, len(run.names))
    monkeypatch.undo()
    for name in ("big.weight", "fc.bias", "conv.weight"):
        values = run[name][:].astype(np.float64).reshape(FRAMES, -1)
        told = found["tensors"][name]
        way = np.cumsum([0, *np.nansum(np.diff(values, axis=0) ** 2, axis=1)])
        whole = np.where(np.isfinite(values), values, 0)
        if name == "big.weight":
            assert np.allclose(told["norm"], (whole**2).sum(1)[told["frames"]], rtol=1e-9)
            assert np.allclose(told["moved"], way[told["frames"]], rtol=1e-9)
        assert np.isclose(
            told["moved"][-1], way[-1], rtol=0.1
        )  # of a small tensor the numbers of a block are spread over its frames
        assert np.allclose(np.cumsum(told["step"]), told["moved"])
    assert found["tensors"]["conv.weight"]["bad"] is not None
    assert found["tensors"]["big.weight"]["bad"] is None
    open_log = tmp_path / "log"
    rec = wl.watch({"w": np.zeros((50, 50))}, open_log, compact="never")
    rec.close()
    monkeypatch.setattr("weightlapse.view.overview.LARGE", 1000)
    assert overview(Subject(wl.load(open_log), "run"), 0, lambda: False)["tensors"]["w"]["exact"] in (
        True,
        False,
    )  # no statistics: the values

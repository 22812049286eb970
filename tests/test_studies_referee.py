"""The referee of the studies: what its tests decide, and that a sentence without a value behind it does not get through."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest

import weightlapse as wl
from weightlapse.studies.referee import Sentence, complaints, median_interval
from weightlapse.studies.results import Results

RNG = np.random.default_rng(0)


def value(samples) -> dict:
    x = [float(s) for s in samples]
    return {"median": float(np.median(x)), "min": min(x), "max": max(x), "seeds": len(x), "samples": x, "document": 0.5}


VALUES = {
    "low": value(RNG.uniform(1, 2, 12)), "high": value(RNG.uniform(3, 4, 12)), "mixed": value(RNG.uniform(0.5, 6, 12)), "two": value([1.0, 2.0]), "three": value([3.0, 4.0]),
    "some": value([1, 1, 1, 5, 1, 1]),
}  # fmt: skip
FACTS = {"count": 3, "nothing": 0, "nested": {"deep": 7}}


def ruling(test: str, *of: str, **bounds):
    return Sentence(test, of, "yes", "no", "open", bounds=bounds).judge(VALUES, FACTS)[0].holds


@pytest.mark.parametrize(
    ("holds", "test", "of", "bounds"),
    [
        (True, "less", ("low", "high"), {}), (False, "less", ("high", "low"), {}), (None, "less", ("mixed", "high"), {}), (None, "less", ("two", "three"), {}),
        (False, "less", ("low", "high"), {"factor": 0.1}), (True, "within", ("low",), {"low": 1, "high": 2}), (False, "within", ("low",), {"low": 3}),
        (None, "within", ("two",), {"low": 0, "high": 3}), (True, "every", ("low",), {"high": 2}), (False, "every", ("some",), {"high": 2}),
        (True, "equal", ("low", "low"), {}), (False, "equal", ("low", "high"), {"tolerance": 0.1}), (True, "correlated", ("low", "low"), {"low": 0.3}),
        (None, "correlated", ("two", "three"), {"low": 0.3}), (True, "only", ("high", "low"), {"who": ["high"], "low": 2.5}), (False, "only", ("high", "low"), {"who": ["high"], "low": 0}),
        (None, "only", ("high",), {"who": ["high"], "low": 2.5}), (None, "only", ("high", "two"), {"who": ["high"], "low": 2.5}),
        (True, "fact", ("count",), {"low": 3}), (False, "fact", ("nothing",), {}), (True, "fact", ("nested.deep",), {"low": "count"}),
    ],
)  # fmt: skip
def test_what_the_tests_decide(holds, test, of, bounds):
    assert ruling(test, *of, **bounds) is holds


@pytest.mark.parametrize("n", [6, 9, 20, 41])
def test_the_interval_of_a_median_covers_it(n):
    """At least 95 of 100 samples of a skew distribution hold its median, and the interval is no wider than that asks."""
    draws = np.random.default_rng(n).exponential(size=(1500, n))
    intervals = np.array([median_interval(d) for d in draws])
    covered = ((intervals[:, 0] <= math.log(2)) & (math.log(2) <= intervals[:, 1])).mean()
    assert 0.94 < covered < 0.995


def test_five_samples_decide_nothing():
    assert median_interval([1, 2, 3, 4, 5]) == (-math.inf, math.inf)


def finished(tmp_path: Path) -> tuple[Results, dict]:
    results = Results("neuron", "t", "q", True, tmp_path, seeds=12)
    results.value("low", VALUES["low"]["samples"], "mse", "one")
    results.value("high", VALUES["high"]["samples"], "mse", "other", 0.5)
    results.facts["count"] = 3
    less = Sentence("less", ("low", "high"), "It is lower, {low} against {high}, {times:.1f} times.", "It is not.")
    results.claim("it is lower", less)
    results.conclude(less, Sentence("fact", ("count",), "Three times: {count}.", "Never.", bounds={"low": 1}))
    for name in ("recording", "film", "report"):
        (tmp_path / name).write_text("x")
        results.files[name] = name
    return results, results.to_json()


def test_a_sentence_carries_its_numbers_and_their_spread(tmp_path):
    _, content = finished(tmp_path)
    low = VALUES["low"]
    assert f"{low['median']:.3g} [{low['min']:.3g}, {low['max']:.3g}]" in content["claims"][0]["why"]
    assert content["claims"][0]["holds"] == "yes"
    assert complaints(content) == []


SPOILS = {
    "a verdict by hand": (lambda r: r.update(verdict="Everything is proved."), "no test behind"),
    "a reason by hand": (lambda r: r["claims"][0].update(why="It is obvious."), "no test behind"),
    "another number": (lambda r: r["values"]["low"].update(median=1.0), "its numbers say"),
    "other samples": (lambda r: r["values"]["low"].update(samples=[9.0] * 12), "its numbers say"),
    "a value that is gone": (lambda r: r["values"].pop("high"), "no value behind"),
    "a fact that is gone": (lambda r: r["facts"].pop("count"), "no value behind"),
    "no sentences": (lambda r: r["facts"].pop("sentences"), "no test behind"),
    "another outcome": (lambda r: r["claims"][0].update(holds="no"), "its test says yes"),
    "a typed number": (lambda r: r["facts"]["sentences"][0].update(no="It is 3 times worse."), "typed, not measured"),
    "a cause by assertion": (
        lambda r: r["facts"]["sentences"][2].update(yes="Three times because: {count}."),
        "needs one of",
    ),
    "a unicum without controls": (
        lambda r: r["facts"]["sentences"][0].update(yes="It is only lower, {low} against {high}, {times:.1f} times."),
        "needs one of only",
    ),
}  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILS)
def test_the_referee_fails_on_what_is_not_backed(tmp_path, spoil):
    _, content = finished(tmp_path)
    broken = copy.deepcopy(content)
    change, words = SPOILS[spoil]
    change(broken)
    assert any(words in c for c in complaints(broken)), complaints(broken)


def test_a_study_that_says_more_than_it_measured_is_not_written(tmp_path):
    results, _ = finished(tmp_path)
    results.verdict += " And it is always better."
    with pytest.raises(wl.InvalidArgument, match="says more than it measured"):
        results.write()
    results, _ = finished(tmp_path)
    results.captions["x"] = "The first is better than the second."
    with pytest.raises(wl.InvalidArgument, match="no test behind 'The first is better"):
        results.write()


@pytest.mark.parametrize("sentence", [
    Sentence("less", ("low", "never measured"), "{low}", "no"),
    Sentence("fact", ("never counted",), "yes", "no"),
    Sentence("fact", ("count",), "{nothing_of_the_kind}", "no"),
    Sentence("guess", ("low",), "yes", "no"),
])  # fmt: skip
def test_a_name_without_a_value_is_refused_at_once(tmp_path, sentence):
    results, _ = finished(tmp_path)
    with pytest.raises(wl.InvalidArgument):
        results.claim("c", sentence)

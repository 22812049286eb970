"""The five studies, each run as a user runs it (quick), against the schema of what a study hands back."""

from __future__ import annotations

import copy
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

import weightlapse as wl
from tests.scripts import run_verb
from tests.study_schema import VALUES, complaints
from weightlapse.studies.frame import run_study
from weightlapse.studies.referee import Sentence
from weightlapse.studies.referee import complaints as unbacked
from weightlapse.studies.report import number
from weightlapse.studies.results import Results


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Runs each study once, when it is first asked for."""
    done: dict[str, tuple[dict, Path]] = {}

    def run(name: str) -> tuple[dict, Path]:
        if name not in done:
            out = tmp_path_factory.mktemp("study") / name
            result = run_verb(out.parent, "study", name, "--quick", "--json", "--out", str(out), seconds=400)
            assert result.returncode == 0, result.stderr[-3000:]
            done[name] = json.loads(result.stdout), out
        return done[name]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(VALUES))
def test_study_keeps_its_promises(ran, name):
    results, out = ran(name)
    assert complaints(results, out) == []
    assert unbacked(results) == []
    on_disk = json.loads((out / "results.json").read_text())
    assert on_disk["values"] == results["values"]

    run = wl.load(out / results["files"]["recording"])
    assert run.steps[0] == 0
    assert np.isfinite(run.scalars["loss"]).any()
    import av

    with av.open(str(out / results["files"]["film"])) as film:
        assert sum(1 for _ in film.decode(video=0)) == results["facts"]["film_frames"]
    page = (out / results["files"]["report"]).read_text()
    assert results["verdict"].split(".")[0].replace("'", "&#x27;") in page
    assert all(f"<code>{value}</code>" in page for value in VALUES[name].split())
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)


@pytest.mark.slow
def test_the_recording_is_the_sample_it_says(ran):
    results, out = ran("neuron")
    run, facts = wl.load(out / "recording"), results["facts"]
    kernel = run[facts["tensors"]["kernel"]][-1]
    values = results["values"]
    assert kernel.tolist() == [values[n]["samples"][facts["recorded_seed"]] for n in ("w1", "w2")]


@pytest.mark.slow
def test_the_schema_check_fails_on_broken_results(ran):
    results, out = ran("neuron")
    breaks = {
        "value": lambda r: r["values"].pop("bias"), "claim": lambda r: r["claims"][0].update(holds="perhaps"), "fact": lambda r: r["facts"].update(frames=160),
        "file": lambda r: r["files"].update(film="nowhere.mp4"), "median": lambda r: r["values"]["w1"].update(median=99.0), "figure": lambda r: r["files"]["figures"].pop("surface"),
    }  # fmt: skip
    for name, spoil in breaks.items():
        broken = copy.deepcopy(results)
        spoil(broken)
        assert complaints(broken, out), name


def test_results_refuse_what_is_incomplete(tmp_path):
    results = Results("neuron", "t", "q", True, tmp_path)
    with pytest.raises(wl.InvalidArgument, match="incomplete"):
        results.write()
    with pytest.raises(wl.InvalidArgument, match="no samples"):
        results.value("x", [], "mse", "nothing")
    with pytest.raises(wl.InvalidArgument, match="not 'maybe'"):
        results.claim("c", Sentence("fact", ("f",), "y", "n"), yes="maybe")
    results.value("x", [1.0, float("nan"), 3.0], "mse", "two of three")
    assert results.values["x"] == {
        "document": None,
        "median": 2.0,
        "min": 1.0,
        "max": 3.0,
        "seeds": 3,
        "samples": [1.0, None, 3.0],
        "unit": "mse",
    }


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(wl.InvalidArgument, match="nothing was written"):
        run_study(lambda out, quick: pytest.fail("ran"), "neuron", tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


class Small:
    """What a study returns, without a study: one recording's file, a report and numbers."""

    def __init__(self, out: Path, value: int) -> None:
        self.out, self.value = out, value

    def write(self) -> dict:
        (self.out / "results.json").write_text(str(self.value))
        return {"value": self.value}


def _a_study(value: int, ends: str = "whole"):
    def study(out: Path, quick: bool):
        (out / "recording").mkdir()  # as watch does: no folder of that name may be there
        (out / "recording" / "log").write_text(str(value))
        if ends == "error":
            raise RuntimeError("no more memory")
        if ends == "interrupt":
            raise KeyboardInterrupt
        if ends == "killed":
            os._exit(9)
        return Small(out, value)

    return study


@pytest.mark.parametrize("ends", ["error", "interrupt", "killed"])
@pytest.mark.parametrize("earlier", [False, True])
def test_an_interrupted_study_can_be_run_again_into_its_folder(tmp_path, monkeypatch, ends, earlier):
    monkeypatch.setattr("weightlapse.studies.frame.write_report", lambda results: None)
    out = tmp_path / "study"
    if earlier:
        run_study(_a_study(1), "neuron", out)
        (out / "mine.txt").write_text("mine")
    if ends == "killed":
        child = os.fork()
        if child == 0:
            run_study(_a_study(2, ends), "neuron", out)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    else:
        with pytest.raises((RuntimeError, KeyboardInterrupt)):
            run_study(_a_study(2, ends), "neuron", out)
    if earlier:  # the earlier result is as it was
        assert (out / "results.json").read_text() == (out / "recording" / "log").read_text() == "1"
    assert run_study(_a_study(3), "neuron", out) == {"value": 3}
    assert (out / "results.json").read_text() == (out / "recording" / "log").read_text() == "3"
    assert {p.name for p in out.iterdir()} == {".study-neuron", "recording", "results.json"} | (
        {"mine.txt"} if earlier else set()
    )
    with pytest.raises(wl.InvalidArgument, match="nothing was written"):
        run_study(_a_study(4), "mass", out)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (None, "–"),
        (0.0059, "0.0059"),
        (1234.567, "1235"),
        (4.5e11, "4.50e11"),
        (3e-7, "3.00e-7"),
        (0, "0"),
        (True, "yes"),
    ],
)
def test_numbers_are_written_as_people_write_them(x, text):
    assert number(x) == text

"""The project's own papers: the changelog out of its fragments, the judge of the benches, the files that other programs read."""

from __future__ import annotations

import datetime
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import weightlapse as wl

ROOT = Path(__file__).resolve().parent.parent
yaml = pytest.importorskip("yaml")


def script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


gather = script("changes/gather.py")
check = script("bench/check.py")


def test_a_release_gathers_the_fragments_once(tmp_path: Path) -> None:
    folder, file = tmp_path / "changes", tmp_path / "CHANGELOG.md"
    folder.mkdir()
    (folder / "README.md").write_text("not a change")
    (folder / "b.md").write_text("Second,\nover two lines.\n")
    (folder / "a.md").write_text("First.")
    assert gather.changelog(folder=folder, file=file) == (
        gather.HEAD + "\n## Unreleased\n\n- First.\n- Second,\n  over two lines.\n"
    )
    day = datetime.date(2027, 1, 2)
    gather.release("0.2.0", day, folder, file)
    assert [path.name for path in folder.iterdir()] == ["README.md"]
    (folder / "c.md").write_text("Third.")
    gather.release("0.3.0", day, folder, file)
    assert re.findall(r"^(?:## .*|- .*)$", file.read_text(), re.M) == [
        "## 0.3.0 (2027-01-02)",
        "- Third.",
        "## 0.2.0 (2027-01-02)",
        "- First.",
        "- Second,",
    ]
    (folder / "d.md").write_text("Fourth.")
    file.write_text(gather.changelog(folder=folder, file=file))
    assert gather.changelog(folder=folder, file=file) == file.read_text()  # "Unreleased" is written anew, not twice


def test_a_release_that_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    folder, file = tmp_path / "changes", tmp_path / "CHANGELOG.md"
    folder.mkdir()
    day = datetime.date(2027, 1, 2)
    with pytest.raises(SystemExit, match="no fragments"):
        gather.release("0.2.0", day, folder, file)
    (folder / "a.md").write_text("A change.")
    for version in ("2", "0.2", "v0.2.0", "0.2.0.1"):
        with pytest.raises(SystemExit, match="is no version"):
            gather.release(version, day, folder, file)
    gather.release("0.2.0", day, folder, file)
    (folder / "a.md").write_text(" \n")
    with pytest.raises(SystemExit, match=r"a\.md says nothing"):
        gather.release("0.3.0", day, folder, file)
    (folder / "a.md").write_text("Another.")
    with pytest.raises(SystemExit, match="already"):
        gather.release("0.2.0", day, folder, file)


def quartiles(low: float, high: float) -> dict[str, float]:
    return {"low": low, "median": (low + high) / 2, "high": high}


@pytest.mark.parametrize(
    "name, then, now, said",
    [
        ("reading", (1.0, 1.1), (1.0, 1.1), "same"),
        ("reading", (1.0, 1.1), (1.2, 1.5), "same"),  # within noise and a tenth
        ("reading", (1.0, 1.1), (1.22, 1.5), "worse"),
        ("reading", (1.0, 1.1), (1.0, 9.0), "same"),  # a disturbed round is no regression
        ("reading", (1.0, 1.1), (0.5, 0.9), "better"),
        ("size", (0.4, 0.4), (0.405, 0.405), "worse"),
        ("size", (0.4, 0.4), (0.401, 0.401), "same"),
    ],
)
def test_a_bench_is_worse_beyond_noise_only(
    name: str, then: tuple[float, float], now: tuple[float, float], said: str
) -> None:
    assert check.verdict(name, quartiles(*then), quartiles(*now)) == said
    assert bool(check.judge({name: quartiles(*then)}, {name: quartiles(*now)})) is (said == "worse")


def test_a_bench_that_nobody_kept_or_asks_is_a_fault() -> None:
    one = {"a": quartiles(1, 1)}
    assert check.judge({}, one)
    assert check.judge(one, {})
    assert check.judge(one, one) == []


def test_what_was_kept_is_what_is_asked() -> None:
    import json

    assert set(json.loads(check.KEPT.read_text(encoding="utf-8"))) == set(check.QUESTIONS)


@pytest.mark.parametrize("name", ["size", "one weight"])
def test_a_bench_measures_something(tmp_path: Path, name: str) -> None:
    found = check.measured(check.QUESTIONS[name], rounds=2)
    assert 0 < found["low"] <= found["median"] <= found["high"] < 1


PAPERS = [
    "CITATION.cff",
    ".pre-commit-config.yaml",
    *(str(p.relative_to(ROOT)) for p in sorted(ROOT.glob(".github/*/*.yml"))),
]


@pytest.mark.parametrize("paper", PAPERS)
def test_papers_can_be_read(paper: str) -> None:
    assert isinstance(yaml.safe_load((ROOT / paper).read_text(encoding="utf-8")), dict)


def test_papers_agree_with_the_package() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == wl.__version__
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    promised = re.findall(r"Programming Language :: Python :: (\d+\.\d+)", project)
    assert jobs["matrix"]["strategy"]["matrix"]["python"] == promised
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in promised
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    verbs = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert {c.split()[1] for c in commands if c.startswith("make ")} <= set(verbs)
    for file in re.findall(r"python (\S+\.py)", "\n".join(commands)):
        assert (ROOT / file).exists(), f"the workflow runs {file}, which is not there"

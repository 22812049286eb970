"""The documents' own programs in their own frameworks, with small budgets: what the few added lines leave behind, and that the pages quote them.

What is run are the notebooks, whose code is that of the programs (`test_a_notebook_is_its_program`).
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest

import weightlapse as wl
from tests.framework_presence import require, run_program

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = sorted((ROOT / "examples" / "documents").glob("*.py"))
NEXT = sorted((ROOT / "examples" / "next").glob("*.py"))
_spec = importlib.util.spec_from_file_location("notebooks", ROOT / "examples" / "notebooks" / "build.py")
assert _spec is not None
assert _spec.loader is not None
notebooks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(notebooks)
MOST = {"imitation": 6, "lift": 5, "mass": 9, "net2net": 12, "neuron": 6}  # lines added


def run(folder: Path, *orders: str) -> str:
    return run_program(
        "documents.py", folder, *orders, IPYTHONDIR=str(folder / ".ipython"), KERAS_BACKEND="tensorflow", MPLBACKEND="Agg", OMP_NUM_THREADS="1", WEIGHTLAPSE_STRICT="1"
    )  # fmt: skip


def numbers(text: str) -> list[float]:
    return [float(n) for n in re.findall(r"(?<![\w.-])\d+(?:\.\d+)?(?![\w-])", text)]


@pytest.mark.parametrize("program", NEXT, ids=lambda p: p.stem)
def test_a_next_question_takes_fewer_than_thirty_lines(program: Path) -> None:
    text = program.read_text(encoding="utf-8")
    assert sum(bool(line.strip()) for line in text.splitlines()) < 30
    assert not re.search(r"from weightlapse|import weightlapse\.", text), "the public face suffices"


def test_the_keras_documents(tmp_path: Path) -> None:
    require("keras", "tensorflow")
    said = run(tmp_path, "notebooks/imitation:12", "notebooks/neuron:2", "notebooks/lift:40")
    tmp_path /= "notebooks"
    a, b = wl.load(tmp_path / "imitation" / "A"), wl.load(tmp_path / "imitation" / "B")
    assert (a.frames, b.frames) == (1, 13)
    assert list(a.shapes.values()) == list(b.shapes.values())
    assert a.wiring is not None
    assert b.wiring is not None
    assert sum(int(np.prod(s)) for s in b.shapes.values()) == 169
    assert (tmp_path / "imitation" / "film.mp4").stat().st_size > 5000
    errors = b.scalars["error"]
    assert errors[-1] < errors[1] / 3
    assert f"error of the last batch: {errors[-1]:.6f}"[:32] in said

    neuron = wl.load(tmp_path / "neuron" / "run")
    assert neuron.frames == 2 * 16 + 1
    assert sorted(neuron.shapes.values()) == [(1,), (2, 1)]
    assert (tmp_path / "neuron" / "weights.png").stat().st_size > 5000

    lift = wl.load(tmp_path / "lift" / "lift")
    assert lift.frames == 41
    assert sum(int(np.prod(s)) for s in lift.shapes.values()) == 326
    assert all(np.abs(np.diff(lift[n][:], axis=0)).max() > 0 for n in lift.names)


def test_the_torch_document(tmp_path: Path) -> None:
    require("torch")
    said = run(tmp_path, "notebooks/net2net:3,2", *(f"next/{p.stem}" for p in NEXT))
    answers = dict(re.findall(r"^== next/(\w+)\n(.*?)(?=^== |\Z)", said, re.S | re.M))
    page = (ROOT / "docs" / "next-questions.md").read_text(encoding="utf-8")
    for name, lines in answers.items():
        spoken = re.search(rf"^## {name}.*?```text\n(.*?)```", page, re.S | re.M)
        assert spoken, name
        pairs = list(zip(spoken[1].splitlines(), lines.splitlines(), strict=True))
        alike = [
            numbers(a) == pytest.approx(numbers(b), rel=0.25, abs=3)
            for a, b in pairs
            if len(numbers(a)) == len(numbers(b))
        ]
        assert sum(alike) > len(pairs) / 2, (
            name,
            lines,
        )  # another processor rounds otherwise: a student more or less may arrive
    assert len(answers) == len(NEXT) == 5
    tmp_path /= "notebooks"
    teacher, student = wl.load(tmp_path / "net2net" / "teacher"), wl.load(tmp_path / "net2net" / "student")
    assert (teacher.frames, student.frames) == (3 * 25 + 1, 2 * 25 + 1)
    assert "refused: both networks give the same output" in said
    assert "dead, 0.weight" in said
    assert np.array_equal(student["2.weight"][0], student["2.weight"][-1]), "a dead network was trained"
    assert "10 of 10 units live" in said


def test_the_session_document(tmp_path: Path) -> None:
    require("tensorflow")
    run(tmp_path, "notebooks/mass:200")
    tmp_path /= "notebooks"
    run_ = wl.load(tmp_path / "mass" / "run")
    assert run_.steps.tolist() == [0, 40, 80, 120, 160, 200]
    assert run_.shapes == {"W1": (1, 15), "b1": (1, 1)}
    assert np.isfinite(run_.scalars["cost"][1:]).all()
    assert (tmp_path / "mass" / "film.mp4").stat().st_size > 3000


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.stem)
def test_a_notebook_is_its_program(program: Path) -> None:
    path = ROOT / "examples" / "notebooks" / f"{program.stem}.ipynb"
    text = path.read_text(encoding="utf-8")
    assert text == notebooks.notebook(program.stem), "run examples/notebooks/build.py"
    cells = [c for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
    code = [line.rstrip() for cell in cells[:-1] for line in "".join(cell["source"]).splitlines() if line.strip()]
    ours = program.read_text(encoding="utf-8").split('"""', 2)[2].splitlines()
    other = [line for line in ours if line.strip() and line.rstrip() not in code]
    assert [line for line in other if "sys" not in line] == []
    assert len(other) == 2
    assert len(code) == sum(bool(line.strip()) for line in ours) - 1  # all but "import sys"
    assert all(cell["outputs"] == [] for cell in cells)


def test_a_text_that_belongs_to_no_cell_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    title, words, last, tasks = notebooks.TEXTS["neuron"]
    monkeypatch.setitem(notebooks.TEXTS, "neuron", (title, {**words, "no such line": "x"}, last, tasks))
    with pytest.raises(SystemExit, match="no such line"):
        notebooks.notebook("neuron")


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.stem)
def test_a_page_quotes_its_program_and_few_lines_were_added(program: Path) -> None:
    text = program.read_text(encoding="utf-8")
    added = [line for line in text.splitlines() if line.endswith("# weightlapse")]
    assert 3 <= len(added) <= MOST[program.stem] + 1
    plain = "\n".join(line for line in text.splitlines() if not line.endswith("# weightlapse"))
    assert not re.search(r"\bwl\b|WatchCallback|\brec\b", plain.split('"""', 2)[2]), "a line of ours is not marked"
    page = (ROOT / "docs" / "documents" / f"{program.stem}.md").read_text(encoding="utf-8")
    lines = {line.removesuffix("# weightlapse").strip() for line in text.splitlines()}
    quoted = [line for block in re.findall(r"```python no-run\n(.*?)```", page, re.S) for line in block.splitlines()]
    assert [line for line in quoted if line.strip() and line.strip() not in lines] == []
    assert {line.removesuffix("# weightlapse").strip() for line in added} <= {line.strip() for line in quoted}


def test_every_program_has_a_page() -> None:
    assert [p.stem for p in PROGRAMS] == sorted(
        p.stem for p in (ROOT / "docs" / "documents").glob("*.md") if p.stem != "index"
    )
    assert len(PROGRAMS) == 5

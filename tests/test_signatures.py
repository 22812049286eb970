"""The page of signatures is true, and the calls of the last version still run."""

from __future__ import annotations

import ast
import json
import re
import runpy
import warnings
from collections import Counter
from pathlib import Path

import pytest

import weightlapse as wl
from tests import signatures
from tests.framework_presence import require
from tests.test_docs import BLOCK, PAGES

ROOT = Path(__file__).resolve().parent.parent
#: function -> its old keywords
OLD = {
    "make_film": {"path"},
    "export": {"dest"},
    "polish": {"tolerance"},
    "compare": {"tolerance"},
    "permute": {"w", "group_name", "perm"},
    "ensemble": {"data"},
    "autopsy": {"broken"},
}


def test_the_page_of_signatures_is_what_there_is() -> None:
    require("torch", "matplotlib", "scipy")
    page = signatures.PAGE.read_text(encoding="utf-8")
    before, now = signatures.block(page, signatures.BEFORE), signatures.lines()
    assert len(before) > 100 < len(now)
    assert page == signatures.page(before, now), "write it anew: python -m tests.signatures docs/signatures.md"


def test_the_page_says_what_differs() -> None:
    before = [
        "same(x: dict[str, int] = {}, *, y: int) -> int",
        "old()",
        "moved(a: int, b: tuple[int, ...] = (1, 2)) -> None",
    ]
    now = ["moved(a: int, c: int | None = None) -> None", "new()", before[0]]
    assert signatures.differing(before, now) == [
        "| `moved` | `b: tuple[int, ...] = (1, 2)` | `c: int \\| None = None` |",
        "| `new` |  | new |",
        "| `old` |  | gone |",
    ]
    assert signatures.differing(before, before) == []


def renamed(name: str) -> str:
    """What a function or a method is called now."""
    owner, dot, method = name.partition(".")
    return wl._FORMER.get(owner, (owner,))[0] + dot + method


def test_nothing_that_was_public_is_gone() -> None:
    page = signatures.PAGE.read_text(encoding="utf-8")
    before, now = (signatures.block(page, h) for h in (signatures.BEFORE, signatures.NOW))
    called = {line.split("(", 1)[0] for line in now}
    assert {renamed(line.split("(", 1)[0]) for line in before} <= called
    gone = {
        (row.split("`")[1], name)
        for row in signatures.differing(before, now)
        for name in set(re.findall(r"`\*?(\w+):", row.split(" | ")[1]))
        - set(re.findall(r"`\*?(\w+):", row.split(" | ")[2]))
        if "| gone |" not in row
    }
    assert gone == {(f.replace("export", "Recording.export"), old) for f, names in OLD.items() for old in names}


def test_the_calls_of_the_last_version_still_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require("torch", "matplotlib", "scipy", "av")
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("error")
        warnings.simplefilter("always", DeprecationWarning)
        runpy.run_path(str(ROOT / "tests" / "golden" / "calls_v01.py"))
    said = Counter(re.match(r"(\S+) is called", str(w.message))[1] for w in found)  # type: ignore[index]
    assert said == {f"{f}({old}=)": 1 for f, names in OLD.items() for old in names} | {
        "Recording.epochs": 3,
        "wl.Epoch": 1,
    }
    assert {Path(w.filename).name for w in found} == {"calls_v01.py"}


# ---- nobody here calls by an old name


def by_old_names(source: str) -> list[str]:
    """Calls by an old keyword in a program; in a piece that is none alone (the inside of a loop, say) line by line."""
    if not any(f"{f}(" in source and any(f"{old}=" in source for old in names) for f, names in OLD.items()):
        return []
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return [
            f"{f}({old}=)"
            for f, names in OLD.items()
            for old in sorted(names)
            if re.search(rf"\b{f}\([^\n]*\b{old}=", source)
        ]
    calls = ((ast.unparse(n.func).rpartition(".")[2], n.keywords) for n in ast.walk(tree) if isinstance(n, ast.Call))
    return [f"{f}({k.arg}=)" for f, keywords in calls for k in keywords if k.arg in OLD.get(f, ())]


def test_no_page_example_or_module_calls_by_an_old_name() -> None:
    files = [p for folder in ("weightlapse", "examples", "bench", "docs") for p in (ROOT / folder).rglob("*.py")]
    pieces = [(p, p.read_text(encoding="utf-8")) for p in files]
    pieces += [(p, code) for p in PAGES for _, code in BLOCK.findall(p.read_text(encoding="utf-8"))]
    for book in (ROOT / "examples").rglob("*.ipynb"):
        cells = json.loads(book.read_text(encoding="utf-8"))["cells"]
        pieces += [(book, "".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"]
    assert len(pieces) > 600
    assert {str(p): calls for p, code in pieces if (calls := by_old_names(code))} == {}


def test_the_search_finds_old_names() -> None:
    assert by_old_names("wl.make_film(run, path='x')\nrun.export('npz',\n dest='y')") == [
        "make_film(path=)",
        "export(dest=)",
    ]
    assert by_old_names("wl.make_film(run, 'x', out='y')\nwl.watch(model, path='x')") == []
    assert by_old_names("    wl.permute(state, w, 'a', perm=order)\nend") == ["permute(perm=)"]


def test_no_old_name_outlives_its_version() -> None:
    """Whoever releases the version that removes them removes them."""
    said = [
        tuple(map(int, version.split(".")))
        for path in (ROOT / "weightlapse").rglob("*.py")
        for version in re.findall(r"^\s*@renamed\(\"([\d.]+)\"", path.read_text(encoding="utf-8"), re.M)
    ]
    here = tuple(map(int, wl.__version__.split(".")[:2]))
    assert len(said) == len(OLD)
    assert all(version > here for version in said), f"{here} is released without the old names of {min(said)}"

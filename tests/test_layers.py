"""The house holds: a module imports only lower ranks, or siblings of its own folder, and never its own package's ``__init__``."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "weightlapse"
RANK = {
    "errors": -1, "arguments": 0, "progress": 0, "wiring": 1, "adapters": 2, "store": 2, "callbacks": 3, "capture": 3, "recording": 3, "measures": 4, "symmetry": 4, "picture": 4,
    "growth": 5, "lift": 5, "ensembles": 5, "differences": 5, "film": 5, "view": 6, "studies": 7, "cli": 8,
}  # fmt: skip
FORBIDDEN_NAMES = {"utils", "helpers", "common", "base", "misc"}


def imports_of(source: str) -> list[str]:
    """Every weightlapse module that ``source`` imports, at any depth, as dotted names below the package."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the rank: import by full path"
            assert node.module is not None
            found += [node.module] + [f"{node.module}.{a.name}" for a in node.names if node.module == "weightlapse"]
    return [name for name in found if name.split(".")[0] == "weightlapse"]


def complaints(stage: str, source: str) -> list[str]:
    """What ``source``, a module of ``stage``, imports against the house."""
    bad = []
    for name in imports_of(source):
        parts = name.split(".")
        if len(parts) == 1 or (len(parts) == 2 and parts[1] == "__version__"):
            continue
        target = parts[1]
        if target not in RANK:
            bad.append(f"{name}: no stage of that name")
        elif target == stage:
            if len(parts) == 2:
                bad.append(f"{name}: its own package's __init__")
        elif RANK[target] >= RANK[stage]:
            bad.append(f"{name}: rank {RANK[target]} from rank {RANK[stage]}")
    return bad


def stage_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


MODULES = [p for p in sorted(PACKAGE.rglob("*.py")) if p.parent != PACKAGE or p.stem in RANK]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    assert complaints(stage_of(path), path.read_text(encoding="utf-8")) == []


def test_every_folder_has_a_rank_and_a_place_in_the_guide() -> None:
    folders = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders <= set(RANK)
    guide = ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")))
    assert guide is not None
    listed = {
        line.split()[0].rstrip("/") for line in guide.splitlines() if line.startswith("    ") and "/" in line.split()[0]
    }
    assert listed == folders


def test_no_drawers() -> None:
    assert [p for p in MODULES if p.stem in FORBIDDEN_NAMES] == []


def test_the_check_itself_fails_on_a_breach() -> None:
    assert complaints("store", "from weightlapse.film.movie import make_film")
    assert complaints("store", "def f():\n    import weightlapse.recording.recording")
    assert complaints("store", "from weightlapse import store")
    assert complaints("film", "from weightlapse.view.serve import show")
    assert complaints("film", "from weightlapse.nowhere import x")
    assert complaints("film", "from weightlapse.recording.recording import load") == []

"""No file imports, by way of others, one that imports it: imports within functions count too, and those by name (`importlib.import_module`).

Two kinds are no circle. A type alone (`if TYPE_CHECKING`) is looked at by checkers and never run. And a framework is fetched when somebody uses it:
`adapters/arrays.py` may call `adapters/torch.py`, which stands on it, within a function, because only the second one needs torch.
"""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "weightlapse"
FRAMEWORKS = {
    "torch",
    "keras",
    "jax",
    "flax",
    "equinox",
    "sklearn",
    "lightning",
    "transformers",
    "triton",
    "skorch",
    "numba",
    "matplotlib",
    "anywidget",
}

Imports = dict[str, tuple[bool, bool]]  # module -> (at the top of the file, in a function)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__") or "__init__"


def imports(source: str, modules: set[str]) -> tuple[dict[str, bool], set[str]]:
    """Modules of the package that a source imports, each with whether it does so at its top; and the frameworks it imports there."""
    tree = ast.parse(source)
    types = {
        id(n)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for part in node.body
        for n in ast.walk(part)
    }
    within = {
        id(n)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for n in ast.walk(node)
    }
    found: dict[str, bool] = {}
    frameworks = set()
    for node in ast.walk(tree):
        names: list[str] = []
        if id(node) in types:
            continue
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith("import_module")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            names = [str(node.args[0].value)]
        for name in names:
            top = id(node) not in within and not isinstance(node, ast.Call)
            if top and name.partition(".")[0] in FRAMEWORKS:
                frameworks.add(name.partition(".")[0])
            if (mine := name.removeprefix("weightlapse.")) != name and mine in modules:
                found[mine] = found.get(mine, False) or top
    return found, frameworks


def circles(sources: dict[str, str]) -> set[frozenset[str]]:
    """Sets of files each of which leads to every other."""
    facts = {name: imports(source, set(sources)) for name, source in sources.items()}
    edges = {
        name: {to for to, top in found.items() if to != name and (top or not facts[to][1] - frameworks)}
        for name, (found, frameworks) in facts.items()
    }

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = list(edges[start])
        while todo:
            if (here := todo.pop()) not in seen:
                seen.add(here)
                todo += edges[here]
        return seen

    leads = {name: reached(name) for name in edges}
    return {frozenset(b for b in leads[a] if a in leads[b]) for a in leads if a in leads[a]}


def test_no_file_imports_itself_by_way_of_others() -> None:
    sources = {name_of(path): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    sources.pop("__init__")  # it fetches every public name
    assert len(sources) > 300
    assert circles(sources) == set()


def test_the_check_itself_finds_circles() -> None:
    top = "from weightlapse.b import x"
    hidden = "def f():\n    from weightlapse.a import y"
    named = "def f():\n    import importlib\n    importlib.import_module('weightlapse.a')"
    types = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from weightlapse.a import y"
    assert circles({"a": top, "b": hidden}) == circles({"a": top, "b": named}) == {frozenset({"a", "b"})}
    assert circles({"a": top, "b": types}) == circles({"a": top, "b": ""}) == set()
    assert circles({"a": top, "b": "import weightlapse.c", "c": hidden}) == {frozenset({"a", "b", "c"})}
    assert circles({"a": f"import torch\n{top}", "b": hidden}) == set(), "a framework that b does not need"
    assert circles({"a": f"import torch\n{top}", "b": f"import torch\n{hidden}"}) == {frozenset({"a", "b"})}

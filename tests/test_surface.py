"""The public names are a tested list, each of them resolves, and importing the package stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import weightlapse as wl

PACKAGE = Path(wl.__file__).parent

PUBLIC = """
AlignedRuns Alignment Autopsy Barrier CannotAlign CannotGrow CannotRecord CannotTrace Certificate Comparison
DamagedRecording Diff Ensemble Film Finding FollowedRun Group Growth History HyperNetwork InvalidArgument LayoutSpan LayoutStretch Lift Lineage Member
MissingExtra MissingStep NotARecording NullRecorder Plan Polished Recorder RecorderWarning Recording RecordingIncomplete RecordingStopped Run
Schedule TensorDiff TensorHistory Track UnknownArgument UnknownTensor VacuousComparison Viewer WeightlapseError Wiring align
align_all align_runs at autopsy callbacks canonical compare deepen diagnose diff ensemble every fit_lift follow
import_checkpoints lineage load log_spaced make_film make_page measure narrow permute plan plot polish show trace
watch widen
""".split()

HEAVY = (
    "torch",
    "keras",
    "tensorflow",
    "jax",
    "matplotlib",
    "scipy",
    "sklearn",
    "av",
    "PIL",
    "starlette",
    "zarr",
    "lightning",
    "transformers",
    "ray",
    "numba",
)


def loaded_after(code: str) -> set[str]:
    """Top-level names in ``sys.modules`` of a fresh interpreter after running ``code``."""
    out = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*{{m.split('.')[0] for m in sys.modules}})"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(out.stdout.split())


def test_public_names() -> None:
    assert sorted(wl.__all__) == sorted(PUBLIC)
    assert set(PUBLIC) <= set(dir(wl))


def test_every_public_name_resolves_and_says_what_it_is() -> None:
    for name in PUBLIC:
        thing = getattr(wl, name)
        assert thing.__doc__, f"wl.{name} has no docstring"


DESCRIBED = """
adapters arguments.py callbacks capture cli differences ensembles errors.py film lift measures picture progress.py recording store studies view
""".split()
NOT_YET = ("store/codecs",)


def undescribed(source: str) -> list[str]:
    """Public classes, functions and methods of a module without a docstring: "Class.method", in the order of the lines.

    A name that begins with an underscore is private, and so is all that stands in it; overloads are described by what they overload.
    """
    found = []

    def look(body: list[ast.stmt], within: str) -> None:
        for node in body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
                continue
            if ast.get_docstring(node) is None and "overload" not in map(ast.unparse, node.decorator_list):
                found.append(within + node.name)
            if isinstance(node, ast.ClassDef):
                look(node.body, f"{within}{node.name}.")

    look(ast.parse(source).body, "")
    return found


@pytest.mark.parametrize("room", DESCRIBED)
def test_every_public_definition_says_what_it_is(room: str) -> None:
    here = PACKAGE / room
    files = [here] if here.is_file() else sorted(here.rglob("*.py"))
    assert files
    bare = {
        name: found
        for path in files
        if not (name := path.relative_to(PACKAGE).as_posix()).startswith(NOT_YET)
        and (found := undescribed(path.read_text(encoding="utf-8")))
    }
    assert not bare, f"without a docstring: {bare}"


BARE = {
    "def f(): ...": ["f"],
    "async def f(): ...": ["f"],
    "class A: ...": ["A"],
    "class A:\n    'said'\n    def f(self): ...": ["A.f"],
    "class A:\n    def f(self):\n        'said'": ["A"],
    "class A:\n    'said'\n    class B:\n        def f(self): ...": ["A.B", "A.B.f"],
    "class A:\n    'said'\n    @property\n    def f(self): return 'not said'": ["A.f"],
    "def f():\n    # said to nobody\n    return 1": ["f"],
    "def f():\n    f'{1}'": ["f"],
    "def f(): 'said'": [],
    "def _f(): ...\nclass _A:\n    def f(self): ...": [],
    "class A:\n    'said'\n    def __len__(self): ...": [],
    "@overload\ndef f(x: int) -> int: ...\ndef f(x): 'said'": [],
    "@overload\ndef f(x: int) -> int: ...\ndef f(x): ...": ["f"],
    "@cache\ndef f(): ...": ["f"],
}


@pytest.mark.parametrize("source", BARE)
def test_what_is_not_described_is_found(source: str) -> None:
    assert undescribed(source) == BARE[source]


def seen_by_checkers() -> dict[str, str]:
    """Public name -> its module, of the imports that only a type checker follows."""
    tree = ast.parse(Path(wl.__file__).read_text(encoding="utf-8"))
    only = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    return {a.name: str(n.module) for n in only.body if isinstance(n, ast.ImportFrom) for a in n.names}


def test_checkers_see_the_names_that_there_are() -> None:
    modules = {name: f"weightlapse.{home}".rpartition(".")[0] for name, home in wl._MODULES.items()}
    assert seen_by_checkers() == {name: f"weightlapse.{home}" for name, home in wl._HOME.items()} | modules


def test_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(wl, "no_such_thing")


def test_import_is_light() -> None:
    loaded = loaded_after(
        "import weightlapse, weightlapse.cli, weightlapse.recording.recording, weightlapse.capture.watch"
    )
    assert loaded.isdisjoint(HEAVY), loaded & set(HEAVY)


def test_the_lightness_check_can_fail() -> None:
    assert "scipy" in loaded_after("import weightlapse, scipy")


def test_errors_are_also_what_python_users_catch() -> None:
    assert issubclass(wl.MissingStep, KeyError)
    assert issubclass(wl.UnknownTensor, KeyError)
    assert issubclass(wl.InvalidArgument, ValueError)
    assert issubclass(wl.MissingExtra, ImportError)
    assert str(wl.MissingStep("step 7 was not recorded")) == "step 7 was not recorded"

"""With any choice of the optional packages every verb and every public name works, or says which extra it needs: never a traceback."""

from __future__ import annotations

import json
import tomllib
from functools import cache
from pathlib import Path

import pytest

from tests.framework_presence import run_program
from weightlapse.errors import OPTIONAL

ROOT = Path(__file__).resolve().parent.parent
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]
TRIED = ("base", "film", "torch")  # `python -m tests.test_extras` tries all
# what each extra is there for
WORKS = {
    "base": {"info", "ls", "completion", "plan", "page", "compare", "compare (with a wiring)", "diff", "doctor", "verify", "compact", "import", "export (npz)"},
    "film": {"plot", "film (mp4)", "film (gif)"},
    "view": {"view", "diff (page)"},
    "export": {"export (zarr)", "export (parquet)", "export (tensorboard)", "export (safetensors)"},
    "torch": {"wl.trace", "wl.widen", "wl.deepen", "wl.Lift", "wl.ensemble", "wl.polish"},
}  # fmt: skip


def packages(extra: str) -> set[str]:
    """Names of the packages that an extra installs, those of extras within it as well."""
    if extra == "base":
        return set()
    names: set[str] = set()
    for requirement in EXTRAS[extra]:
        if requirement.startswith("weightlapse["):
            inner = requirement.removeprefix("weightlapse[").rstrip("]").split(",")
            names = names.union(*(packages(name) for name in inner))
        else:
            names.add(requirement.split(">")[0].split("=")[0])
    return names


@cache
def outcomes(extra: str, folder: Path) -> dict[str, str]:
    return json.loads(run_program("verbs.py", folder, ",".join(sorted(packages(extra)))).splitlines()[-1])


@pytest.mark.parametrize("extra", TRIED)
def test_every_verb_works_or_says_what_it_needs(tmp_path: Path, extra: str) -> None:
    found = outcomes(extra, tmp_path)
    assert {key: told for key, told in found.items() if told != "works" and not told.startswith("needs ")} == {}
    assert {key for key in WORKS["base"] | WORKS[extra] if found[key] != "works"} == set()
    asked_for = {told.removeprefix("needs ") for told in found.values() if told != "works"}
    assert asked_for <= set(EXTRAS)
    assert extra not in asked_for  # it is there
    assert bool(asked_for) is True  # packages really were hidden


def test_what_can_be_missing_is_what_the_extras_install() -> None:
    users = set().union(*(packages(extra) for extra in EXTRAS if extra not in ("all", "dev", "docs")))
    assert {package for package, _ in OPTIONAL.values()} == users
    for package, extra in OPTIONAL.values():
        assert package in packages(extra)


def table() -> str:
    """Verbs and names against extras, in Markdown."""
    import tempfile

    columns = ["base", *(extra for extra in EXTRAS if extra not in ("all", "dev", "docs")), "all"]
    found = {}
    for extra in columns:
        with tempfile.TemporaryDirectory() as folder:
            found[extra] = outcomes(extra, Path(folder))
    rows = [f"| `{key}` | {' | '.join('yes' if found[e][key] == 'works' else found[e][key] for e in columns)} |" for key in found["base"]
            if any(found[e][key] != "works" for e in columns)]  # fmt: skip
    everywhere = [f"`{key}`" for key in found["base"] if all(found[e][key] == "works" for e in columns)]
    head = [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    return "\n".join([*head, *rows, "", f"Works everywhere: {', '.join(everywhere)}."])


if __name__ == "__main__":
    print(table())

"""The built page: what its sources say, small, and free of any other address; its own tests and linter."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.browser import node_modules

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "weightlapse" / "view" / "page"
VIEWER = ROOT / "viewer"
needs_node = pytest.mark.skipif(
    shutil.which("npm") is None and not os.environ.get("WEIGHTLAPSE_REQUIRE_FRAMEWORKS"),
    reason="needs Node to rebuild the viewer (Debian: apt-get install nodejs npm)",
)


def differences(built: Path) -> list[str]:
    """Files of the committed bundle that are not byte for byte as ``built``."""
    names = {f.name for f in PAGE.iterdir()} | {f.name for f in built.iterdir()}
    return sorted(
        n
        for n in names
        if not ((PAGE / n).exists() and (built / n).exists() and (PAGE / n).read_bytes() == (built / n).read_bytes())
    )


def run(source: Path, *command: str) -> tuple[int, str]:
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the viewer's sources with its tools installed from the lock."""
    source = tmp_path_factory.mktemp("viewer") / "viewer"
    shutil.copytree(VIEWER, source, ignore=shutil.ignore_patterns("node_modules"))
    cases = Path("weightlapse", "picture", "cases.json")  # what its pictures are compared with
    (source.parent / cases).parent.mkdir(parents=True)
    shutil.copy(ROOT / cases, source.parent / cases)
    (source / "node_modules").symlink_to(node_modules())
    return source


@needs_node
@pytest.mark.xdist_group("node")
def test_the_committed_bundle_is_built_from_these_sources(source: Path, tmp_path: Path) -> None:
    code, told = run(source, "node", "build.mjs", str(tmp_path / "page"))
    assert code == 0, told
    assert differences(tmp_path / "page") == [], "run `make viewer` and commit weightlapse/view/page"
    (tmp_path / "page" / "app.js").write_text("0")
    assert differences(tmp_path / "page") == ["app.js"]  # the check itself sees a change


@needs_node
@pytest.mark.xdist_group("node")
def test_types_and_linter_find_nothing_and_would_find_something(source: Path) -> None:
    code, told = run(source, "npm", "run", "check")
    assert code == 0, told
    faulty = source / "src" / "faulty.ts"
    faulty.write_text("export const x: number = 'a';\n")
    assert run(source, "npm", "run", "check")[0] != 0  # of types, before the linter
    for fault in (
        "async function f(): Promise<void> {}\nexport function g(): void { f(); }\n",
        "export function h(x: any): any { return x; }\n",
    ):
        faulty.write_text(fault)
        assert run(source, "node_modules/.bin/biome", "lint", "--error-on-warnings", "src/faulty.ts")[0] != 0, fault
    faulty.write_text("export const x = 1;\n")
    assert run(source, "node_modules/.bin/biome", "lint", "--error-on-warnings", "src/faulty.ts")[0] == 0
    faulty.unlink()


@needs_node
@pytest.mark.xdist_group("node")
def test_the_unit_tests_pass_and_a_wrong_one_fails(source: Path) -> None:
    code, told = run(source, "npm", "test")
    assert code == 0, told
    passed = re.search(r"pass (\d+)", told)
    assert passed is not None
    assert int(passed[1]) >= 25
    wrong = source / "test" / "wrong.test.ts"
    wrong.write_text(
        'import assert from "node:assert/strict";\nimport { test } from "node:test";\ntest("wrong", () => { assert.equal(1, 2); });\n'
    )
    assert run(source, "npm", "test", "--", "wrong")[0] != 0
    assert run(source, "npm", "test", "--", "no-such-test")[0] != 0
    wrong.unlink()


def test_it_is_small() -> None:
    assert sum(len(gzip.compress(f.read_bytes(), 9)) for f in PAGE.iterdir()) < 150_000
    assert sum(f.stat().st_size for f in PAGE.iterdir()) < 400_000


def test_it_holds_no_code_of_others() -> None:
    """The page is committed as built, so nothing that was fetched may be in it: no package is imported by its sources."""
    foreign = re.compile(r"""^(?:import|export|\}).*["'](?!\.)([^"'.][^"']*)["'];?$""", re.MULTILINE)
    assert foreign.search('import { ticks } from "d3-array";')
    assert not foreign.search('import { ticks } from "./axis";')
    for file in (VIEWER / "src").rglob("*.ts"):
        imports = "\n".join(
            line for line in file.read_text("utf-8").splitlines() if " from " in line or line.startswith("import ")
        )
        assert not foreign.search(imports), file
    assert "dependencies" not in json.loads((VIEWER / "package.json").read_text())


def test_it_names_no_other_address() -> None:
    allowed = {"http://www.w3.org/2000/svg"}  # a name, not a place
    for file in PAGE.iterdir():
        assert set(re.findall(r"(?:https?|wss?)://[^\s\"'`)]+", file.read_text("utf-8"))) <= allowed


def test_the_lock_names_no_registry() -> None:
    lock = json.loads((VIEWER / "package-lock.json").read_text())
    packages = {k: v for k, v in lock["packages"].items() if k}
    assert packages
    assert all("resolved" not in v and v["integrity"].startswith("sha512-") for v in packages.values())


def test_data_never_becomes_markup() -> None:
    pattern = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function")
    assert pattern.search("x.innerHTML = y")
    for source in (VIEWER / "src").rglob("*.ts"):
        assert not pattern.search(source.read_text("utf-8")), source

"""The built page: what its sources say, small, and free of any other address."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "weightlapse" / "view" / "page"
VIEWER = ROOT / "viewer"


def differences(built: Path) -> list[str]:
    """Files of the committed bundle that are not byte for byte as ``built``."""
    names = {f.name for f in PAGE.iterdir()} | {f.name for f in built.iterdir()}
    return sorted(
        n
        for n in names
        if not ((PAGE / n).exists() and (built / n).exists() and (PAGE / n).read_bytes() == (built / n).read_bytes())
    )


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node to rebuild the viewer")
def test_the_committed_bundle_is_built_from_these_sources(tmp_path: Path) -> None:
    source = tmp_path / "viewer"
    shutil.copytree(VIEWER, source, ignore=shutil.ignore_patterns("node_modules"))
    for command in (
        ["npm", "ci", "--no-fund", "--no-audit"],
        ["npm", "run", "check"],
        ["node", "build.mjs", str(tmp_path / "page")],
    ):
        done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert differences(tmp_path / "page") == [], "run `make viewer` and commit weightlapse/view/page"
    (tmp_path / "page" / "app.js").write_text("0")
    assert differences(tmp_path / "page") == ["app.js"]  # the check itself sees a change


def test_it_is_small() -> None:
    assert sum(f.stat().st_size for f in PAGE.iterdir()) < 250_000


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

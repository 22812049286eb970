"""What `make coverage` prints: lines of each package, counted file by file."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import covered


class Told:
    """As if each file had four lines, of which one was missed in the store and all elsewhere."""

    def load(self) -> None: ...

    def analysis2(self, file: str) -> tuple[str, list[int], list[int], list[int], str]:
        missing = [4] if "store" in Path(file).relative_to(covered.ROOT).parts else [1, 2, 3, 4]
        return file, [1, 2, 3, 4], [], missing, ""


def test_every_file_counts_in_its_package() -> None:
    found = covered.rows(Told())
    assert sum(lines for lines, _ in found.values()) == 4 * len(list(covered.ROOT.rglob("*.py")))
    lines, reached = found.pop("weightlapse/store")
    assert reached == lines * 3 // 4 > 0
    assert {reached for _, reached in found.values()} == {0}
    assert found["weightlapse"][0] == 4 * len(list(covered.ROOT.glob("*.py")))
    assert "weightlapse/wiring" in found


def test_nothing_reached_is_no_answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    made: Any = SimpleNamespace(Coverage=Told)
    monkeypatch.setitem(sys.modules, "coverage", made)
    covered.main()
    assert capsys.readouterr().out.splitlines()[-1].split()[0] == "all"
    monkeypatch.setattr(Told, "analysis2", lambda self, file: (file, [1], [], [1], ""))
    with pytest.raises(SystemExit, match="no line was reached"):
        covered.main()

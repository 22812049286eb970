"""The driver of `make mutate`: what it changes, and that it tells a test that looks from one that does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import mutate
from tests.mutate import Mutant, looked_at, mutants

SOURCE = '''"""Words, 3 of them."""
LIMIT = 4


def f(x: int = 2) -> bool:
    """Returns 5."""
    if x < LIMIT and not x == 1:
        g(x)
        raise ValueError(f"{x + 7} is wrong")
    return x >= 3
'''


def test_what_decides_is_changed_and_nothing_else() -> None:
    found = mutants("a.py", SOURCE)
    changed = {(m.line, m.text) for m in found}
    for line, text in (
        (2, "(5)"),
        (2, "(3)"),
        (7, "(x <= LIMIT)"),
        (7, "(x != 1)"),
        (7, "(x < LIMIT or not x == 1)"),
        (8, "pass"),
        (9, "pass"),
        (10, "(x > 3)"),
        (10, "(4)"),
        (10, "return None"),
    ):
        assert (line, text) in changed
    assert not {m.line for m in found} & {1, 6}, "words are left alone"
    assert not any("8" in m.text or "6" in m.text for m in found if m.line == 9), "and so is what words an error"
    for m in found:
        compile(m.source(SOURCE), "a.py", "exec")
        removed, added = m.diff(SOURCE)
        assert removed[0] + added[0] == "-+"
        assert (
            m.key(SOURCE) == m.key("# a line above\n" + SOURCE)
            if m.start > len(SOURCE)
            else m.key(SOURCE).startswith("a.py: -")
        )


def test_bytes_and_letters_are_told_apart() -> None:
    source = 'TEXT = "größer"; LIMIT = 4\n'
    assert [m.source(source) for m in mutants("a.py", source)] == [
        'TEXT = "größer"; LIMIT = (3)\n',
        'TEXT = "größer"; LIMIT = (5)\n',
    ]


def test_lines_that_no_trace_tells_of_meet_every_test() -> None:
    assert mutate._whole(SOURCE) == {1, 2, 3, 4, 5, 11}
    assert 5 in mutate._whole("import x\n\n@_compiled\ndef f(a):\n    return a\n")


def test_every_named_file_and_its_first_tests_are_there() -> None:
    for file, tests in mutate.TARGETS.items():
        assert (mutate.ROOT / "weightlapse" / file).exists(), file
        assert any((mutate.ROOT / f"tests/{name}.py").exists() for name in tests.split()), file


def test_every_mutant_that_was_looked_at_is_one_still() -> None:
    """A line of the list whose original is gone says nothing: it goes."""
    assert len(looked_at()) > 10
    for key in looked_at():
        file, _, change = key.partition(": -")
        lines = {
            " ".join(line.split())
            for line in (mutate.ROOT / "weightlapse" / file).read_text(encoding="utf-8").splitlines()
        }
        assert any(change.strip().startswith(f"{line} +") for line in lines if line), key


@pytest.mark.parametrize(("looks", "lives"), [("assert f(3) == 4", False), ("assert f(3)", True)])
def test_a_mutant_lives_where_no_test_looks(
    looks: str, lives: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weightlapse_part.py").write_text("def f(x):\n    return x + 1\n")
    test = tmp_path / "test_part.py"
    test.write_text(f"from weightlapse_part import f\n\n\ndef test_f():\n    {looks}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mutate, "_name", lambda file: file.removesuffix(".py"))
    source = (tmp_path / "weightlapse_part.py").read_text()
    one = next(m for m in mutants("weightlapse_part.py", source) if m.text == "(2)")
    assert mutate.survives(one, source, [f"{test}::test_f"], 60) is lives
    assert mutate.survives(Mutant("weightlapse_part.py", 2, 0, 3, "deff"), source, [f"{test}::test_f"], 60) is False, (
        "what cannot be read"
    )

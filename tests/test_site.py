"""The site: every public name explains itself with an example that runs, the pages build without a network, and each is two clicks away."""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import weightlapse as wl
from tests.browser import chromium, needs_chromium
from tests.site_links import Site

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs" / "site"))

import docstrings  # noqa: E402
import live  # noqa: E402
import reference  # noqa: E402

pytest.importorskip("mkdocs")
BUILD = [sys.executable, "-m", "mkdocs", "build", "--strict"]  # with --quiet nothing would count as a warning
FUNCTIONS = [name for name in wl.__all__ if inspect.isfunction(getattr(wl, name))]


@pytest.mark.parametrize("name", wl.__all__)
def test_every_public_name_and_method_says_what_it_is(name: str) -> None:
    assert [silent for silent in reference.undocumented() if silent.split(".")[0] == name] == []


def test_what_is_silent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        def loud(self) -> None:
            """Something."""

        def method(self) -> None: ...

        @property
        def value(self) -> int:
            return 0

        @classmethod
        def made(cls) -> None: ...

    monkeypatch.setattr(wl, "Plan", Silent)
    assert reference.undocumented() == ["Plan", "Plan.method", "Plan.value", "Plan.made"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_has_an_example_that_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    function = getattr(wl, name)
    module = importlib.import_module(function.__module__)
    found = doctest.DocTestFinder(recurse=False).find(function, name, module=module)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in found:
        assert [e for e in test.examples if not e.options.get(doctest.SKIP)], f"wl.{name} has no example that runs"
        assert runner.run(test).failed == 0
    assert found


def test_every_name_and_verb_is_in_the_reference() -> None:
    from weightlapse.cli import VERBS

    pages = reference.pages()
    text = "\n".join(pages.values())
    for name in wl.__all__:
        assert f"::: weightlapse.{name}\n" in text or f"#weightlapse.{name} " in text
        assert f"[`{name}`](" in pages["api/index.md"]
    shell = reference.command_line()
    assert [verb for verb in VERBS if f"\n## {verb} " not in shell] == []
    assert "`--no-align`" in shell
    assert "weightlapse film [OPTIONS] RUN" in shell


@pytest.mark.parametrize(
    "written, shown",
    [
        ("See :class:`Recording` and :meth:`~Recording.state`.", "See `Recording` and `Recording.state`."),
        (">>> 1 + 1\n2\n\nMore.", "\n```pycon\n>>> 1 + 1\n2\n```\n\nMore."),
        ("Words.\n- one\n  goes on\n- two", "Words.\n\n- one\n  goes on\n- two"),
        (">>> f(x)      # doctest: +SKIP", "\n```pycon\n>>> f(x)\n```"),
    ],
)
def test_docstrings_become_markdown(written: str, shown: str) -> None:
    assert docstrings.readable(written) == shown


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "site"))
    return importlib.import_module("hooks")


def test_our_markdown_becomes_theirs(hooks: Any) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="how-to/x.md"))
    text = "Words:\n- a\n  b\n- c\n\n```python no-run\n- [x](y.md)\n```\n[r](../../bench/results/plan.md) [s](film.md#a) [t](../../README.md)"
    assert hooks.on_page_markdown(text, page) == (
        "Words:\n\n- a\n  b\n- c\n\n```python\n- [x](y.md)\n```\n[r](../benchmarks/plan.md) [s](film.md#a) [t](../index.md)"
    )


def test_an_index_that_forgets_a_page_is_an_error(hooks: Any) -> None:
    made = {"x/index.md": "[b](b.md) and [a](a.md)", "x/a.md": "", "x/b.md": ""}
    assert hooks.contents("x/", made) == ["x/index.md", "x/b.md", "x/a.md"]
    with pytest.raises(hooks.PluginError, match=r"does not name x/c\.md"):
        hooks.contents("x/", made | {"x/c.md": ""})


def test_the_recording_on_the_site_is_of_a_healthy_network(tmp_path: Path) -> None:
    live.record(tmp_path / "xor")
    run = wl.load(tmp_path / "xor")
    assert run.scalars["loss"][-1] < 1e-6
    assert wl.diagnose(run) == []


@pytest.mark.parametrize("seed", [4, 5, 6])
def test_the_doctor_examines_a_network_that_has_no_gradient_left(tmp_path: Path, seed: int) -> None:
    live.record(tmp_path / "xor", seed=seed)
    assert {finding.severity for finding in wl.diagnose(wl.load(tmp_path / "xor"))} <= {"warning", "note"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [*BUILD, "--site-dir", str(out)]
    env = os.environ | {
        "NO_MKDOCS_2_WARNING": "1",
        "PYTHONPATH": str(ROOT),
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=env, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return out


@pytest.mark.parametrize(
    "text, code", [("[a](index.md#a)\n# A", 0), ("[a](gone.md)", 1), ("[a](index.md#gone)", 1), ("[a](folder/)", 1)]
)
def test_the_build_fails_on_a_broken_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, code: int
) -> None:
    ours = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    (tmp_path / "mkdocs.yml").write_text("site_name: x\n" + ours[ours.index("validation:") :])
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(text)
    from click.testing import CliRunner
    from mkdocs.__main__ import cli

    monkeypatch.chdir(tmp_path)  # the same words in this process: to load it anew takes longer than to build
    assert CliRunner().invoke(cli, BUILD[3:]).exit_code == code


def test_make_builds_the_site_as_it_is_tested() -> None:
    assert f"mkdocs {' '.join(BUILD[3:])}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.xdist_group("site")
def test_every_page_is_whole_and_two_clicks_away(site: Path) -> None:
    built = Site(site)
    assert built.broken() == []
    assert built.foreign() == []
    clicks = built.clicks()
    assert len(clicks) == len(built.pages) > 80
    assert {page: n for page, n in clicks.items() if n > 2} == {}


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(
        '<a href="a.html#here"></a><a href="a.html#gone"></a><a href="b.html"></a><img src="c.png"><a href="https://example.org"></a>'
    )
    (tmp_path / "a.html").write_text(
        '<h2 id="here"></h2><script src="https://example.org/x.js"></script><a href="d.html"></a>'
    )
    (tmp_path / "d.html").write_text('<a href="e.html"></a>')
    (tmp_path / "e.html").write_text("")
    (tmp_path / "lost.html").write_text("")
    found = Site(tmp_path)
    assert found.broken() == ["index.html -> a.html#gone", "index.html -> b.html", "index.html -> c.png"]
    assert found.foreign() == ["a.html -> https://example.org/x.js"]
    assert found.clicks() == {"index.html": 0, "a.html": 1, "d.html": 2, "e.html": 3}


@needs_chromium
@pytest.mark.xdist_group("site")
def test_a_browser_shows_it_at_three_widths_and_searches_it_without_a_server(site: Path) -> None:
    with chromium() as browser:
        for width in (1440, 1024, 390):
            page = browser.new_page(viewport={"width": width, "height": 900})
            wrong: list[str] = []
            page.on("pageerror", lambda e, wrong=wrong: wrong.append(str(e)))
            page.on("console", lambda m, wrong=wrong: wrong.append(m.text) if m.type == "error" else None)
            page.on(
                "request",
                lambda r, wrong=wrong: (
                    None if r.url.startswith(("file:", "data:", "blob:", "about:")) else wrong.append(r.url)
                ),
            )
            for name in ("index", "api/record", "cli", "glossary", "benchmarks/plan", "live"):
                page.goto((site / f"{name}.html").as_uri())
                assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is wider than {width}"
            frame = page.frame_locator("iframe.live")
            frame.locator("body[data-wl-state=ready]").wait_for(timeout=30_000)
            if width == 1440:
                page.get_by_role("textbox", name="Search").fill("re-basin")
                hits = page.locator(".md-search-result__link")
                hits.first.wait_for(timeout=20_000)
                assert any("glossary.html" in str(hit.get_attribute("href")) for hit in hits.all())
            assert wrong == []
            page.close()

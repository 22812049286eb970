"""What MkDocs is told while it builds the site: pages made from the program itself, and how our Markdown differs from its own.

The sources are read on GitHub as well, so they keep GitHub's ways (``python no-run`` after a fence, links out of docs/, lists right after a sentence).
"""

from __future__ import annotations

import ast
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(ROOT), str(ROOT / "changes")]

import reference  # noqa: E402
from gather import changelog  # noqa: E402
from live import live_page  # noqa: E402

LINK = re.compile(r"(\]\()([^)\s]+)(\))")
FENCE = re.compile(r"^(```+|~~~+)")
ITEM = re.compile(r"^\s*([-*+]|\d+\.)\s")


def home() -> str:
    """The README, seen from docs/."""

    def from_docs(match: re.Match[str]) -> str:
        target = match[2]
        return match[0] if "://" in target else match[1] + posixpath.relpath(target, "docs") + match[3]

    return LINK.sub(from_docs, (ROOT / "README.md").read_text(encoding="utf-8"))


def benchmarks() -> dict[str, str]:
    """A page for each table of bench/results, and one that names them all."""
    tables = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "bench" / "results").glob("*.md"))}
    lines = [
        "# Benchmarks",
        "",
        "Every table was measured in one run beside the peers it names. Ratios and medians are what to read; absolute times belong to the machine they "
        "name. `make bench` measures everything again, `python bench/NAME.py` one question, `make bench-check` whether a ratio became worse.",
        "",
    ]
    lines += [f"- [{reference.title_of(text)}]({name})" for name, text in tables.items()]
    return {"benchmarks/index.md": "\n".join(lines)} | {f"benchmarks/{name}": text for name, text in tables.items()}


def examples() -> dict[str, str]:
    """A page for each program of examples/, and one that names them all."""
    lines = [
        "# Examples",
        "",
        "Scripts on real or made data, each under a minute, each run by a test. They lie in `examples/` of the repository.",
        "",
    ]
    pages = {}
    for path in sorted((ROOT / "examples").rglob("*.py")):
        code = path.read_text(encoding="utf-8")
        name = example_page(path.relative_to(ROOT / "examples").as_posix())
        words = (ast.get_docstring(ast.parse(code)) or path.stem).split("\n")[0]
        lines.append(f"- [{path.relative_to(ROOT / 'examples').as_posix()}]({name}): {words}")
        pages[f"examples/{name}"] = f"# {path.relative_to(ROOT).as_posix()}\n\n```python\n{code}```\n"
    return {"examples/index.md": "\n".join(lines)} | pages


def example_page(path: str) -> str:
    return path.removesuffix(".py").replace("/", "-") + ".md"


def made() -> dict[str, str]:
    """Path below docs -> Markdown of every page that has no file of its own."""
    return {
        "index.md": home(),
        "changelog.md": changelog(),
        "contributing.md": (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
        "cli.md": reference.command_line(),
        **benchmarks(),
        **examples(),
        **reference.pages(),
    }


def page_at(path: str) -> str:
    """Where a file of the repository is on the site, or the path itself; both as seen from the root."""
    places = {
        "README.md": "docs/index.md",
        "CONTRIBUTING.md": "docs/contributing.md",
        "CHANGELOG.md": "docs/changelog.md",
    }
    places["bench/RESULTS.md"] = "docs/benchmarks/index.md"
    if path.startswith("examples/") and path.endswith(".py"):
        return f"docs/examples/{example_page(path.removeprefix('examples/'))}"
    if re.fullmatch(r"examples(/[\w-]+)*", path):
        return "docs/examples/index.md"
    return places.get(path, re.sub(r"^bench/results/", "docs/benchmarks/", path))


# ---- the events of MkDocs ----------------------------------------------------------------------------------------------------------------


def on_config(config: Any) -> Any:
    """Nothing public may be without words; folders in the navigation become their pages."""
    if silent := reference.undocumented():
        raise PluginError(f"without a docstring: {', '.join(silent)}")
    config.made = made()
    for group in (config.nav, *(value for entry in config.nav for value in entry.values() if isinstance(value, list))):
        for entry in group:
            for title, target in entry.items() if isinstance(entry, dict) else ():
                if isinstance(target, str) and target.endswith("/"):
                    entry[title] = contents(target, config.made)
    return config


def contents(folder: str, made: dict[str, str]) -> list[str]:
    """The pages of a folder in the order in which its index names them."""
    index = f"{folder}index.md"
    text = made[index] if index in made else (ROOT / "docs" / index).read_text(encoding="utf-8")
    named = [folder + m[2] for m in LINK.finditer(text) if re.fullmatch(r"[\w-]+\.md", m[2])]
    there = {path for path in made if path.startswith(folder)} | {
        path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs" / folder).glob("*.md")
    }
    if missing := sorted(there - {*named, index}):
        raise PluginError(f"docs/{index} does not name {', '.join(missing)}")
    return [index, *dict.fromkeys(named)]


def on_files(files: Files, config: Any) -> Files:
    for path, text in config.made.items():
        files.append(File.generated(config, path, content=text))
    for picture in sorted((ROOT / "bench" / "results").glob("*.[sp][vn]g")):
        files.append(File.generated(config, f"benchmarks/{picture.name}", content=picture.read_bytes()))
    files.append(File.generated(config, "live/recording.html", content=live_page()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    folder = posixpath.dirname(page.file.src_uri)

    def on_site(match: re.Match[str]) -> str:
        target, mark, anchor = match[2].partition("#")
        if not target or "://" in target:
            return match[0]
        at = page_at(posixpath.normpath(posixpath.join(origin, target)))
        return match[1] + posixpath.relpath(at, posixpath.join("docs", folder)) + mark + anchor + match[3]

    # bench tables and the contributing page are written where they lie in the repository
    origin = {"benchmarks": "bench/results", "": "docs"}.get(folder, f"docs/{folder}")
    if page.file.src_uri in ("benchmarks/index.md",):
        origin = "docs/benchmarks"
    if page.file.src_uri in ("contributing.md", "changelog.md"):
        origin = "."
    lines: list[str] = []
    fence = ""
    for line in markdown.split("\n"):
        if opened := FENCE.match(line):
            if not fence:
                fence = opened[1]
                line = re.sub(r"^(```\w+) .*", r"\1", line)  # `python no-run` is for the tests
            elif line.startswith(fence):
                fence = ""
        elif not fence:
            if ITEM.match(line) and lines and lines[-1].strip() and not in_list(lines):
                lines.append("")
            line = LINK.sub(on_site, line)
        lines.append(line)
    return "\n".join(lines)


def in_list(lines: list[str]) -> bool:
    """Whether the paragraph that ends here belongs to a list."""
    for line in reversed(lines):
        if not line.strip():
            return False
        if ITEM.match(line):
            return True
    return False

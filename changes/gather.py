"""CHANGELOG.md out of the fragments in this folder. `make changelog` calls it; a release empties the folder.

python changes/gather.py                  the section "Unreleased" anew
python changes/gather.py --release 0.2.0  the same under a version and today's date; the fragments are removed
"""

from __future__ import annotations

import argparse
import datetime
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
HEAD = """# Changelog

What users notice, newest first. Versions follow [Semantic Versioning](docs/versions.md).
"""
SECTION = re.compile(r"^## ", re.M)


def fragments(folder: Path = HERE) -> list[Path]:
    """The first release first, then by topic."""
    found = [path for path in folder.glob("*.md") if path.name != "README.md"]
    return sorted(found, key=lambda path: (path.stem != "first-release", path.stem))


def section(heading: str, folder: Path = HERE) -> str:
    """A list of what changed, one entry per fragment, under its heading."""
    entries = []
    for path in fragments(folder):
        text = path.read_text(encoding="utf-8").strip()
        if not text:
            raise SystemExit(f"{path.name} says nothing; write a sentence that a user understands, or remove it")
        lines = [line.rstrip() for line in text.split("\n")]
        entries.append(
            "- " + "\n".join([lines[0].removeprefix("- "), *("  " + line if line else "" for line in lines[1:])])
        )
    return f"## {heading}\n\n" + "\n".join(entries) + "\n"


def released(text: str) -> str:
    """The sections of all released versions."""
    parts = SECTION.split(text)[1:]
    return "".join("\n## " + part.strip() + "\n" for part in parts if not part.startswith("Unreleased"))


def changelog(heading: str = "Unreleased", folder: Path = HERE, file: Path = ROOT / "CHANGELOG.md") -> str:
    """The whole changelog: what is in the fragments under ``heading``, then what CHANGELOG.md holds of the versions before."""
    before = released(file.read_text(encoding="utf-8")) if file.exists() else ""
    new = "\n" + section(heading, folder) if fragments(folder) else ""
    return HEAD + new + before


def release(version: str, day: datetime.date, folder: Path = HERE, file: Path = ROOT / "CHANGELOG.md") -> None:
    """Gathers the fragments under a version and removes them. Refuses what is no version, is there already, or would be empty."""
    if not re.fullmatch(r"\d+\.\d+\.\d+(rc\d+)?", version):
        raise SystemExit(f"{version!r} is no version: three numbers, as in 0.2.0 (or 0.2.0rc1)")
    if file.exists() and f"\n## {version} " in file.read_text(encoding="utf-8"):
        raise SystemExit(f"{version} is in {file.name} already")
    gone = fragments(folder)
    if not gone:
        raise SystemExit("there are no fragments: nothing that a user notices has changed")
    file.write_text(changelog(f"{version} ({day.isoformat()})", folder, file), encoding="utf-8")
    for path in gone:
        path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--release", metavar="VERSION")
    version = parser.parse_args().release
    if version:
        release(version, datetime.date.today())
    else:
        (ROOT / "CHANGELOG.md").write_text(changelog(), encoding="utf-8")


if __name__ == "__main__":
    main()

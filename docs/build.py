"""Build the gallery: run the five studies in full, keep their pictures, films and pages, and write docs/gallery.md. `make gallery` calls it.

python docs/build.py [--quick] [STUDY ...]
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import weightlapse as wl

HERE = Path(__file__).resolve().parent
STUDIES = ("neuron", "imitation", "net2net", "lift", "mass")
TITLES = {
    "neuron": "One neuron learns a sum",
    "imitation": "Does the imitator learn the weights?",
    "net2net": "Making a trained network wider",
    "lift": "A network that writes the weights of another",
    "mass": "Which weights carry the mass?",
}
SHOWN = {"neuron": "weights", "imitation": "distances", "net2net": "comparison", "lift": "errors", "mass": "mass"}


def build(study: str, quick: bool) -> None:
    """Run one study and keep what a reader looks at in docs/gallery/STUDY."""
    kept = HERE / "gallery" / study
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / study
        call = [sys.executable, "-m", "weightlapse", "study", study, "--out", str(out), *(["--quick"] if quick else [])]
        subprocess.run(call, check=True)
        results = json.loads((out / "results.json").read_text(encoding="utf-8"))
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        for name in (*results["files"]["figures"].values(), results["files"]["film"], "report.md"):
            shutil.copy(out / name, kept / name)
        wl.make_page(wl.load(out / results["files"]["recording"]), kept / "page.html", max_bytes=1_500_000)
        summary = {k: results[k] for k in ("study", "quick", "seeds", "verdict", "claims")} | {
            "films": [results["files"]["film"]]
        }
        (kept / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")


def write_gallery() -> None:
    """docs/gallery.md from what lies in docs/gallery."""
    lines = ["# Gallery: five small experiments, answered", ""]
    lines += [
        "Each began as a small published experiment about weights. Each is one command, `weightlapse study NAME`, that leaves a recording, films,"
    ]
    lines += [
        "figures, a report and its numbers as JSON. This page is written by `make gallery`; the films and pages open by themselves, without a server.",
        "",
    ]
    for study in STUDIES:
        summary = json.loads((HERE / "gallery" / study / "summary.json").read_text(encoding="utf-8"))
        recipe = (
            (HERE / "gallery" / study / "report.md")
            .read_text(encoding="utf-8")
            .split("```python no-run")[1]
            .split("```")[0]
            .strip()
        )
        at = f"gallery/{study}"
        lines += [f"## {TITLES[study]}", "", summary["verdict"], "", f"![{TITLES[study]}]({at}/{SHOWN[study]}.png)", ""]
        lines += [
            f"[report]({at}/report.md) · [film]({at}/film.mp4) · [explore the recording]({at}/page.html) · {summary['seeds']} seeds · `weightlapse study {study}`",
            "",
        ]
        lines += [
            "| claim of the document | holds |",
            "|---|---|",
            *(f"| {c['claim']} | **{c['holds']}** |" for c in summary["claims"]),
            "",
        ]
        lines += ["For your own network:", "", "```python no-run", recipe, "```", ""]
    (HERE / "gallery.md").write_text("\n".join(lines), encoding="utf-8")


def main() -> None:
    arguments = [a for a in sys.argv[1:] if not a.startswith("--")]
    unknown = set(arguments) - set(STUDIES)
    if unknown:
        sys.exit(f"no such study: {', '.join(sorted(unknown))}; there are {', '.join(STUDIES)}")
    for study in arguments or STUDIES:
        print(f"building {study}", file=sys.stderr)
        build(study, "--quick" in sys.argv)
    write_gallery()


if __name__ == "__main__":
    main()

"""Build the gallery: run the five studies in full, keep their pictures, films and pages, and write docs/gallery.md. `make gallery` calls it.

python docs/build.py [--quick] [--from=FOLDER] [STUDY ...]

``--from``: take the results that lie in FOLDER/STUDY instead of running the study. ``--page``: only write docs/gallery.md anew from what is kept.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import weightlapse as wl
from weightlapse.studies.report import number

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


TABLE = {  # the values that each section shows
    "neuron": "w1 w2 bias w1_100 epochs_to_close",
    "imitation": "final_error student_loss student_aligned_distance zero_loss_raw_distance zero_loss_aligned_distance control_aligned_distance",
    "net2net": "doc_teacher_after live_teacher_loss widen_error rule_error widened_start padded_start scratch_start widened_end padded_end scratch_end",
    "lift": "outside_1 many_outside_1 many_inside_1 e2e_1 equal_1 outside_10 e2e_10 equal_10 heldout_10 ood_outside_10 ood_mlp_10 degree_outside",
    "mass": "share_end gd_share_end momentum_share_end adam_eps_share_end adam_shared_share_end rmsprop_share_end adagrad_share_end adamw_share_end l1_share_end "
    "eg_share_end adam_amplification adam_eps_amplification",
}
CHANGED = HERE / "gallery" / "changed.md"  # what an earlier edition concluded and the numbers did not carry


def build(study: str, quick: bool, results_in: Path | None) -> None:
    """Run one study, or take its results, and keep what a reader looks at in docs/gallery/STUDY."""
    kept = HERE / "gallery" / study
    with tempfile.TemporaryDirectory() as folder:
        out = (results_in or Path(folder)) / study
        call = [sys.executable, "-m", "weightlapse", "study", study, "--out", str(out), *(["--quick"] if quick else [])]
        if results_in is None:
            subprocess.run(call, check=True)
        results = json.loads((out / "results.json").read_text(encoding="utf-8"))
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        for name in (*results["files"]["figures"].values(), results["files"]["film"], "report.md"):
            shutil.copy(out / name, kept / name)
        wl.make_page(wl.load(out / results["files"]["recording"]), kept / "page.html", max_bytes=1_500_000)
        summary = {k: results[k] for k in ("study", "quick", "seeds", "verdict", "claims")} | {
            "films": [results["files"]["film"]],
            "values": {
                name: {k: results["values"][name][k] for k in ("document", "median", "min", "max", "seeds")}
                for name in TABLE[study].split()
            },
            "meanings": meanings_of(out / "report.md"),
        }
        (kept / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")


def meanings_of(report: Path) -> dict[str, str]:
    """What each value of a report means, in the words of its table."""
    rows = re.findall(
        r"^\| `(\w+)`: (.*?) \| [^|]* \| [^|]* \| [^|]* \| \d+ \| [^|]* \|$", report.read_text(encoding="utf-8"), re.M
    )
    return dict(rows)


def write_gallery() -> None:
    """docs/gallery.md from what lies in docs/gallery."""
    lines = ["# Gallery: five small experiments, answered", ""]
    lines += [
        "Each began as a small published experiment about weights. Each is one command, `weightlapse study NAME`, that leaves a recording, films,"
    ]
    lines += [
        "figures, a report and its numbers as JSON. Every sentence is made from the numbers and carries the test that could refute it; square brackets are ranges over",
        "seeds or the 95 % interval of a median. This page is written by `make gallery`; the films and pages open by themselves, without a server. What the documents'",
        "own programs look like with the package: [documents](documents/index.md). What one would ask next: [next questions](next-questions.md).",
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
            "| claim of the document | holds | why |",
            "|---|---|---|",
            *(
                f"| {c['claim']} | **{c['holds']}** | {c['why'].replace('|', chr(92) + '|')} |"
                for c in summary["claims"]
            ),
            "",
            "| what was measured | document | median [range] | seeds |",
            "|---|---|---|---|",
            *(
                f"| {summary['meanings'][n]} | {number(v['document'])} | {number(v['median'])} [{number(v['min'])}, {number(v['max'])}] | {v['seeds']} |"
                for n, v in summary["values"].items()
            ),
            "",
        ]
        lines += ["For your own network:", "", "```python no-run", recipe, "```", ""]
    lines += [*CHANGED.read_text(encoding="utf-8").splitlines(), ""]
    (HERE / "gallery.md").write_text("\n".join(lines), encoding="utf-8")


def main() -> None:
    arguments = [a for a in sys.argv[1:] if not a.startswith("--")]
    unknown = set(arguments) - set(STUDIES)
    if unknown:
        sys.exit(f"no such study: {', '.join(sorted(unknown))}; there are {', '.join(STUDIES)}")
    results_in = next((Path(a.removeprefix("--from=")) for a in sys.argv if a.startswith("--from=")), None)
    for study in [] if "--page" in sys.argv else arguments or STUDIES:
        print(f"building {study}", file=sys.stderr)
        build(study, "--quick" in sys.argv, results_in)
    write_gallery()


if __name__ == "__main__":
    main()

"""The long torture: ``make torture MINUTES=20``, or ``python -m tests.torture MINUTES``. Prints a table and writes it to bench/results/torture.md."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "bench" / "results" / "torture.md"
BATCH = {"damage": 400, "faults": 60, "kills": 60}
SHARE = {"damage": 0.4, "faults": 0.3, "kills": 0.3}  # of the time


@dataclass
class Tally:
    """What was done and what was found. Every fault keeps the line that repeats it."""

    counts: Counter[str] = field(default_factory=Counter)
    found: list[str] = field(default_factory=list)
    peak: int = 0

    def take(self, what: str, seed: int, text: str, ended: int, errors: str) -> None:
        at = None
        for line in text.splitlines():
            try:
                told = json.loads(line)
            except ValueError:
                continue
            at = told.get("at", at)
            if "done" in told:
                self.counts[f"{what} done"] += told["done"]
                self.counts["injected"] += told.get("faults", 0)
                self.counts["passing"] += told.get("passing", 0)
                self.counts["stopped though it passed"] += told.get("stopped_though_it_passed", 0)
                self.peak = max(self.peak, told.get("peak_mb", 0))
            if "wrong" in told:
                self._count(told["wrong"])
                self.found.append(f"{what} {told['seed']} {told['number']}: {told['case']}: {told['wrong'][:300]}")
        if ended != 0:
            self.counts["crashes"] += 1
            self.found.append(f"{what} {seed} {at}: the process ended with {ended}: {errors[-300:]}")

    def _count(self, wrong: str) -> None:
        kinds = {
            "flushed frames are lost": "lost frames", "gone after": "lost frames", "lost frames": "lost frames", "cut off": "lost frames",
            "verify finds nothing": "unreported losses", "is not what": "wrong values", "never was": "wrong values", "scalar": "wrong values",
            "their order": "wrong values", "RAW": "raw exceptions", "raw:": "raw exceptions", "HANG": "hangs", "takes more": "hangs", "MemoryError": "hangs",
        }  # fmt: skip
        self.counts[next((kind for words, kind in kinds.items() if words in wrong), "other faults")] += 1
        self.counts["killed trainings"] += wrong.startswith("RAW") and "recorder.py" in wrong


def run(minutes: float, workers: int) -> Tally:
    tally, lock = Tally(), threading.Lock()
    end = time.monotonic() + 60 * minutes
    spent = dict.fromkeys(BATCH, 0.0)
    seeds = iter(range(1, 1 << 30))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

    def work() -> None:
        while (left := end - time.monotonic()) > 2:
            with lock:
                what = min(BATCH, key=lambda name: spent[name] / SHARE[name])
                spent[what] += 0.1  # so that the next worker takes something else
                seed = next(seeds)
            words = [str(seed), *(["0"] if what != "kills" else []), str(BATCH[what]), str(int(max(left, 5)))]
            begun = time.monotonic()
            child = subprocess.Popen([sys.executable, "-m", f"tests.torture.{what}", *words], cwd=ROOT, env=environment, text=True,
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
            try:
                out, err = child.communicate(timeout=max(left, 5) + 60)
                ended = child.returncode
            except subprocess.TimeoutExpired:
                child.kill()
                out, err = child.communicate()
                ended = -99
            with lock:
                before = len(tally.found)
                spent[what] += time.monotonic() - begun
                tally.take(what, seed, out, ended, err)
            for line in tally.found[before:]:
                print(line, file=sys.stderr)
            print(
                f"{time.strftime('%H:%M:%S')} {what} {seed}: {len(tally.found)} faults so far",
                file=sys.stderr,
                flush=True,
            )

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally


ROWS = [
    "wrong values",
    "lost frames",
    "unreported losses",
    "killed trainings",
    "raw exceptions",
    "hangs",
    "crashes",
    "other faults",
]


def table(tally: Tally, minutes: float) -> str:
    c = tally.counts
    lines = [
        "# Torture",
        "",
        f"`make torture MINUTES={minutes:g}` on {os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}.",
        "",
        "| | |",
        "|---|---|",
        f"| damaged recordings | {c['damage done']:,} |",
        f"| trainings on a failing disk | {c['faults done']:,} |",
        f"| calls that failed there | {c['injected']:,} |",
        f"| kills | {c['kills done']:,} |",
        *(f"| {row} | {c[row]:,} |" for row in ROWS),
        f"| recordings that ended although the fault was one that passes | {c['stopped though it passed']:,} of {c['passing']:,} |",
        f"| most memory of a process that reads damage | {tally.peak} MB |",
        "",
    ]
    if tally.found:
        lines += [
            "Found (each line begins with what repeats it: `python -m tests.torture.WHAT SEED NUMBER 1`):",
            "",
            *(f"- {line}" for line in tally.found[:200]),
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    tally = run(minutes, max(1, os.cpu_count() or 1))
    text = table(tally, minutes)
    print(text)
    if minutes >= 1:
        RESULT.write_text(text, encoding="utf-8")
    done = [tally.counts[f"{what} done"] for what in BATCH]
    if min(done) == 0:
        sys.exit(f"nothing was tried of {[what for what, n in zip(BATCH, done) if n == 0]}: that is no pass")
    sys.exit(1 if tally.found else 0)


if __name__ == "__main__":
    main()

"""Are Keras networks understood on every backend: traced and verified, permuted exactly, planted permutations found, grown exactly or refused by name?

Every network of tests/keras_zoo.py (and keras.applications from their configurations, without weights) on TensorFlow, JAX and torch,
each backend in a process of its own. Permuted: a network with random numbers in all weights, gains and statistics against itself with all
groups in another order, run by its own framework in float32; relative to the spread of the outputs. Found: the distance that is left when
`wl.align` brings the permuted network back. Grown: every group with three more units (twice as many under a norm), compared in float64.

    python bench/keras_zoo.py [--backends tensorflow jax torch] [--networks NAME ...]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
BACKENDS = ("tensorflow", "jax", "torch")


def one_backend(names: list[str]) -> None:
    """One line of JSON for each network, on the backend of this process."""
    sys.path.insert(0, str(HERE.parent))
    from tests.keras_zoo import APPLICATIONS, SIZES, ZOO, check

    for name in names or [*ZOO, *APPLICATIONS]:
        began = time.process_time()
        try:
            found = check(
                name,
                ZOO.get(name) or APPLICATIONS[name],
                grow=99 if name in ZOO else 2,
                share=1.0 if name in ZOO else 0.1,
            )
            row = {
                "groups": len(found.sizes),
                "right": name not in ZOO or found.sizes == SIZES[name],
                "permuted": found.permuted,
                "found": found.aligned,
                "grown": len(found.grown),
                "error": max(found.grown.values(), default=0.0),
                "refused": found.refused,
            }
        except Exception as error:  # noqa: BLE001  what fails is a row of the table
            row = {"failed": f"{type(error).__name__}: {str(error)[:200]}"}
        print(json.dumps({"name": name, "seconds": time.process_time() - began} | row), flush=True)


def table(rows: dict[str, dict[str, dict]], backends: list[str]) -> list[str]:
    """One row for each network, the worst over the backends."""
    lines = [
        "| network | backends | groups | permuted | found | grown exactly | largest error | refused by name | CPU s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, by in rows.items():
        good = [r for r in by.values() if "failed" not in r]
        ran = ", ".join(b for b in backends if b in by and "failed" not in by[b] and by[b]["right"])
        if good:
            worst = {k: max(r[k] for r in good) for k in ("permuted", "found", "error")}
            cells = [
                good[0]["groups"],
                f"{worst['permuted']:.0e}",
                f"{worst['found']:.0e}",
                "/".join(sorted({str(r["grown"]) for r in good})),
                f"{worst['error']:.0e}" if any(r["grown"] for r in good) else "–",
                "/".join(sorted({str(len(r["refused"])) for r in good})),
                "/".join(f"{r['seconds']:.0f}" for r in good),
            ]
            lines.append(f"| {name} | {ran} | " + " | ".join(map(str, cells)) + " |")
        lines += [f"| {name} | {b} failed: {r['failed']} | | | | | | | |" for b, r in by.items() if "failed" in r]
    return lines


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--backends", nargs="+", default=list(BACKENDS), choices=BACKENDS)
    asked.add_argument("--networks", nargs="+", default=[])
    asked.add_argument("--here", action="store_true", help="run on the backend of this process and print JSON")
    given = asked.parse_args()
    if given.here:
        one_backend(given.networks)
        return
    rows: dict[str, dict[str, dict]] = {}
    for backend in given.backends:
        command = [sys.executable, __file__, "--here", *(["--networks", *given.networks] if given.networks else [])]
        done = subprocess.run(
            command,
            env=os.environ
            | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        for line in done.stdout.splitlines():
            if line.startswith("{"):
                row = json.loads(line)
                rows.setdefault(row.pop("name"), {})[backend] = row
    write(rows, given.backends)
    if any("failed" in r or not r["right"] for by in rows.values() for r in by.values()):
        sys.exit("a network failed, or has other groups than it must have")


def write(rows: dict[str, dict[str, dict]], backends: list[str]) -> None:
    import keras

    reasons = sorted(
        {f"- {name}: {why}" for name, by in rows.items() for r in by.values() for why in r.get("refused", {}).values()}
    )
    text = [
        "# Keras networks on three backends",
        "",
        " ".join(__doc__.split("\n\n")[1].split()),
        "",
        *table(rows, backends),
        "",
        "Refused, in the words of the refusal:",
        "",
        *reasons,
        "",
        f"Keras {keras.__version__}, {platform.machine()}, Python {platform.python_version()}; CPU seconds in the order of the backends.",
    ]
    (HERE / "results" / "keras_zoo.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main()

"""Run every bench and gather their tables in bench/RESULTS.md. Each bench also runs alone and writes its own table to bench/results/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def gather() -> None:
    """bench/RESULTS.md from the tables in bench/results."""
    parts = ["# What it costs, beside its peers", ""]
    parts += [
        "Every table was measured in one run beside the peers it names; ratios and medians are what to read, absolute times belong to the machine they name.",
        "",
    ]
    parts += ["`make bench` measures everything again; `python bench/NAME.py` one question.", ""]
    for table in sorted((HERE / "results").glob("*.md")):
        parts += [table.read_text(encoding="utf-8").strip().replace("\n# ", "\n## "), ""]
    (HERE / "RESULTS.md").write_text("\n".join(parts).replace("\n# ", "\n## ") + "\n", encoding="utf-8")


def main() -> None:
    failed = []
    if "--gather" not in sys.argv:
        for bench in sorted(HERE.glob("*.py")):
            if bench.name not in {"run_all.py", "check.py", "__init__.py"} and "def main" in bench.read_text(
                encoding="utf-8"
            ):
                print(f"== {bench.stem}", file=sys.stderr)
                if subprocess.run([sys.executable, str(bench)], check=False).returncode:
                    failed.append(bench.stem)
    gather()
    if failed:
        sys.exit(f"these benches failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

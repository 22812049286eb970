"""Frameworks are optional: a test of an absent one is skipped by name, or fails where WEIGHTLAPSE_REQUIRE_FRAMEWORKS=1 says they must be there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

# What takes the time of a small network in JAX is to compile it: hardly optimised, and what another program has compiled is taken as it is.
QUICK = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": "--xla_backend_optimization_level=0",
    "JAX_COMPILATION_CACHE_DIR": str(Path(tempfile.gettempdir()) / f"weightlapse-tests-{os.getuid()}" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}  # fmt: skip


def require(*modules: str) -> None:
    """Skip (or fail) the calling module unless all of these can be imported."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            if os.environ.get("WEIGHTLAPSE_REQUIRE_FRAMEWORKS") == "1":
                pytest.fail(
                    f"{module} is not installed, and WEIGHTLAPSE_REQUIRE_FRAMEWORKS=1 says that it must be",
                    pytrace=False,
                )
            pytest.skip(f"{module} is not installed", allow_module_level=True)


def run_program(name: str, *arguments: str | Path, **environment: str) -> str:
    """Run tests/programs/NAME in a process of its own (heavy frameworks do not share one well); returns what it printed."""
    program = Path(__file__).parent / "programs" / name
    settings = {
        **os.environ,
        "WEIGHTLAPSE_STRICT": "0",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
        **QUICK,
        **environment,
    }
    done = subprocess.run(
        [sys.executable, str(program), *map(str, arguments)], env=settings, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{name} {arguments} failed:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done.stdout


def run_programs(names: Sequence[str], folder: Path, **environment: str) -> str:
    """The same for several programs that share a process, and so the import of their framework; each has a folder of its own in ``folder``."""
    said = run_program("one_after_the_other.py", folder, *names, **environment)
    assert [name for name in names if f"done: {name}\n" not in said] == []
    return said

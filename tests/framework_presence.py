"""Frameworks are optional: a test of an absent one is skipped by name, or fails where WEIGHTLAPSE_REQUIRE_FRAMEWORKS=1 says they must be there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest


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
        **environment,
    }
    done = subprocess.run(
        [sys.executable, str(program), *map(str, arguments)], env=settings, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, f"{name} {arguments} failed:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done.stdout

"""JAX: pytrees, Equinox and Flax NNX, with donated buffers; plans; networks that are traced, aligned and grown. What is checked is in tests/programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.framework_presence import require, run_programs

PROGRAMS = ["jax_steps", "jax_networks", "jax_growth", "plan_jax"]


@pytest.mark.slow
def test_jax(tmp_path: Path) -> None:
    require("jax", "flax", "equinox", "optax")
    said = run_programs(PROGRAMS, tmp_path)
    assert said.count("checked") == len(PROGRAMS)

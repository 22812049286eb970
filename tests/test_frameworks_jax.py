"""JAX: pytrees, Equinox and Flax NNX, with donated buffers. What is checked is in tests/programs/jax_steps.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.framework_presence import require, run_program


@pytest.mark.slow
def test_jax_steps(tmp_path: Path) -> None:
    require("jax", "flax", "equinox", "optax")
    assert "checked" in run_program("jax_steps.py", tmp_path)

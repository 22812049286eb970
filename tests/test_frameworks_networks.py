"""Networks of Keras (three backends) and JAX: traced, aligned, compared, grown and lifted. What is checked is in tests/programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.framework_presence import require, run_program

NEEDS = {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}


@pytest.mark.slow
@pytest.mark.parametrize("backend", NEEDS)
def test_keras_networks(tmp_path: Path, backend: str) -> None:
    require("keras", NEEDS[backend])
    assert f"checked on {backend}" in run_program("keras_networks.py", tmp_path, KERAS_BACKEND=backend)


@pytest.mark.slow
def test_jax_networks(tmp_path: Path) -> None:
    require("jax", "flax", "equinox", "optax")
    assert "checked networks of JAX" in run_program("jax_networks.py", tmp_path)

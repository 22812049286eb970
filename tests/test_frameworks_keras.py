"""Keras 3 on TensorFlow, JAX and torch: recordings equal what a callback written by hand sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.framework_presence import require, run_program

NEEDS = {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}


@pytest.mark.slow
@pytest.mark.parametrize("backend", NEEDS)
def test_fit(tmp_path: Path, backend: str) -> None:
    require("keras", NEEDS[backend])
    assert f"checked on {backend}" in run_program("keras_fit.py", tmp_path, KERAS_BACKEND=backend)


@pytest.mark.slow
@pytest.mark.parametrize("backend", NEEDS)
def test_loops_of_their_own(tmp_path: Path, backend: str) -> None:
    require("keras", NEEDS[backend])
    assert f"checked on {backend}" in run_program("keras_loops.py", tmp_path, KERAS_BACKEND=backend)

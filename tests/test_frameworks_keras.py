"""Keras 3 on TensorFlow, JAX and torch. What is checked is in tests/programs: recordings equal what a callback written by hand sees; loops of their own; copies
of a callback; plans; networks that are traced, aligned, compared, grown and lifted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.framework_presence import require, run_programs

PROGRAMS = ["keras_fit", "keras_loops", "keras_copies", "keras_networks", "plan_keras"]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_keras(tmp_path: Path, backend: str) -> None:
    require("keras", backend)
    said = run_programs(PROGRAMS, tmp_path, KERAS_BACKEND=backend)
    assert said.count(f"checked on {backend}") == len(PROGRAMS)

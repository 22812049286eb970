"""Hugging Face's Trainer on a tiny tied transformer. What is checked is in tests/programs/transformers_train.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.framework_presence import require, run_program


@pytest.mark.slow
def test_transformers_train(tmp_path: Path) -> None:
    require("transformers", "accelerate", "torch")
    # what older ones need beside newer others: to leave TensorFlow alone, and to read their own random states
    assert "checked" in run_program("transformers_train.py", tmp_path, USE_TF="0", TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1")

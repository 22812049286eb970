"""Lightning's Trainer: accumulation, two optimizers, resumed and failing fits. What is checked is in tests/programs/lightning_fit.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.framework_presence import require, run_program


@pytest.mark.slow
def test_lightning_fit(tmp_path: Path) -> None:
    require("lightning", "torch")
    assert "checked" in run_program("lightning_fit.py", tmp_path)

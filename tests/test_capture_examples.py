"""The examples in the docstrings of recording and reading run and say what they promise."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = [
    "adapters.arrays", "adapters.checkpoints", "adapters.iteration", "adapters.several", "capture.findings", "capture.imports",
    "capture.numbering", "capture.plain", "capture.schedule", "capture.watch", "recording.names", "recording.polar", "recording.track",
    "store.layout", "store.lines", "store.region", "store.small_floats",
]  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = importlib.import_module(f"weightlapse.{name}")
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0

"""One thread for every library while tests run side by side, and recorders that raise instead of warning."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WEIGHTLAPSE_STRICT", "1")
# hundreds of processes are started here: the sources are compiled once, not by each of them
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# how fast a machine is, or how busy, fails no test
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """What is imported lives to the end: no search for garbage while it grows, and none of the later ones goes through it again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(10_000, 20, 50)
        gc.enable()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for the tests of one file."""
    from tests.browser import chromium

    with chromium() as browser:
        yield browser

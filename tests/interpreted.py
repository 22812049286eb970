"""Compiled modules as Python runs them: there a read beyond an array is an IndexError, and a change costs no compiling."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest
from numba import config

KERNELS = "weightlapse.store.codecs.decode_kernels"
PASSES = "weightlapse.store.codecs.kernels"


def interpreted(name: str) -> ModuleType:
    """A second copy of a module, whose compiled functions are plain ones that call each other."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = config.DISABLE_JIT
    config.DISABLE_JIT = 1
    try:
        spec.loader.exec_module(module)
    finally:
        config.DISABLE_JIT = before
    return module


def uncompiled(patch: pytest.MonkeyPatch) -> ModuleType:
    """Put the plain functions of the decoder's kernels where the compiled ones are called from."""
    plain = interpreted(KERNELS)
    for name in ("inverse", "unpack", "straight"):
        user = importlib.import_module(f"weightlapse.store.codecs.{name}")
        for own in vars(plain):
            if callable(getattr(plain, own)) and hasattr(vars(user).get(own), "py_func"):
                patch.setattr(user, own, getattr(plain, own))
    return plain

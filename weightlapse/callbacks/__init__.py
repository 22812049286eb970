"""Callbacks for trainers, each in the module of its framework: ``wl.callbacks.keras.WatchCallback``, ``.lightning``, ``.transformers``, ``.skorch``.

A module is imported when it is first named, so that no framework is loaded that nobody uses.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import weightlapse.callbacks.keras as keras
    import weightlapse.callbacks.lightning as lightning
    import weightlapse.callbacks.skorch as skorch
    import weightlapse.callbacks.transformers as transformers

__all__ = ["keras", "lightning", "skorch", "transformers"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(
                f"module 'weightlapse.callbacks' has no attribute {name!r}; it has {', '.join(__all__)}"
            )
        return importlib.import_module(f"weightlapse.callbacks.{name}")

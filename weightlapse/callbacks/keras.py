"""The callback for Keras."""

from weightlapse.adapters.keras import WatchCallback as WatchCallback

__all__ = ["WatchCallback"]

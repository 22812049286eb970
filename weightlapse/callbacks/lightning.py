"""The callback for Lightning."""

from weightlapse.adapters.lightning import WatchCallback as WatchCallback

__all__ = ["WatchCallback"]

"""The callback for skorch."""

from weightlapse.adapters.skorch import WatchCallback as WatchCallback

__all__ = ["WatchCallback"]

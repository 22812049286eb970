"""The callback for the Trainer of Transformers."""

from weightlapse.adapters.transformers import WatchCallback as WatchCallback

__all__ = ["WatchCallback"]

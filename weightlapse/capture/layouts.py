"""From what a model holds to the layout of its frames, and what changed between two layouts."""

from __future__ import annotations

from collections.abc import Sequence

from weightlapse.adapters.source import ArrayInfo
from weightlapse.store.layout import Layout, TensorSpec


def layout_of(arrays: Sequence[ArrayInfo]) -> Layout:
    return Layout(TensorSpec(a.name, a.dtype, a.shape, a.stream, a.aliases) for a in arrays)


def difference(before: dict[str, TensorSpec], after: dict[str, TensorSpec]) -> str:
    """What changed between two layouts, in words."""
    new = [n for n in after if n not in before]
    gone = [n for n in before if n not in after]
    changed = [
        f"{n} {before[n].dtype}{list(before[n].shape)} -> {after[n].dtype}{list(after[n].shape)}"
        for n in after
        if n in before and (before[n].shape, before[n].dtype) != (after[n].shape, after[n].dtype)
    ]
    parts = [("appeared", new), ("disappeared", gone), ("changed", changed)]
    said = [f"{verb}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" for verb, names in parts if names]
    return "layout changed (" + ("; ".join(said) or "order or names of tied tensors") + ")"

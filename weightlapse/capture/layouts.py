"""From what a model holds to the layout of its frames, and what changed between two layouts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weightlapse.adapters.rows import Rows
from weightlapse.adapters.source import ArrayInfo
from weightlapse.errors import InvalidArgument
from weightlapse.store.layout import MAX_NAME, Layout, TensorSpec


def layout_of(arrays: Sequence[ArrayInfo]) -> Layout:
    """The layout of frames of these arrays; :class:`InvalidArgument` for a name that could not be read again."""
    for array in arrays:
        for name in (array.name, *array.aliases):
            if not name or len(name) > MAX_NAME or "\0" in name:
                problem = (
                    "is empty"
                    if not name
                    else f"has {len(name)} characters"
                    if len(name) > MAX_NAME
                    else "holds a zero byte"
                )
                raise InvalidArgument(
                    f"the name {name[:40]!r} of a tensor of shape {list(array.shape)} {problem}: a recording names each tensor with 1 to {MAX_NAME} "
                    "characters; rename it in the model or mapping"
                )
    return Layout(TensorSpec(a.name, a.dtype, a.shape, a.stream, a.aliases) for a in arrays)


def rows_of(layout: Layout, memory: NDArray[np.uint8]) -> Rows:
    """Rows of this layout in ``memory`` (capacity, row_nbytes), for a source to fill."""
    tensors = layout.tensors
    return Rows(memory, layout.offsets, [t.storage for t in tensors], [t.shape for t in tensors])


def difference(old: Sequence[TensorSpec], new_ones: Sequence[TensorSpec]) -> str:
    """What changed between the tensors of two layouts, in words."""
    before, after = {t.name: t for t in old}, {t.name: t for t in new_ones}
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

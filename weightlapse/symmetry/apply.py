"""``wl.permute``: reorder the units of one group; the network computes the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import ArrayLike

from weightlapse.arguments import renamed
from weightlapse.wiring.apply import permute_state
from weightlapse.wiring.data import Wiring


@renamed("0.3", w="wiring", group_name="group", perm="order")
def permute(state: Mapping[str, Any], wiring: Wiring, group: str, order: ArrayLike) -> dict[str, Any]:
    """A new state dict in which unit u of the group is the old unit ``order[u]``.

    ``state`` maps names to NumPy arrays or torch tensors and is left as it is; values that the group does not touch are
    shared. ``order`` holds each of 0 .. size-1 once. Tied tensors are permuted under all their names.

    Raises UnknownTensor (no such group, or a tensor of the group missing from ``state``) and InvalidArgument (not a
    permutation, or shapes that the wiring was not found for).

    >>> import numpy as np, weightlapse as wl
    >>> w = wl.Wiring.from_spec('''
    ... tensor a.weight (3, 2)
    ... tensor b.weight (1, 3)
    ... group a: 3 units, permutation
    ...   a.weight[0]: out
    ...   b.weight[1]: in
    ... ''')
    >>> state = {"a.weight": np.arange(6.0).reshape(3, 2), "b.weight": np.array([[10.0, 20.0, 30.0]])}
    >>> wl.permute(state, w, "a", [2, 0, 1])["b.weight"].tolist()
    [[30.0, 10.0, 20.0]]
    """
    return permute_state(state, wiring, group, order)

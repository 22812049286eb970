"""What a search ends with: an element of the symmetry group, and how near it brings b to a."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from weightlapse.symmetry.elements import Elements


@dataclass(frozen=True)
class Candidate:
    """``distance``: relative, over the wired tensors; ``method``: the search, and the start that led there.

    ``moved``: b's state there, where the search has made it already. ``plain``: nothing was found but what weight matching finds too, and to the
    last bit. ``notes``: what was not searched, and why.
    """

    elements: Elements
    distance: float
    method: str
    moved: Mapping[str, Any] | None = field(default=None, repr=False)
    plain: bool = False
    notes: tuple[str, ...] = ()

"""What growing returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.growth.certificate import Certificate

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False)
class Growth:
    """A grown (or narrowed) network, and how it descends from the old one.

    ``lineage[group]`` is an int64 array: the parent, in the old network, of each unit of the new one. ``parts[group]`` is the
    share of the parent's outgoing weights that each unit carries. ``origin`` maps every tensor of the new network to the name
    of the tensor that it came from, None for a new one. ``error`` is the largest relative difference between the two networks
    that the certificate measured, in float64. ``optimizer`` is the new optimizer, None when none was given.
    """

    model: nn.Module
    optimizer: Any
    lineage: Mapping[str, NDArray[np.int64]]
    certificate: Certificate
    parts: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    origin: Mapping[str, str | None] = field(default_factory=dict)
    note: str = ""

    @property
    def error(self) -> float:
        """The largest relative difference of outputs between the old and the new network, measured in float64."""
        return self.certificate.error

    def __repr__(self) -> str:
        old, new = self.certificate.parameters
        return f"<Growth: {self.note}; {old:,} -> {new:,} parameters, error {self.error:.1e}>"

    def __str__(self) -> str:
        return f"{self.note}\n{self.certificate}"

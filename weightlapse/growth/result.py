"""What growing returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic

import numpy as np
from numpy.typing import NDArray

from weightlapse.growth.certificate import Certificate

if TYPE_CHECKING:  # checkers know defaults of type variables; Python does from 3.13 on
    from typing_extensions import TypeVar

    Model = TypeVar("Model", default=Any)
else:
    from typing import TypeVar

    Model = TypeVar("Model")


@dataclass(frozen=True, eq=False)
class Growth(Generic[Model]):
    """A grown (or narrowed) network, and how it descends from the old one.

    ``model`` is of the type of the network that was given (a torch module, a Keras model, a Flax or Equinox module); of one in a wrapper (compiled, data
    parallel) it is the one within.

    ``lineage[group]`` is an int64 array: the parent, in the old network, of each unit of the new one. ``parts[group]`` is the
    share of the parent's outgoing weights that each unit carries. ``origin`` maps every tensor of the new network to the name
    of the tensor that it came from, None for a new one. ``error`` is the largest relative difference between the two networks
    that the certificate measured, in float64. ``optimizer`` is the new optimizer, None when none was given.
    """

    model: Model
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

"""scikit-learn: networks and linear models that keep their weights in ``coefs_`` / ``intercepts_`` or ``coef_`` / ``intercept_``.

They have no hooks: watch the estimator after its first ``partial_fit`` (before, it has no weights) and call ``rec.step()`` after each further one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.adapters.arrays import ArraySource, Entry, flatten
from weightlapse.adapters.source import Selection
from weightlapse.errors import CannotRecord, InvalidArgument, closest

_WEIGHTS = ("coefs_", "intercepts_", "coef_", "intercept_")


class SklearnSource(ArraySource):
    """An estimator; its arrays are named "coefs_.0", "intercepts_.0", ... or "coef_", "intercept_"."""

    framework = "sklearn"
    takes_params = False

    def __init__(self, model: Any, selection: Selection) -> None:
        super().__init__(selection)
        self._model = model

    def entries(self, params: Any) -> list[Entry]:
        return [(name, "weights", value) for name, value in _weights(self._model).items()]


def _weights(model: Any) -> dict[str, Any]:
    held = {name: getattr(model, name) for name in _WEIGHTS if hasattr(model, name)}
    if not held:
        raise CannotRecord(
            f"{type(model).__name__} has no weights (none of {', '.join(_WEIGHTS)}): "
            "watch it after its first partial_fit, and only estimators that learn weights"
        )
    return flatten(held)


def load(model: Any, state: Mapping[str, NDArray[Any]]) -> None:
    """Put ``state`` into the estimator's arrays, in place; nothing is changed when one does not fit."""
    held = _weights(model)
    for name, values in state.items():
        if name not in held:
            raise InvalidArgument(f"the estimator has no array {name!r} to load into; {closest(name, held)}")
        if np.shape(held[name]) != values.shape:
            raise InvalidArgument(
                f"{name} has shape {values.shape} in the recording and {np.shape(held[name])} in the estimator"
            )
    for name, values in state.items():
        held[name][...] = values

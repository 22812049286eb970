"""scikit-learn: networks and linear models that keep their weights in ``coefs_`` / ``intercepts_`` or ``coef_`` / ``intercept_``.

Their iterations are followed inside of ``fit`` (see ``sklearn_steps.py``). Of a pipeline the last step counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.adapters.arrays import Entry, EntrySource, flatten
from weightlapse.adapters.source import Selection
from weightlapse.errors import CannotRecord, InvalidArgument, closest

_WEIGHTS = ("coefs_", "intercepts_", "coef_", "intercept_")

# the weights at the iteration that is being told of, where the estimator does not hold them
GIVEN: ContextVar[Mapping[str, Any] | None] = ContextVar("weights of an estimator", default=None)


class SklearnSource(EntrySource):
    """An estimator; its arrays are named "coefs_.0", "intercepts_.0", ... or "coef_", "intercept_"."""

    framework = "sklearn"
    takes_params = False

    def __init__(self, model: Any, selection: Selection) -> None:
        super().__init__(selection)
        self._model = final(model)

    def entries(self, params: Any) -> list[Entry]:
        """(name, "weights", array): the arrays given, those of an iteration inside of ``fit``, or those that the estimator holds."""
        given = params if params is not None else GIVEN.get()
        return [(name, "weights", value) for name, value in (given or weights_of(self._model)).items()]


def final(model: Any) -> Any:
    """The estimator that holds the weights: of a pipeline its last step."""
    while hasattr(model, "steps") and hasattr(model, "_final_estimator"):
        model = model._final_estimator
    return model


def has_weights(model: Any) -> bool:
    """Whether an estimator was fitted in part already, so that there is something to record."""
    return any(hasattr(model, name) for name in _WEIGHTS)


def weights_of(model: Any) -> dict[str, Any]:
    """The estimator's arrays by name. Raises :class:`CannotRecord` where it has none (yet)."""
    held = {name: getattr(model, name) for name in _WEIGHTS if hasattr(model, name)}
    if not held:
        raise CannotRecord(
            f"{type(model).__name__} has no weights (none of {', '.join(_WEIGHTS)}), and does not show the iterations of a fit: "
            "watch it after its first fit or partial_fit, and only estimators that learn weights"
        )
    return flatten(held)


def load(model: Any, state: Mapping[str, NDArray[Any]]) -> None:
    """Put ``state`` into the estimator's arrays, in place; nothing is changed when one does not fit."""
    held = weights_of(final(model))
    for name, values in state.items():
        if name not in held:
            raise InvalidArgument(f"the estimator has no array {name!r} to load into; {closest(name, held)}")
        if np.shape(held[name]) != values.shape:
            raise InvalidArgument(
                f"{name} has shape {values.shape} in the recording and {np.shape(held[name])} in the estimator"
            )
    for name, values in state.items():
        held[name][...] = values

"""The optimizer of a Keras model comes along: its moments as `weightlapse.growth.optimizer` derives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import CannotGrow, InvalidArgument
from weightlapse.wiring.programs.keras_models import named_variables

# attribute that holds one variable for each trained one -> power of the gradient that it averages (0: its scale cancels)
MOMENTS: dict[str, dict[str, float]] = {
    "Adam": {"_momentums": 1, "_velocities": 2, "_velocity_hats": 2},
    "AdamW": {"_momentums": 1, "_velocities": 2, "_velocity_hats": 2},
    "SGD": {"momentums": 1},
    "RMSprop": {"_velocities": 2, "_momentums": 0, "_average_gradients": 1},
    "Adagrad": {"_accumulators": 2},
}
Moment = Callable[[str, float, NDArray[Any]], NDArray[Any]]  # name of the weight, power, old value -> new value


def powers_of(optimizer: Any) -> dict[str, float]:
    """The moments of ``optimizer``; CannotGrow for one whose state has no known rule."""
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise InvalidArgument(
            f"optimizer must be a keras.optimizers.Optimizer for a Keras model, got {type(optimizer).__name__}"
        )
    kind = type(optimizer).__name__
    if kind not in MOMENTS:
        raise CannotGrow(
            f"the state of {kind} has no known exact rule (known: {', '.join(MOMENTS)}); compile the model with one of these, or grow a copy that is "
            "not compiled and make a new optimizer"
        )
    return MOMENTS[kind]


def carried(optimizer: Any, old: Any, new: Any, moment: Moment, origin: dict[str, str | None], into: Any = None) -> Any:
    """``into`` (or a new optimizer of the same kind and options) for the model ``new``, with the moments of ``optimizer``.

    ``origin`` maps the names of new weights to old ones; weights without one start with moments of zero.
    """
    powers = powers_of(optimizer)
    target = into if into is not None else type(optimizer).from_config(optimizer.get_config())
    if not optimizer.built:
        return target
    if not target.built:
        target.build(new.trainable_variables)
    names = {id(v): n for n, v in named_variables(old)}
    mine = {names[id(v)]: i for i, v in enumerate(old.trainable_variables)}
    fresh = {id(v): n for n, v in named_variables(new)}
    target.iterations.assign(optimizer.iterations)
    if hasattr(optimizer._learning_rate, "assign"):
        target.learning_rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
    for attribute, power in powers.items():
        olds, news = getattr(optimizer, attribute, None), getattr(target, attribute, None)
        if not olds or not news:
            continue
        for i, v in enumerate(new.trainable_variables):
            name = origin.get(fresh[id(v)])
            if name is None or name not in mine:
                continue
            was = np.asarray(keras.ops.convert_to_numpy(olds[mine[name]].value))
            news[i].assign(moment(name, power, was).astype(was.dtype))
    return target

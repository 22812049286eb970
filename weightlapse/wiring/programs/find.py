"""Which networks of other frameworks can be run as programs. Only frameworks that the program has already imported are looked at."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weightlapse.wiring.programs.program import Program


def is_foreign(model: Any) -> bool:
    """Whether ``model`` is a network of Keras or JAX that can be called; imports nothing."""
    if is_keras(model):
        return True
    if "jax" not in sys.modules or not (callable(model) or isinstance(model, functools.partial)):
        return False
    from weightlapse.wiring.programs.jax_models import is_jax_model

    return is_jax_model(model)


def is_keras(model: Any) -> bool:
    """Whether ``model`` is a Keras model, on whatever backend."""
    kind = getattr(sys.modules.get("keras"), "Model", None)
    return kind is not None and isinstance(model, kind)


def program_of(model: Any) -> Program:
    """A network of another framework as a torch module (see `is_foreign`)."""
    if is_keras(model):
        from weightlapse.wiring.programs.keras_models import keras_program

        return keras_program(model)
    from weightlapse.wiring.programs.jax_models import jax_program

    return jax_program(model)

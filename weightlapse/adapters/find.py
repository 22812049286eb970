"""Which adapter a model needs. Only frameworks that the program has already imported are looked at."""

from __future__ import annotations

import sys
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from numpy.typing import NDArray

from weightlapse.adapters.arrays import ArraySource, load_mapping
from weightlapse.adapters.checkpoints import Checkpoint, CheckpointSource
from weightlapse.adapters.source import Selection, Source, Steps
from weightlapse.errors import InvalidArgument


def _is(model: Any, module: str, name: str) -> bool:
    """``isinstance(model, module.name)`` without importing ``module``: a model of it can only be there when it has been imported."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(model, kind)


def find_steps(model: Any, optimizers: Sequence[Any]) -> Steps:
    """What tells of the updates that ``optimizers`` make; :class:`InvalidArgument` for what cannot be one."""
    if _is(model, "torch.nn", "Module") and not _is(model, "keras", "Model"):
        from weightlapse.adapters.torch_steps import TorchSteps

        return TorchSteps(list(optimizers))
    raise InvalidArgument("optimizer= is for torch modules; with other models call rec.step() after each update")


def find_source(model: Any, selection: Selection, optimizers: Sequence[Any] = (), rank: int = 0) -> Source:
    """The adapter for ``model``; :class:`InvalidArgument` names what can be watched when there is none.

    ``rank`` is that of this process, where several hold shards of the model.
    """
    keras_model = _is(model, "keras", "Model")  # asked first: on the torch backend it is a torch module too
    if _is(model, "torch.nn", "Module") and not keras_model:
        from weightlapse.adapters.torch import TorchSource

        return TorchSource(model, selection, optimizers, rank)
    if keras_model:
        from weightlapse.adapters.keras import KerasSource

        return KerasSource(model, selection)
    if _is(model, "sklearn.base", "BaseEstimator"):
        from weightlapse.adapters.sklearn import SklearnSource

        return SklearnSource(model, selection)
    if "jax" in sys.modules:
        from weightlapse.adapters.jax import JaxSource, NnxSource, is_nnx, is_pytree

        if is_nnx(model):
            return NnxSource(model, selection)
        if is_pytree(model):
            return JaxSource(selection)
    if isinstance(model, Checkpoint):
        return CheckpointSource(selection)
    if isinstance(model, Mapping):
        return ArraySource(selection)
    raise InvalidArgument(
        f"{type(model).__name__} cannot be watched: give a torch.nn.Module, a keras.Model, a JAX pytree, a scikit-learn network, "
        "or a mapping of names to arrays"
    )


def load_into(model: Any, state: Mapping[str, NDArray[Any]]) -> None:
    """Put named arrays back into ``model``, in place."""
    if _is(model, "keras", "Model"):
        import weightlapse.adapters.keras as keras

        keras.load(model, state)
    elif _is(model, "torch.nn", "Module"):
        import weightlapse.adapters.torch as torch

        torch.load(model, state)
    elif _is(model, "sklearn.base", "BaseEstimator"):
        import weightlapse.adapters.sklearn as sklearn

        sklearn.load(model, state)
    elif _is(model, "flax.nnx", "Module"):
        import weightlapse.adapters.jax as jax

        jax.load_nnx(model, state)
    elif isinstance(model, MutableMapping):
        load_mapping(model, state)
    else:
        raise InvalidArgument(
            f"weights cannot be put into {type(model).__name__}: use run.state(...) and the framework's own way"
        )

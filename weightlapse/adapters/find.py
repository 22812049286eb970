"""Which adapter a model needs. Only frameworks that the program has already imported are looked at."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

from numpy.typing import NDArray

from weightlapse.adapters.arrays import ArraySource, EntrySource, load_mapping, refuse_symbol
from weightlapse.adapters.checkpoints import Checkpoint, CheckpointSource
from weightlapse.adapters.iteration import Iteration
from weightlapse.adapters.several import SeveralSource, items_of, leaves, part_of
from weightlapse.adapters.source import Selection, Source, Steps
from weightlapse.errors import InvalidArgument


def _is(model: Any, module: str, name: str) -> bool:
    """``isinstance(model, module.name)`` without importing ``module``: a model of it can only be there when it has been imported."""
    kind: Any = sys.modules.get(module)
    for part in name.split("."):
        kind = getattr(kind, part, None)
    return kind is not None and isinstance(model, kind)


def _framework(model: Any) -> str | None:
    """The framework of a model that holds its weights itself, None for anything else."""
    if _is(model, "keras", "Model"):  # asked first: on the torch backend it is a torch module too
        return "keras"
    if _is(model, "torch.nn", "Module"):
        return "torch"
    if _is(model, "sklearn.base", "BaseEstimator"):
        return "sklearn"
    return "flax.nnx" if _is(model, "flax.nnx", "Module") else None


def _frameworks(model: Any) -> set[str]:
    """The frameworks of the models in a mapping or list, empty where it holds none."""
    if items_of(model) is None:
        return set()
    return {found for leaf in leaves(model).values() if (found := _framework(leaf)) is not None}


def _holds_torch(model: Any, *, followed: bool) -> bool:
    """Whether a mapping or list holds torch modules, or (with an optimizer that is followed) torch tensors."""
    parts = items_of(model)
    if not parts or "torch" not in sys.modules:
        return False
    found = leaves(model).values()
    modules = any(_framework(leaf) == "torch" for leaf in found)
    return modules or (followed and all(_is(leaf, "torch", "Tensor") for leaf in found))


def find_steps(model: Any, optimizers: Sequence[Any] | None, frame: str | None = None) -> Steps | None:
    """What tells of the updates that ``optimizers`` (or where None is given the model itself) make, None where nothing does.

    :class:`InvalidArgument` for what cannot be an optimizer of this model, and for a ``frame`` that has no meaning here.
    """
    if frame not in (None, "step", "iteration"):
        raise InvalidArgument(
            f"frame={frame!r}: 'step' makes every update a frame, 'iteration' one of all optimizers together"
        )
    framework = _framework(model) or next(iter(_frameworks(model)), None)
    if optimizers is None:
        if framework != "sklearn" or _framework(model) is None:
            return None
        from weightlapse.adapters.sklearn_steps import find_sklearn_steps

        return find_sklearn_steps(model, frame)
    if len({id(o) for o in optimizers}) < len(optimizers):
        raise InvalidArgument("optimizer= names one optimizer twice: give each once")
    if not optimizers:
        raise InvalidArgument(
            "optimizer=[] names none: leave it out and call rec.step(), or give the optimizer that your loop steps"
        )
    iteration = Iteration(len(optimizers)) if frame == "iteration" else None
    keras = [o for o in optimizers if _is(o, "keras", "optimizers.Optimizer")]  # Keras 3.5 has it under another module
    if keras and framework == "keras":
        if len(keras) < len(optimizers):
            raise InvalidArgument("optimizer= mixes optimizers of Keras and of torch: watch their models by themselves")
        from weightlapse.adapters.keras_steps import KerasSteps

        return KerasSteps(list(leaves(model).values()), keras, iteration)
    on_torch = framework == "torch" or (framework == "keras" and sys.modules["keras"].backend.backend() == "torch")
    if on_torch or _holds_torch(model, followed=True):
        from weightlapse.adapters.torch_steps import TorchSteps

        return TorchSteps(list(optimizers), iteration)
    if framework == "keras":
        raise InvalidArgument(
            f"optimizer={type(optimizers[0]).__name__}: a keras.optimizers.Optimizer is needed for a Keras model; with any other call rec.step() "
            "after each update"
        )
    raise InvalidArgument(
        "optimizer= is for torch modules and Keras models; with other models call rec.step() after each update"
    )


def find_source(
    model: Any, selection: Selection, optimizers: Sequence[Any] = (), rank: int = 0, *, followed: bool = False
) -> Source:
    """The adapter for ``model``; :class:`InvalidArgument` names what can be watched when there is none.

    ``rank`` is that of this process, where several hold shards of the model. ``followed``: whether optimizers tell of the updates.
    """
    framework = _framework(model)
    if framework == "torch" or _holds_torch(model, followed=followed):
        from weightlapse.adapters.torch import TorchSource

        return TorchSource(model, selection, optimizers, rank)
    if framework is not None and framework != "flax.nnx":
        return _own_source(framework, model, selection)
    if _frameworks(model):
        return SeveralSource(model, lambda name, leaf: _part_source(name, leaf, selection), selection)
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
    _refuse_graph(model)
    raise InvalidArgument(
        f"{type(model).__name__} cannot be watched: give a torch.nn.Module, a keras.Model, a JAX pytree, a scikit-learn network, "
        "or a mapping of names to arrays"
    )


def _part_source(name: str, model: Any, selection: Selection) -> EntrySource:
    """The adapter of one of several models."""
    framework = _framework(model)
    if framework is None or framework == "torch":
        raise InvalidArgument(
            f"{name!r} is a {type(model).__name__} among models: give models of one kind alone, or watch it by itself"
        )
    return _own_source(framework, model, selection)


def _own_source(framework: str, model: Any, selection: Selection) -> EntrySource:
    """The adapter of a model that holds its arrays itself, torch modules left aside."""
    if framework == "keras":
        from weightlapse.adapters.keras import KerasSource

        return KerasSource(model, selection)
    if framework == "sklearn":
        from weightlapse.adapters.sklearn import SklearnSource

        return SklearnSource(model, selection)
    from weightlapse.adapters.jax import NnxSource

    return NnxSource(model, selection)


def _refuse_graph(model: Any) -> None:
    """Say what to do with variables of a TensorFlow graph, which people give as a list."""
    parts = leaves(model) if items_of(model) else {"the variable": model}
    for name, leaf in parts.items():
        refuse_symbol(str(getattr(leaf, "name", name)), leaf)


def places_of(model: Any, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, NDArray[Any]], Callable[[], None]]:
    """Arrays over the memory of those tensors of a model that can be written to as they are stored, and what to call when that is done.

    Raises :class:`InvalidArgument`, as :func:`load_into` does, when the model does not have one of these tensors, or not in this shape.
    """
    framework = _framework(model)
    if framework == "torch" or (
        framework != "keras" and framework != "sklearn" and _holds_torch(model, followed=False)
    ):
        import weightlapse.adapters.torch as torch

        return torch.places(model if framework == "torch" else torch.container(model), shapes)
    return {}, lambda: None


def load_into(model: Any, state: Mapping[str, NDArray[Any]]) -> None:
    """Put named arrays back into ``model``, in place."""
    framework = _framework(model)
    if framework == "keras":
        import weightlapse.adapters.keras as keras

        keras.load(model, state)
    elif framework == "torch" or _holds_torch(model, followed=False):
        import weightlapse.adapters.torch as torch

        torch.load(model if framework == "torch" else torch.container(model), state)
    elif framework == "sklearn":
        import weightlapse.adapters.sklearn as sklearn

        sklearn.load(model, state)
    elif framework is None and _frameworks(model):
        for key, part in leaves(model).items():
            load_into(part, part_of(state, key))
    elif _is(model, "flax.nnx", "Module"):
        import weightlapse.adapters.jax as jax

        jax.load_nnx(model, state)
    elif isinstance(model, MutableMapping):
        load_mapping(model, state)
    else:
        raise InvalidArgument(
            f"weights cannot be put into {type(model).__name__}: use run.state(...) and the framework's own way"
        )

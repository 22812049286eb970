"""Which adapter a model needs. Only frameworks that the program has already imported are looked at."""

from __future__ import annotations

import sys
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from numpy.typing import NDArray

from weightlapse.adapters.arrays import ArraySource, load_mapping
from weightlapse.adapters.source import Selection, Source
from weightlapse.errors import InvalidArgument


def find_source(model: Any, selection: Selection, optimizers: Sequence[Any] = ()) -> Source:
    """The adapter for ``model``; :class:`InvalidArgument` names what can be watched when there is none."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        from weightlapse.adapters.torch import TorchSource

        return TorchSource(model, selection, optimizers)
    if optimizers:
        raise InvalidArgument("optimizer= is for torch modules; with other models call rec.step() after each update")
    if isinstance(model, Mapping):
        return ArraySource(selection)
    raise InvalidArgument(
        f"{type(model).__name__} cannot be watched: give a torch.nn.Module, a keras.Model, a JAX pytree, a scikit-learn network, "
        "or a mapping of names to arrays"
    )


def load_into(model: Any, state: Mapping[str, NDArray[Any]]) -> None:
    """Put named arrays back into ``model``, in place."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        from weightlapse.adapters.torch import load

        load(model, state)
    elif isinstance(model, MutableMapping):
        load_mapping(model, state)
    else:
        raise InvalidArgument(
            f"weights cannot be put into {type(model).__name__}: use run.state(...) and the framework's own way"
        )

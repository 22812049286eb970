"""Tied weights taken apart: an embedding that is also the output layer gets a tensor of its own for each."""

from __future__ import annotations

from typing import Any

from torch import nn

from weightlapse.errors import InvalidArgument
from weightlapse.growth.module import tensors_of
from weightlapse.growth.running import put
from weightlapse.wiring.twin import twin


def untied(model: nn.Module) -> tuple[nn.Module, dict[str, str]]:
    """A twin of ``model`` in which layers of different kinds share no parameter any more, and the tensors that are new.

    Layers of one kind (the embeddings of an encoder and a decoder) go on sharing theirs. The second result maps each new
    tensor's name to the one that it was. Raises InvalidArgument when nothing is tied.
    """
    other = twin(model)
    old_names = set(tensors_of(model))
    source: dict[int, str] = {}
    for name, (tensor, slots) in tensors_of(other).items():
        kinds: dict[type, list[tuple[nn.Module, str]]] = {}
        for module, attribute in slots:
            kinds.setdefault(type(module), []).append((module, attribute))
        for places in list(kinds.values())[1:]:
            values = tensor.detach().clone()
            source[id(put(places, tensor, values))] = name
    if not source:
        raise InvalidArgument("untie=True, but no two layers of different kinds share a parameter")
    for module in other.modules():
        config: Any = getattr(module, "config", None)
        if getattr(config, "tie_word_embeddings", False):
            config.tie_word_embeddings = False
        keys = vars(module).get("all_tied_weights_keys")
        if isinstance(keys, dict):
            keys.clear()
    new = {name: source[id(t)] for name, (t, _) in tensors_of(other).items() if id(t) in source}
    assert not set(new) & old_names
    return other, new

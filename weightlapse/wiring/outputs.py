"""Which of the things that a forward returns must stay the same.

Everything, as a rule. Hugging Face models also return caches and hidden states; a hidden state that counts as an output
fixes the units of its layer, so there only the predictions count: logits and loss, or the last hidden state without them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from weightlapse.errors import InvalidArgument, closest

_BY_THE_WAY = frozenset(
    "past_key_values hidden_states attentions decoder_hidden_states decoder_attentions encoder_hidden_states encoder_attentions "
    "cross_attentions mems state cache_params router_logits router_probs encoder_last_hidden_state reshaped_hidden_states".split()
)


def chooser(outputs: str | Sequence[str] | Callable[[Any], Any] | None) -> Callable[[Any], list[torch.Tensor]]:
    if callable(outputs):
        pick = outputs
        return lambda result: tensors_in(pick(result))
    if outputs is not None:
        keys = [outputs] if isinstance(outputs, str) else list(outputs)
        return lambda result: [t for k in keys for t in tensors_in(_entry(result, k))]
    return lambda result: tensors_in(_predictions(result))


def _entry(result: Any, key: str) -> Any:
    if isinstance(result, Mapping):
        if key in result:
            return result[key]
        raise InvalidArgument(f"the model returned no {key!r} ({closest(key, map(str, result))})")
    if isinstance(result, Sequence) and key.isdigit() and int(key) < len(result):
        return result[int(key)]
    if hasattr(result, key):
        return getattr(result, key)
    raise InvalidArgument(f"the model returned no {key!r}; it returned {type(result).__name__}")


def _predictions(result: Any) -> Any:
    if not isinstance(result, Mapping) or type(result) is dict:
        return result
    kept = {k: v for k, v in result.items() if k not in _BY_THE_WAY}
    if any("logits" in k or k in ("loss", "prediction", "predictions") for k in kept):
        kept = {k: v for k, v in kept.items() if k != "last_hidden_state"}
    return kept or result


def tensors_in(value: Any, depth: int = 0) -> list[torch.Tensor]:
    """Every floating-point tensor anywhere in ``value``: containers, dataclasses, distributions, caches."""
    if isinstance(value, torch.Tensor):
        return [value]
    if value is None or isinstance(value, (str, bytes, int, float, complex, bool)) or depth > 6:
        return []
    if isinstance(value, Mapping):
        parts: list[Any] = list(value.values())
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = list(value)
    elif dataclasses.is_dataclass(value):
        parts = [getattr(value, f.name) for f in dataclasses.fields(value)]
    else:
        parts = list(getattr(value, "__dict__", {}).values())
    return [t for p in parts for t in tensors_in(p, depth + 1)]

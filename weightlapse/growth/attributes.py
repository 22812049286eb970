"""The sizes that modules remember in attributes, kept true after their tensors changed.

Modules of torch (and Conv1D of transformers) are known by a table: the attribute is read off the tensor. Attributes of other
modules and of configs are found by value: an attribute whose name sounds like a size, and whose value is the length of an axis
(or the number of units of a group) below that module that became another length everywhere below it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from weightlapse.errors import InvalidArgument, closest

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1, "LSTMCell": 4, "GRUCell": 3, "RNNCell": 1}
_SIZE = re.compile(
    r"hidden|width|dim|size|feature|channel|planes|unit|embd|embed|model|head|group|inner|intermediate|ffn|shape|^n[fx]$|^d_|^c_|^n_"
)
_NO_SIZE = re.compile(
    r"rotary|kernel|stride|padding|dilation|vocab|max_|layers|classes|labels|patch|image|window|^(start_|end_)?dim$"
)
_HEADS = re.compile(r"heads?$")
Lengths = Callable[[str], Mapping[int, set[int]]]  # path -> old length or number of units there -> what it became


def true_attributes(module: nn.Module, rows: NDArray[np.int64] | None = None) -> dict[str, Any]:
    """What the size attributes of a known module have to be, read off its tensors; empty for modules of other kinds.

    ``rows`` says where each row of its weight came from; a grouped convolution needs it to tell more groups from wider ones.
    """
    if isinstance(module, nn.MultiheadAttention):
        return _attention(module)
    if isinstance(module, nn.RNNBase):
        hidden = module.weight_hh_l0.shape[0] // _GATES.get(type(module).__name__, 1)
        sizes = {"hidden_size": hidden, "input_size": module.weight_ih_l0.shape[1]}
        return sizes | ({"proj_size": module.weight_hr_l0.shape[0]} if module.proj_size else {})
    if isinstance(module, nn.RNNCellBase):
        return {"hidden_size": module.weight_hh.shape[1], "input_size": module.weight_ih.shape[1]}
    if isinstance(module, nn.modules.batchnorm._NormBase):
        tensor = module.weight if module.weight is not None else module.running_mean
        return {} if tensor is None else {"num_features": tensor.shape[0]}
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor):
        return {}
    shape = tuple(weight.shape)
    if isinstance(module, nn.modules.conv._ConvNd):
        return _convolution(module, shape, rows)
    if isinstance(module, nn.Bilinear):
        return {"out_features": shape[0], "in1_features": shape[1], "in2_features": shape[2]}
    if isinstance(module, nn.Linear):
        return {"out_features": shape[0], "in_features": shape[1]}
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return {"normalized_shape": shape}
    if isinstance(module, nn.GroupNorm):
        return {"num_channels": shape[0]}
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return {"num_embeddings": shape[0], "embedding_dim": shape[1]}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": shape[0]}
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
        return {"nf": shape[1]} | ({"nx": shape[0]} if hasattr(module, "nx") else {})
    return {}


def _convolution(
    module: nn.modules.conv._ConvNd, shape: tuple[int, ...], source: NDArray[np.int64] | None
) -> dict[str, Any]:
    groups, rows, columns = module.groups, shape[0], shape[1]
    old_rows = module.in_channels if module.transposed else module.out_channels
    if groups > 1 and source is not None and rows != old_rows:
        # Groups may have got wider or smaller, or have become more or fewer: the first one, whose rows stay together, tells.
        home = source // (old_rows // groups)
        changes = np.flatnonzero(np.diff(home))
        groups = rows // (int(changes[0]) + 1) if len(changes) else 1
    out, into = (columns * groups, rows) if module.transposed else (rows, columns * groups)
    return {"out_channels": out, "in_channels": into, "groups": groups}


def _attention(module: nn.MultiheadAttention) -> dict[str, Any]:
    width = module.out_proj.weight.shape[0]
    if width == module.embed_dim:
        return {}
    # The size of a head is part of the function (1 / sqrt(head_dim)), so more width means more heads.
    keys = width if module._qkv_same_embed_dim else module.k_proj_weight.shape[1]
    values = width if module._qkv_same_embed_dim else module.v_proj_weight.shape[1]
    return {"embed_dim": width, "kdim": keys, "vdim": values, "num_heads": width // module.head_dim}


@dataclass(frozen=True)
class Setting:
    """One attribute that was set: ``holder[name]`` is the place, ``where`` its path in words."""

    holder: dict[str, Any]
    name: str
    where: str
    old: Any
    new: Any

    def apply(self, value: Any) -> None:
        self.holder[self.name] = value

    def __str__(self) -> str:
        return f"{self.where}.{self.name}: {self.old} -> {self.new}".lstrip(".")


def set_true(model: nn.Module, rows: Mapping[str, NDArray[np.int64]]) -> list[Setting]:
    """Sets the table's attributes wherever they are no longer true; returns what was set.

    ``rows`` maps names of changed tensors to the old row of each of their rows.
    """
    done = []
    for path, module in model.named_modules():
        for name, value in true_attributes(module, rows.get(f"{path}.weight" if path else "weight")).items():
            old = getattr(module, name)
            if old != value:
                setattr(module, name, value)
                done.append(Setting(vars(module), name, path, old, value))
    return done


def guess(model: nn.Module, lengths: Lengths, *, bold: bool = False, any_name: bool = False) -> list[Setting]:
    """Sets remembered sizes that no table knows; returns what was set.

    ``lengths(path)`` gives, for the part of the network below ``path``, what each old length of an axis or group became. A
    size is followed where every such length became one other; with ``bold``, where at least one did (a number of heads also where
    it is a multiple of one); with ``any_name`` whatever its name (``self.h``). The certificate judges.
    """
    done: list[Setting] = []
    configs: dict[int, Any] = {}
    for path, module in model.named_modules():
        if not true_attributes(module):
            done += follow(vars(module), path, lengths(path), bold, any_name)
        config = getattr(module, "config", None)
        if config is not None and not isinstance(config, (nn.Module, Mapping)) and hasattr(config, "__dict__"):
            configs[id(config)] = config
    for config in configs.values():
        done += follow(vars(config), "config", lengths(""), bold, False)
    return done


def sounds_like_size(name: str) -> bool:
    """Whether an attribute of this name may hold a number of units."""
    return bool(_SIZE.search(name.lower())) and not _NO_SIZE.search(name.lower())


def follow(
    attributes: dict[str, Any], path: str, lengths: Mapping[int, set[int]], bold: bool, any_name: bool
) -> list[Setting]:
    """`guess` for the attributes of one part of the network."""
    done = []
    for name, value in list(attributes.items()):
        if not (sounds_like_size(name) or (any_name and not _NO_SIZE.search(name.lower()))):
            continue
        new = _followed(value, lengths, bold)
        if new is value and bold and _HEADS.search(name.lower()):
            new = _multiplied(value, lengths)
        if new is not value and new != value:
            attributes[name] = new
            done.append(Setting(attributes, name, path, value, new))
    return done


def _followed(value: Any, lengths: Mapping[int, set[int]], bold: bool) -> Any:
    if isinstance(value, (tuple, list, torch.Size)) and value and all(type(v) is int for v in value):
        became_each = [_followed(v, lengths, bold) for v in value]
        return type(value)(became_each) if not hasattr(value, "_fields") else type(value)(*became_each)
    if type(value) is not int or value < 2:
        return value
    became = lengths.get(value, set())
    changed = became - {value}
    return changed.pop() if len(changed) == 1 and (bold or len(became) == 1) else value


def _multiplied(value: Any, lengths: Mapping[int, set[int]]) -> Any:
    """A number of heads that share fewer others (grouped queries): as many times more as these."""
    if type(value) is not int:
        return value
    found = {
        value // old * new
        for old, became in lengths.items()
        for new in became - {old}
        if 1 < old < value and value % old == 0
    }
    return found.pop() if len(found) == 1 else value


def place_of(model: nn.Module, path: str) -> tuple[dict[str, Any], str]:
    """The dictionary and key in which the attribute at a dotted path is kept (``blocks.0.attn.num_heads``, ``config.n_head``).

    Raises InvalidArgument naming the nearest attributes where there is none.
    """
    parts = path.split(".")
    holder: Any = model
    for i, part in enumerate(parts[:-1]):
        inner = getattr(holder, part, None)
        if inner is None:
            raise InvalidArgument(
                f"attributes: {'.'.join(parts[: i + 1])!r} is no part of the model ({closest(part, _inside(holder))})"
            )
        holder = inner
    held = holder if isinstance(holder, dict) else vars(holder)
    if parts[-1] not in held:
        raise InvalidArgument(
            f"attributes: {path!r} is no attribute of the model ({closest(parts[-1], _inside(holder))})"
        )
    return held, parts[-1]


def _inside(holder: Any) -> list[str]:
    names = [*getattr(holder, "_modules", ()), *(vars(holder) if hasattr(holder, "__dict__") else ())]
    return [n for n in names if not n.startswith("_")]


def check_attributes(model: nn.Module, given: Mapping[str, Any]) -> None:
    """Raises InvalidArgument for a path of ``given`` that the model does not have."""
    for path in given:
        place_of(model, path)


def set_given(model: nn.Module, given: Mapping[str, Any]) -> list[Setting]:
    """Sets what the user gave; returns what was set."""
    done = []
    for path, value in given.items():
        held, name = place_of(model, path)
        done.append(Setting(held, name, path.rpartition(".")[0], held[name], value))
        held[name] = value
    return done

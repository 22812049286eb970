"""Numbers and facts as people hold them, of any library, as what Python and JSON can keep."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import os
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from weightlapse.errors import InvalidArgument

_LARGEST_ARRAY = 10_000  # numbers; more of them are data, not facts


def number_of(value: Any) -> float | None:
    """The one number that ``value`` is, of whatever library, without a gradient; None when it is none.

    >>> number_of(np.float32(0.5)), number_of([[2]]), number_of("0.5"), number_of(None), number_of(np.ones(2))
    (0.5, None, None, None, None)
    """
    if isinstance(value, (str, bytes, complex, np.complexfloating)) or value is None:
        return None
    try:
        if hasattr(value, "detach"):
            value = value.detach()
        return float(value.item() if hasattr(value, "item") else value)
    except Exception:  # noqa: BLE001 — whatever somebody else's object raises, it is no number
        return None


def plain(value: Any, where: str = "meta") -> Any:
    """``value`` as JSON can hold it: scalars and small arrays of any library, paths, dates, enums, sets and dataclasses become what they say.

    >>> plain({"lr": np.float32(0.5), "layers": (np.int64(3), 4)})
    {'lr': 0.5, 'layers': [3, 4]}
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, enum.Enum):
        return plain(value.value, where)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {_key(key, where): plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, AbstractSet):
        return sorted((plain(item, where) for item in value), key=repr)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name), f"{where}.{field.name}")
            for field in dataclasses.fields(value)
        }
    if type(value).__name__ in ("Namespace", "SimpleNamespace"):
        return plain(vars(value), where)
    if type(value).__module__.partition(".")[0] == "torch" and type(value).__name__ in ("dtype", "device", "Size"):
        return str(value)
    if isinstance(value, np.dtype):
        return value.name
    return _array(value, where)


def _key(key: Any, where: str) -> str:
    if isinstance(key, (str, bool, int, float)) or key is None:
        return str(key)
    item = plain(key, where)
    if isinstance(item, (dict, list)):
        raise InvalidArgument(f"{where} has the key {key!r}: give its facts names")
    return str(item)


def _array(value: Any, where: str) -> Any:
    """A scalar or a small array of any library."""
    try:
        if hasattr(value, "detach") and value.numel() <= _LARGEST_ARRAY:  # of torch, which has dtypes that NumPy lacks
            return value.detach().cpu().tolist()
        array = np.asarray(value)
        if array.dtype.kind in "biufSU" and array.size <= _LARGEST_ARRAY:
            return array.tolist() if array.dtype.kind != "S" else array.astype(str).tolist()
        if array.dtype.kind == "V" and array.ndim == 0:  # scalars of ml_dtypes
            return float(array)
        problem = f"an array of {array.size} {array.dtype}" if array.dtype != object else f"a {type(value).__name__}"
    except Exception:  # noqa: BLE001 — somebody else's object
        problem = f"a {type(value).__name__}"
    raise InvalidArgument(
        f"meta cannot be written as JSON: {where} is {problem}; give numbers, texts, paths, dates, small arrays, or lists and dicts of them"
    )

"""Arguments of watch(): what people write in several ways as what is meant, and what cannot be meant refused before anything is written."""

from __future__ import annotations

import importlib
import math
import os
from typing import Any

import numpy as np

from weightlapse.adapters.source import Source, Steps
from weightlapse.capture.plain import plain
from weightlapse.errors import InvalidArgument, WeightlapseError, closest


def check_tolerance(tolerance: Any) -> float | None:
    """The ``tolerance=`` argument as a number: None is exact, "film" is 1e-2."""
    if tolerance is None:
        return None
    if tolerance == "film":
        return 1e-2
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 < tolerance <= 1:
        raise InvalidArgument(
            f"tolerance={tolerance!r}: give None for bit-exact storage, 'film' (= 1e-2), or a number above 0 and at most 1: the "
            "largest error allowed, as a fraction of a tensor's standard deviation (beyond 1 nothing of the weights would be left)"
        )
    return float(tolerance)


def check_memory(memory: Any) -> int | None:
    """The ``memory=`` argument in bytes: a number, or text such as "256MB" or "1.5GiB"; None for "auto"."""
    if memory == "auto":
        return None
    if isinstance(memory, str):
        text = memory.strip().lower().removesuffix("b")
        binary = text.endswith("i")
        text = text.removesuffix("i")
        power = "kmgt".find(text[-1:]) + 1 if text[-1:] else 0
        try:
            number = float(text[:-1] if power else text) * (1024 if binary else 1000) ** power
        except ValueError:
            number = math.nan
    else:
        number = (
            float(memory) if isinstance(memory, (int, float, np.integer)) and not isinstance(memory, bool) else math.nan
        )
    if not 1 <= number < 1 << 62:
        raise InvalidArgument(f"memory={memory!r}: give bytes as a number, text such as '256MB' or '2GiB', or 'auto'")
    return int(number)


def check_choice(name: str, value: Any, *choices: str) -> None:
    """Raise :class:`InvalidArgument`, with the nearest choice, where an argument is none of them."""
    if value not in choices:
        raise InvalidArgument(
            f"{name}={value!r}: choose one of {', '.join(map(repr, choices))}; {closest(str(value), choices)}"
        )


def check_switches(**values: Any) -> None:
    """Refuse what is neither True nor False: ``overwrite="no"`` would be taken for a yes."""
    for name, value in values.items():
        if not isinstance(value, (bool, np.bool_)):
            raise InvalidArgument(f"{name}={value!r:.80}: give True or False")


def check_meta(meta: Any) -> dict[str, Any]:
    """The facts of the ``meta=`` argument by name, as JSON can hold them."""
    facts = {} if meta is None else plain(meta)
    if not isinstance(facts, dict):
        raise InvalidArgument(f"meta={meta!r:.80}: give facts by name, such as meta={{'lr': 0.1}}")
    return facts


def check_objects(model: Any, path: Any) -> None:
    """Refuse a model and a path that were given in the wrong order, or as something else."""
    if isinstance(model, (str, bytes, os.PathLike)):
        raise InvalidArgument(
            f"watch({str(model)!r}, ...): the model comes first and then the path: watch(model, path)"
        )
    if isinstance(model, type):
        raise InvalidArgument(
            f"model={model.__name__}: this is the class; give an instance of it, the one that is trained"
        )
    if not isinstance(path, (str, os.PathLike)):
        raise InvalidArgument(
            f"path={type(path).__name__}: the folder of the recording is a path, as text or pathlib.Path: watch(model, path)"
        )
    if not os.fspath(path):
        raise InvalidArgument("path='': name the folder of the recording")


def check_wiring(wiring: Any) -> str:
    """The text of the ``wiring=`` argument, read once so that nothing is stored which cannot be read later."""
    if isinstance(wiring, type) or not (isinstance(wiring, str) or hasattr(wiring, "to_spec")):
        raise InvalidArgument(f"wiring={wiring!r:.80}: give a weightlapse.Wiring or its text (wiring.to_spec())")
    text = wiring if isinstance(wiring, str) else str(wiring.to_spec())
    if not text.strip():
        raise InvalidArgument(
            "wiring='': the text is empty and says nothing of the model: leave it out, or give example= an input to trace it from"
        )
    try:
        importlib.import_module("weightlapse.wiring.data").Wiring.from_spec(text)
    except (WeightlapseError, ValueError, KeyError, IndexError, TypeError) as error:
        raise InvalidArgument(f"wiring={text[:40]!r} cannot be read: {error}") from error
    return text


def refuse_strangers(source: Source, steps: Steps | None, model: Any) -> None:
    """Refuse optimizers that hold nothing of the model: every frame would be the same."""
    held = None if steps is None else steps.parameters()
    known = source.held(held) if held else None
    if not held or known is None or known[0]:
        return
    raise InvalidArgument(
        f"optimizer= holds {len(held)} tensors and none of them is a parameter of this {type(model).__name__}, so no frame would ever change: give the "
        "optimizer of the model that is watched (one that steps copies, as master weights are, cannot tell: call rec.step() after each update)"
    )

"""Why a changed network does not run: the line of its code, and the attributes there that hold a size."""

from __future__ import annotations

import linecache
import re
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import nn

from weightlapse.growth.attributes import Lengths

_NOT_USERS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
_READ = re.compile(r"\b[a-z]\w*((?:\.\w+)+)")


def culprit(error: BaseException, model: nn.Module, lengths: Lengths) -> str:
    """In words: where the network's own code failed, which attributes that line and module hold, and how to set them."""
    frames = _frames(error.__traceback__)
    if not frames:
        return ""
    paths = {id(m): path for path, m in model.named_modules()}
    frame, number = frames[-1]
    file, line = frame.f_code.co_filename, linecache.getline(frame.f_code.co_filename, number).strip()
    owner = next((m for f, _ in reversed(frames) if isinstance(m := _first_argument(f), nn.Module)), None)
    path = paths.get(id(owner), "") if owner is not None else ""
    text = f"; {Path(file).name}:{number}" + (f" in {path or 'the model'}" if owner is not None else "")
    text += f" says `{line[:120]}`" if line else ""
    held = _sizes(owner, line, lengths(path)) if owner is not None else {}
    if held:
        some = ", ".join(f"{name} = {value}" for name, (value, _) in list(held.items())[:4])
        name, (_, new) = next(iter(held.items()))
        whole = f"{path}.{name}" if path else name
        text += f"; sizes remembered there: {some}. What has to change can be said: attributes={{{whole!r}: {new}}}"
        if any(n.startswith("config.") for n in held):
            text += " (all blocks read one config: widen the same layer of each block in one call)"
    else:
        text += "; the size is written in the code itself: make it an attribute, or read it off a tensor's shape"
    return text


def _first_argument(frame: FrameType) -> Any:
    names = frame.f_code.co_varnames[: frame.f_code.co_argcount]
    return frame.f_locals.get(names[0]) if names else None


def _frames(trace: TracebackType | None) -> list[tuple[FrameType, int]]:
    found = []
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith(_NOT_USERS):
            found.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    return found


def _sizes(owner: Any, line: str, lengths: Mapping[int, set[int]]) -> dict[str, tuple[int, int]]:
    """Attributes of a module that still hold a length that changed, with their value and what the length became.

    Those that the line itself reads come first.
    """
    became = {old: max(new) for old, new in lengths.items() if new != {old}}
    config = getattr(owner, "config", None)
    places = (("", vars(owner)), ("config.", vars(config) if hasattr(config, "__dict__") else {}))
    held = {
        prefix + name: value
        for prefix, place in places
        for name, value in place.items()
        if type(value) is int and value > 1 and not name.startswith("_")
    }
    read = [m.group(1)[1:] for m in _READ.finditer(line)]
    old = {n: (v, became[v]) for n, v in held.items() if v in became}
    # an attribute of the line itself that no changed length explains is shown last: its value may be made of others
    rest = {n: (held[n], held[n]) for n in read if n in held and n not in old}
    return {n: old[n] for n in sorted(old, key=lambda n: (n not in read, old[n]))} | rest

"""One frame, read straight into arrays that are there already: no second copy of a large model."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import DamagedRecording, InvalidArgument, UnknownTensor, closest
from weightlapse.store.layout import TensorSpec, value_dtype, widen
from weightlapse.store.ranks import RankedStore
from weightlapse.store.reader import Store


def state_into(store: Store | RankedStore, frame: int, out: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The tensors of a frame that ``out`` names, into its arrays."""
    specs = {name: t for t in store.layout_at(frame).tensors for name in (t.name, *t.aliases)}
    arrays: dict[str, NDArray[Any]] = {}
    for name, place in out.items():
        if name not in specs:
            raise UnknownTensor(f"out has {name!r}, which the frame does not have; {closest(name, specs)}")
        arrays[name] = _writable(name, place, specs[name])
    straight: dict[str, NDArray[Any]] = {}
    for name, array in arrays.items():
        spec = specs[name]
        if array.dtype == spec.storage == value_dtype(spec.dtype) and array.flags.c_contiguous:
            straight.setdefault(spec.name, array)
    store.read_frame(frame, list(straight), straight)
    for name, array in arrays.items():
        spec = specs[name]
        if spec.name not in straight:
            array[...] = widen(store.read_frame(frame, [spec.name])[spec.name], spec.dtype)
        elif straight[spec.name] is not array:
            array[...] = straight[spec.name]
    return arrays


def _writable(name: str, place: Any, spec: TensorSpec) -> NDArray[Any]:
    """``place`` as an array over the same memory, of the right shape and dtype."""
    wanted = value_dtype(spec.dtype)
    try:
        array = place if isinstance(place, np.ndarray) else place.detach().numpy()
    except (AttributeError, TypeError, RuntimeError) as error:
        raise InvalidArgument(
            f"out[{name!r}] is a {type(place).__name__} that NumPy cannot write to ({error}): give an array, or use run.load_into(model)"
        ) from None
    if array.shape != spec.shape or array.dtype != wanted:
        raise InvalidArgument(
            f"out[{name!r}] has shape {array.shape} and dtype {array.dtype}; the frame holds {spec.shape} of {wanted}"
        )
    if not array.flags.writeable:
        raise InvalidArgument(f"out[{name!r}] cannot be written to")
    return np.asarray(array)


def load_frame(store: Store | RankedStore, frame: int, model: Any) -> None:
    """The weights and buffers of a frame into a model: straight where its tensors lie as they are stored, else by its adapter."""
    find = importlib.import_module("weightlapse.adapters.find")
    specs = {t.name: t for t in store.layout_at(frame).tensors if t.stream in ("weights", "buffers")}
    shapes = {name: spec.shape for spec in specs.values() for name in (spec.name, *spec.aliases)}
    places, done = find.places_of(model, shapes)
    straight: dict[str, NDArray[Any]] = {}
    left: list[tuple[str, TensorSpec]] = []
    for spec in specs.values():
        for name in (spec.name, *spec.aliases):
            place = places.get(name)
            if place is not None and place.dtype == spec.storage and spec.name not in straight:
                straight[spec.name] = place
            elif place is None or straight.get(spec.name) is None or not np.shares_memory(place, straight[spec.name]):
                left.append((name, spec))
    others = list(dict.fromkeys(spec.name for _, spec in left if spec.name not in straight))
    read = store.read_frame(frame, others) if others or not straight else {}
    try:
        store.read_frame(frame, list(straight), straight)
    except DamagedRecording as error:
        raise DamagedRecording(f"{error}; the model may hold some of the tensors of this frame by now") from error
    finally:
        done()
    if left or not straight:
        state = {name: widen(read.get(spec.name, straight.get(spec.name)), spec.dtype) for name, spec in left}  # type: ignore[arg-type]
        find.load_into(model, state)

"""The arrays of torch modules by name, dtype and shape: as ``TorchSource`` lists them, also of modules on the meta device.

What an optimizer will keep is found by one step of a twin on the meta device, once for each kind of parameter, so that it takes as long for
10^9 weights as for 10^3.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from weightlapse.adapters.dtensor import is_sharded, local, refuse_flat_parameters
from weightlapse.adapters.shapes import Held
from weightlapse.adapters.source import ArrayInfo, Selection, left_out_text
from weightlapse.adapters.torch import _buffers, _is_trained, _is_unborn, _parameters, container, unwrap
from weightlapse.adapters.torch_kinds import dtype_of, plain, problem, readers
from weightlapse.errors import CannotRecord, InvalidArgument

_SMALL = 1 << 20  # values that a twin of a parameter may have in memory


def described(name: str, tensor: torch.Tensor) -> ArrayInfo:
    """A tensor anywhere, the meta device included. :class:`CannotRecord` for one that is no single dense array of known shape."""
    if _is_unborn(tensor):
        raise CannotRecord(f"{name} has no shape yet (a lazy layer): run one batch through the model first")
    why = problem(tensor)
    if why is not None or len(readers(tensor) or "1") > 1:
        raise CannotRecord(why or "it is made of several tensors, which a mapping has to hold by themselves")
    return ArrayInfo(name, dtype_of(local(tensor)), tuple(local(tensor).shape))


def shapes_of(model: Any, selection: Selection, optimizers: Sequence[Any] = (), rank: int = 0) -> Held:
    """The arrays that would be recorded of a module, or of a mapping of modules; see ``adapters.shapes``."""
    module = unwrap(model if isinstance(model, torch.nn.Module) else container(model))
    refuse_flat_parameters(module)
    parameters, buffers = _parameters(module), _buffers(module)
    if not parameters and not buffers:
        raise InvalidArgument(f"{type(module).__name__} has no parameters: there is nothing to record")
    with_buffers = "buffers" in selection.streams
    listed = [*parameters, *buffers] if with_buffers else parameters
    others = () if with_buffers else (n for place, more in buffers for n in (place.name, *more))
    selection.check([n for place, more in listed for n in (place.name, *more)], others)

    def wanted(places: Sequence[tuple[Any, list[str]]]) -> list[tuple[Any, list[str]]]:
        return [(p, m) for p, m in places if (rank == 0 or is_sharded(p.tensor)) and selection.wants(p.name, m)]

    _refuse_strangers(optimizers, {id(p.tensor) for p, _ in parameters}, module)
    infos, left_out, frozen = [], dict[str, str](), set[str]()
    mine = wanted(parameters)
    for stream, places in (("weights", mine), ("buffers", wanted(buffers))):
        for place, more in places if stream in selection.streams else ():
            try:
                found = list(_parts(place.name, place.tensor, more, stream))
            except CannotRecord as error:
                if _is_unborn(place.tensor):
                    raise
                left_out[place.name] = str(error)
                continue
            infos += found
            if stream == "weights" and not place.tensor.requires_grad:
                frozen.update(info.name for info in found)
    if "gradients" in selection.streams:
        for place, _ in mine:
            if _is_trained(place.tensor):
                infos.append(replace(described(f"gradients:{place.name}", place.tensor), stream="gradients"))
    if "optimizer" in selection.streams:
        infos += _of_optimizers(optimizers, {id(p.tensor): p for p, _ in mine}, rank)
    if not infos:
        if left_out:
            raise CannotRecord(left_out_text(left_out))
        raise InvalidArgument(f"streams={list(selection.streams)}: the model has nothing in them to record")
    devices = {str(local(p.tensor).device) for p, _ in mine}
    device = next((d for d in sorted(devices) if not d.startswith(("cpu", "meta"))), "cpu")
    return Held(tuple(infos), "torch", frozenset(frozen), device)


def _refuse_strangers(optimizers: Sequence[Any], parameters: set[int], module: torch.nn.Module) -> None:
    held = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    if held and not any(id(p) in parameters for p in held):
        raise InvalidArgument(
            f"optimizer= holds {len(held)} tensors and none of them is a parameter of this {type(module).__name__}: give the optimizer of this model"
        )


def _parts(name: str, tensor: Any, more: Sequence[str], stream: str) -> Iterator[ArrayInfo]:
    """The arrays that a tensor is recorded as: itself, or where it is quantised or made of others, these."""
    if _is_unborn(tensor) or problem(tensor) is not None:
        described(name, tensor)
    parts = readers(tensor)
    if parts is None:
        yield replace(described(name, tensor), stream=stream, aliases=tuple(more))
        return
    for suffix, read in parts.items():
        value = read(tensor)
        aliases = tuple(f"{n}{suffix}" for n in more)
        yield ArrayInfo(f"{name}{suffix}", dtype_of(value), tuple(local(value).shape), stream, aliases)


def _of_optimizers(optimizers: Sequence[Any], places: Mapping[int, Any], rank: int) -> Iterator[ArrayInfo]:
    """What the optimizers keep, or will keep after their first step, for the parameters at these places."""
    kinds: dict[Any, Mapping[str, torch.Tensor]] = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) not in places:
                    continue
                name, state = places[id(parameter)].name, optimizer.state.get(parameter)
                if not state:
                    own = local(parameter)
                    kind = (id(optimizer), id(group), own.shape, own.dtype)
                    if kind not in kinds:
                        kinds[kind] = _state_to_come(optimizer, group, own)
                    state = kinds[kind]
                for key, value in state.items():
                    if isinstance(value, torch.Tensor) and (rank == 0 or is_sharded(parameter)):
                        yield replace(described(f"optimizer:{name}.{key}", value), stream="optimizer")


def _state_to_come(optimizer: Any, group: Mapping[str, Any], parameter: torch.Tensor) -> Mapping[str, torch.Tensor]:
    """The state after the first step of a twin that holds no values; of one with zeros where the optimizer has to see some.

    Of an optimizer that cannot be made anew, or needs a closure, nothing is known: then nothing is counted, as in a recording before its first step.
    """
    takes = set(inspect.signature(type(optimizer)).parameters) - {"fused", "foreach"}
    options = {key: value for key, value in group.items() if key in optimizer.defaults and key in takes}
    kept: Mapping[str, torch.Tensor] = {}
    for device in ("meta", "cpu") if parameter.numel() <= _SMALL else ("meta",):
        twin_parameter = torch.nn.Parameter(torch.zeros_like(plain(parameter.detach()), device=device))
        twin_parameter.grad = torch.zeros_like(twin_parameter)
        try:
            twin = type(optimizer)([twin_parameter], **options)
            try:
                twin.step()
            except (
                RuntimeError,
                NotImplementedError,
            ):  # it looks at values: what it had made room for is what it keeps
                kept = kept or dict(twin.state.get(twin_parameter, {}))
                continue
            return twin.state.get(twin_parameter, {})
        except (TypeError, ValueError, RuntimeError):
            return {}
    return kept

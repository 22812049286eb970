"""``torch.nn.Module``: parameters, buffers, gradients and optimizer state under their state-dict names.

Few tensors in CPU memory are copied through cached NumPy views (one ``memcpy`` each, no dispatch); many, or tensors elsewhere, with one
``torch._foreach_copy_``. Before each copy the cached views are checked against the live tensors, so that a replaced layer or a swapped
storage is seen at the next step and never recorded stale.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any

import numpy as np
import torch
import torch.optim.swa_utils
from numpy.typing import NDArray

from weightlapse.adapters.dtensor import Place, is_sharded, local, place_of, refuse_flat_parameters
from weightlapse.adapters.several import items_of, leaves
from weightlapse.adapters.source import ArrayInfo, Selection, Views, left_out_text
from weightlapse.adapters.torch_device import SideStreams, pinned
from weightlapse.adapters.torch_kinds import (
    Reader,
    as_array,
    dtype_of,
    home_of,
    load_plain,
    over,
    plain,
    problem,
    readers,
    sort,
)
from weightlapse.adapters.torch_packed_copies import PackedCopies
from weightlapse.adapters.torch_packing import Packer
from weightlapse.errors import CannotRecord, InvalidArgument, closest

_PACKED_SLOTS = 2  # packed frames that may lie on the device at a time
_FEW = 48  # up to here the cost of a NumPy copy per tensor is below that of one _foreach_copy_
_WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # never the name of a user's own layer


def unwrap(model: Any) -> torch.nn.Module:
    """The module inside ``torch.compile``, ``DataParallel``, ``DistributedDataParallel`` and ``AveragedModel``."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif isinstance(model, _WRAPPERS):
            model = model.module
        else:
            return model


_WRAPPERS = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)


def container(parts: Any) -> torch.nn.Module:
    """One module that holds the modules and tensors of a (nested) mapping or list, under their keys."""
    found = torch.nn.Module()
    for key, value in (items_of(parts) or {}).items():
        if isinstance(value, torch.nn.Module) or items_of(value) is not None:
            found._modules[key] = value if isinstance(value, torch.nn.Module) else container(value)
        elif isinstance(value, torch.Tensor):
            found._parameters[key] = value  # type: ignore[assignment]
        else:
            raise InvalidArgument(
                f"{key!r} is a {type(value).__name__} among torch modules: give modules and tensors alone, or watch it by itself"
            )
    return found


@dataclass(frozen=True)
class _Place:
    """Where a tensor of the module is found again: ``home[key]``, under the recorded ``name``."""

    name: str
    home: Any  # a dict of tensors or None
    key: str

    @property
    def tensor(self) -> torch.Tensor:
        tensor: torch.Tensor | None = self.home[self.key]
        assert tensor is not None
        return tensor


def _walk(module: torch.nn.Module, prefix: str = "") -> Iterator[tuple[str, torch.nn.Module]]:
    """All submodules with their names, those that only wrap another module left out of the names."""
    yield prefix, module
    wraps = isinstance(module, _WRAPPERS)
    for key, child in module._modules.items():
        if child is not None:
            own = key in _WRAPPED or (wraps and key == "module")
            yield from _walk(child, prefix if own else f"{prefix}{key}.")


def _parameters(module: torch.nn.Module) -> list[tuple[_Place, list[str]]]:
    """Every parameter once, with the further names under which the module holds the same one."""
    found: dict[int, tuple[_Place, list[str]]] = {}
    for prefix, owner in _walk(module):
        home = home_of(owner._parameters)
        for key, tensor in home.items():
            if tensor is None:
                continue
            name = prefix + key
            if id(tensor) not in found:
                found[id(tensor)] = (_Place(name, home, key), [])
            elif name != found[id(tensor)][0].name:
                found[id(tensor)][1].append(name)
    return list(found.values())


def _buffers(module: torch.nn.Module) -> list[tuple[_Place, list[str]]]:
    found: dict[int, tuple[_Place, list[str]]] = {}
    for prefix, owner in _walk(module):
        home = home_of(owner._buffers)
        for key, tensor in home.items():
            if tensor is None or key in owner._non_persistent_buffers_set:
                continue
            if id(tensor) not in found:
                found[id(tensor)] = (_Place(prefix + key, home, key), [])
            else:
                found[id(tensor)][1].append(prefix + key)
    return list(found.values())


def _is_unborn(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin)


def _check_ready(name: str, tensor: torch.Tensor) -> None:
    """Raise for a tensor that has no values yet: the whole model is not ready then."""
    if _is_unborn(tensor):
        raise CannotRecord(
            f"{name} has no shape yet (a lazy layer): run one batch through the model before watching it"
        )
    if tensor.is_meta:
        raise CannotRecord(f"{name} is on the meta device and has no values: materialise the model before watching it")


def _info(name: str, tensor: torch.Tensor, stream: str, aliases: Sequence[str] = ()) -> ArrayInfo:
    return ArrayInfo(name, dtype_of(tensor), tuple(local(tensor).shape), stream, tuple(aliases))


def as_numpy(name: str, tensor: torch.Tensor) -> NDArray[Any]:
    """A tensor anywhere as the array that is stored for it."""
    _check_ready(name, tensor)
    why = problem(tensor)
    if why is not None or len(made := readers(tensor) or {"": lambda t: t}) > 1:
        raise CannotRecord(
            f"{name} is not recorded: {why or 'it is made of several tensors, which a mapping has to hold by themselves'}"
        )
    return as_array(made[""](tensor.detach()).cpu())


class TorchSource:
    """A module, with the optimizers whose state may be recorded too.

    Of tensors that are sharded over processes the local parts are recorded; ``shards`` says where each lies in the whole. What is not
    sharded is left to ``rank`` 0.
    """

    framework = "torch"
    takes_params = False

    def __init__(
        self, model: Any, selection: Selection, optimizers: Sequence[torch.optim.Optimizer] = (), rank: int = 0
    ) -> None:
        self._parts = (
            None if isinstance(model, torch.nn.Module) else model
        )  # models that may be exchanged in their mapping
        self._leaves: list[Any] = []
        self.module = unwrap(model if self._parts is None else container(model))
        refuse_flat_parameters(self.module)
        self.shards: dict[str, Place] = {}
        self._selection = selection
        self._optimizers = optimizers
        self._side: SideStreams | None = None
        self._packed: PackedCopies | None = None
        self._packed_from: list[torch.Tensor] = []
        self.pending: Callable[[], None] | None = None
        self.left_out: dict[str, str] = {}  # tensors that cannot be recorded, and why
        self.generation = 0  # rises whenever a parameter is replaced by another
        self._identities: list[int] = []
        self._rank = rank

    # ---- what there is ---------------------------------------------------------------------------------------------

    def arrays(self, params: Any = None) -> Sequence[ArrayInfo]:
        if self._parts is not None:
            self.module, self._leaves = container(self._parts), list(leaves(self._parts).values())
        parameters, buffers = _parameters(self.module), _buffers(self.module)
        if not parameters and not buffers:
            frozen = " (torch.jit.freeze makes constants of them: watch the module that is trained)"
            why = frozen if isinstance(self.module, torch.jit.ScriptModule) else ""
            raise InvalidArgument(f"{type(self.module).__name__} has no parameters: there is nothing to record{why}")
        with_buffers = "buffers" in self._selection.streams
        known = [
            n for place, more in (parameters + buffers if with_buffers else parameters) for n in (place.name, *more)
        ]
        self._selection.check(known, () if with_buffers else (n for p, more in buffers for n in (p.name, *more)))
        chosen = [(p, more) for p, more in parameters if self._mine(p.tensor) and self._selection.wants(p.name, more)]
        modules = [m for _, m in _walk(self.module)]
        self._homes = [home_of(d) for m in modules for d in (m._parameters, m._buffers)]
        self._children = [m._modules for m in modules if m._modules]
        self._structure = self._look_at_structure()
        self._places: list[_Place] = []
        self._made: list[tuple[_Place, str | None, Reader]] = []
        self._passed: list[tuple[_Place, torch.Tensor]] = []  # those that are left out, as they are now
        self.left_out = {}
        infos: list[ArrayInfo] = []
        made: list[ArrayInfo] = []
        streams = [("weights", chosen)] if "weights" in self._selection.streams else []
        if with_buffers:
            streams += [
                ("buffers", [(p, m) for p, m in buffers if self._mine(p.tensor) and self._selection.wants(p.name, m)])
            ]
        for stream, places in streams:
            for place, more in places:
                self._list(place, more, stream, infos, made)
        infos += made
        self._graded: list[_Place] = []
        if "gradients" in self._selection.streams:
            self._graded = [p for p, _ in chosen if _is_trained(p.tensor)]
            infos += [_info(f"gradients:{p.name}", p.tensor, "gradients") for p in self._graded]
        self._states: list[Callable[[], torch.Tensor | None]] = []
        if "optimizer" in self._selection.streams:
            for name, getter, like in _optimizer_states(self._optimizers, [p for p, _ in chosen]):
                if self._mine(like):
                    infos.append(_info(f"optimizer:{name}", like, "optimizer"))
                    self._states.append(getter)
                    if is_sharded(like):
                        self.shards[f"optimizer:{name}"] = place_of(name, like)
        for place, prefix in [*((p, "") for p in self._places), *((p, "gradients:") for p in self._graded)]:
            if is_sharded(place.tensor):
                self.shards[prefix + place.name] = place_of(place.name, place.tensor)
        if not infos and self._rank == 0 and not self.left_out:
            raise InvalidArgument(f"streams={list(self._selection.streams)}: the model has nothing in them to record")
        if not infos and self.left_out:
            raise CannotRecord(left_out_text(self.left_out))
        self._infos = infos
        parameters_now = [p.tensor for p, _ in parameters if not _is_unborn(p.tensor)]
        if self._identities != (identities := [id(t) for t in parameters_now]):
            self._identities = identities
            self.generation += 1
        counted = [local(t) for t in parameters_now if not local(t).is_inference()]
        # of tensors without memory of their own (sparse, made of others) torch counts nothing: then nobody can tell
        self._counted = counted if all(_memory(t) or not t.numel() for t in counted) else []
        self._remember()
        return infos

    def _list(
        self, place: _Place, more: Sequence[str], stream: str, infos: list[ArrayInfo], made: list[ArrayInfo]
    ) -> None:
        """Add the arrays of one tensor: those that can be copied as they lie in memory, those that are made for each frame, or why none can."""
        tensor = place.tensor
        _check_ready(place.name, tensor)
        why = problem(tensor)
        try:
            parts = None if why is not None else readers(tensor)
        except CannotRecord as error:
            why = str(error)
        if why is not None:
            self.left_out[place.name] = why
            self._passed.append((place, tensor))
        elif parts is None:
            infos.append(_info(place.name, tensor, stream, more))
            self._places.append(place)
        else:
            for suffix, read in parts.items():
                names = [f"{name}{suffix}" for name in (place.name, *more)]
                made.append(_info(names[0], read(tensor), stream, names[1:]))
                self._made.append((place, sort(tensor), read))

    def _mine(self, tensor: torch.Tensor) -> bool:
        """Whether this process records the tensor: its shard, or on rank 0 what all processes have alike."""
        return self._rank == 0 or is_sharded(tensor)

    def _look_at_structure(self) -> tuple[list[int], list[list[Any]], list[int]]:
        """How many tensors each module holds, which modules there are, and what the optimizers keep for how many parameters.

        Tells of a layer that was added or replaced, and of a parameter that an optimizer was given later.
        """
        kept: list[int] = []
        if "optimizer" in self._selection.streams:
            kept = [len(o.state.get(p, ())) for o in self._optimizers for g in o.param_groups for p in g["params"]]
        return [len(d) for d in self._homes], [list(d.values()) for d in self._children], kept

    def _remember(self) -> None:
        """Hold on to the live tensors of weights and buffers, and to what tells when they are no longer the same."""
        self._slots = [(place.home, place.key) for place in self._places]
        self._live = [place.tensor for place in self._places]
        self._here = [local(t) for t in self._live]
        self._pointers = [t.data_ptr() for t in self._here]
        self._shapes = [t.shape for t in self._here]
        if self._side is None and any(t.device.type == "cuda" for t in self._here):
            self._side = SideStreams()
        self._on_cpu = all(t.device.type == "cpu" for t in self._here)
        self._arrays = [as_array(t) for t in self._here] if self._on_cpu and len(self._here) <= _FEW else None
        self._detached = [plain(t.detach()) for t in self._here]

    def version(self) -> tuple[list[int], list[int]] | None:
        """How often torch has changed each parameter in place, and where it lies: unequal after an update, but for changes of ``.data`` in place."""
        counted = self._counted
        return ([t._version for t in counted], [t.data_ptr() for t in counted]) if counted else None

    def held(self, tensors: Sequence[torch.Tensor]) -> tuple[list[str], list[str]]:
        """Names of the parameters that are among ``tensors`` (or views of the same memory), and of the trainable ones that are not."""
        ids, memory = {id(t) for t in tensors}, {_memory(t) for t in tensors} - {0}
        found: tuple[list[str], list[str]] = ([], [])
        for place, _ in _parameters(self.module):
            tensor = place.tensor
            mine = id(tensor) in ids or _memory(tensor) in memory
            if mine or tensor.requires_grad:
                found[not mine].append(place.name)
        return found

    def refresh(self) -> bool:
        """Whether the tensors are still those last listed, perhaps in other memory."""
        return self._infos is self._bound and (self._is_current() or self._relist())

    def _is_current(self) -> bool:
        live = [home.get(key) for home, key in self._slots]
        return (
            all(map(is_, live, self._live))
            and [t.data_ptr() for t in self._here] == self._pointers
            and [t.shape for t in self._here] == self._shapes
            and self._look_at_structure() == self._structure
            and all(place.home.get(place.key) is tensor for place, tensor in self._passed)
            and (self._parts is None or _same(list(leaves(self._parts).values()), self._leaves))
        )

    @property
    def on_device(self) -> bool:
        """Whether copies run beside the training, so that :meth:`settle` must be called before the next update."""
        return self._side is not None

    def allocate(self, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """Memory for the ring: page-locked where weights come from a device."""
        return pinned(shape) if self._side is not None else np.empty(shape, np.uint8)

    def packed_copies(self, tolerance: float | None, *, every: int, memory: int) -> PackedCopies | None:
        """From now on :meth:`copy` packs frames where the weights are, and this takes them; None where they cannot be."""
        self._packed = None
        devices = {t.device for t in self._detached}
        if self._made or self._graded or self._states or len(devices) != 1 or not self._infos:
            return None
        packer = Packer(self._infos, self._detached, tolerance, every=every, slots=_PACKED_SLOTS)
        self._packed, self._packed_from = PackedCopies(packer, memory), self._detached
        return self._packed

    def settle(self) -> None:
        if self._packed is not None:
            self._packed.settle()
        if self._side is not None:
            self._side.settle()

    def follow(self, model: Any, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """From now on the tensors are those of another module."""
        self.module, self._optimizers, self._parts = unwrap(model), optimizers, None

    @property
    def graded(self) -> bool:
        """Whether gradients are recorded."""
        return "gradients" in self._selection.streams

    # ---- copying ---------------------------------------------------------------------------------------------------

    def bind(self, slots: int, views: Views) -> None:
        self._views = views
        self._bound = self._infos
        self._rows: list[list[NDArray[Any]] | None] = [None] * slots
        self._tensors: list[list[torch.Tensor] | None] = [None] * slots
        if (
            slots * len(self._infos) <= 16_384
        ):  # ready before the first step; for more tensors each row when it is first used
            for slot in range(slots):
                self._row(slot)

    def _row(self, slot: int) -> tuple[list[NDArray[Any]], list[torch.Tensor]]:
        row, tensors = self._rows[slot], self._tensors[slot]
        if row is None or tensors is None:
            row = self._rows[slot] = [self._views(slot, i) for i in range(len(self._infos))]
            tensors = self._tensors[slot] = [over(v, info.dtype) for v, info in zip(row, self._infos)]
        return row, tensors

    def before_any(self, slot: int) -> None:
        if not self._graded:
            return
        start = len(self._places) + len(self._made)
        for tensor in self._row(slot)[1][start : start + len(self._graded)]:
            tensor.fill_(math.nan)

    def before(self, slot: int) -> None:
        if self._graded:
            tensors = self._row(slot)[1][len(self._places) + len(self._made) :]
            for tensor, place in zip(tensors, self._graded):
                parameter = place.home.get(place.key)
                gradient = None if parameter is None else local(parameter.grad)
                if gradient is None or gradient.shape != tensor.shape:
                    tensor.fill_(math.nan)
                else:
                    tensor.copy_(gradient.detach().to_dense() if gradient.is_sparse else gradient.detach())

    def copy(self, slot: int, params: Any = None) -> bool:
        if not self.refresh():
            return False
        if self._packed is not None and not self._rows:
            if self._packed_from is not self._detached:
                self._packed_from = self._detached
                self._packed.bind(self._detached)
            self._packed.start()
            return True
        row, tensors = self._row(slot)
        if self._arrays is not None:
            for place, values in zip(row, self._arrays):
                np.copyto(place, values)
        elif self._detached:
            if self._side is None:
                torch._foreach_copy_(tensors[: len(self._detached)], self._detached)
            else:
                self.pending = self._side.start(tensors[: len(self._detached)], self._detached)
        for i, (source, kind, read) in enumerate(self._made, len(self._places)):
            held = source.home.get(source.key)
            if held is None or sort(held) != kind or not _fits(value := read(held), self._infos[i]):
                return False
            tensors[i].copy_(plain(value))
        start = len(self._places) + len(self._made) + len(self._graded)
        for i, getter in enumerate(self._states, start):
            value = local(getter())
            if value is None:
                row[i].fill(0)
            elif value.shape != self._infos[i].shape:
                return False
            else:
                tensors[i].copy_(value.detach())
        return True

    def _relist(self) -> bool:
        """After a change: True when the same names, shapes and dtypes are there again, only in other memory."""
        before = self._bound
        if list(self.arrays()) != before:
            return False
        self._bound = self._infos
        return True


def _memory(tensor: torch.Tensor) -> int:
    """The address of the memory that a tensor lies in, 0 when it has none."""
    try:
        return local(tensor).untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError, AttributeError):
        return 0


def _same(some: Sequence[Any], others: Sequence[Any]) -> bool:
    return len(some) == len(others) and all(map(is_, some, others))


def _is_trained(tensor: torch.Tensor) -> bool:
    """Whether a tensor can have a gradient that is recorded beside it."""
    return (tensor.is_floating_point() or tensor.is_complex()) and problem(tensor) is None and plain(tensor) is tensor


def _fits(value: torch.Tensor, info: ArrayInfo) -> bool:
    """Whether what was made of a tensor is still the array that was listed."""
    return tuple(value.shape) == info.shape and dtype_of(value) == info.dtype


def _optimizer_states(
    optimizers: Sequence[torch.optim.Optimizer], places: Sequence[_Place]
) -> Iterator[tuple[str, Callable[[], torch.Tensor | None], torch.Tensor]]:
    """(name, getter, example) for every tensor that the optimizers hold, or will hold after their first step, for a parameter."""
    names = {id(place.tensor): place.name for place in places}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) not in names:
                    continue
                state = optimizer.state.get(parameter) or _state_to_come(optimizer, group, parameter)
                for key, value in state.items():
                    if isinstance(value, torch.Tensor):

                        def getter(
                            optimizer: torch.optim.Optimizer = optimizer, parameter: Any = parameter, key: str = key
                        ) -> torch.Tensor | None:
                            return optimizer.state[parameter].get(key) if parameter in optimizer.state else None

                        yield f"{names[id(parameter)]}.{key}", getter, value


def _state_to_come(
    optimizer: torch.optim.Optimizer, group: Mapping[str, Any], parameter: torch.Tensor
) -> Mapping[str, Any]:
    """What the optimizer will keep for a parameter that it has not updated yet, found by one step of a twin on zeros."""
    twin_parameter = torch.nn.Parameter(torch.zeros_like(parameter.detach()), requires_grad=True)
    twin_parameter.grad = torch.zeros_like(parameter)
    taken = inspect.signature(type(optimizer)).parameters  # AdamW keeps defaults that its constructor refuses
    options = {key: value for key, value in group.items() if key in optimizer.defaults and key in taken}
    try:
        twin = type(optimizer)([twin_parameter], **options)
        twin.step()
    except (TypeError, ValueError, RuntimeError):
        return {}  # an optimizer of unusual construction: its state begins a new layout epoch when it appears
    return twin.state.get(twin_parameter, {})


def load(module: Any, state: Mapping[str, NDArray[Any]]) -> None:
    """Put ``state`` (names to arrays) into the module's parameters and buffers, in place and exactly."""
    target = unwrap(module)
    homes = {n: place for place, more in (*_parameters(target), *_buffers(target)) for n in (place.name, *more)}
    for name, values in state.items():
        if name not in homes:
            raise InvalidArgument(f"the model has no tensor {name!r} to load into; {closest(name, homes)}")
        tensor = homes[name].tensor
        if tensor.is_quantized:
            raise InvalidArgument(
                f"{name} is quantised: make it anew from its integers, scale and zero point, run.state(...)"
            )
        if tuple(tensor.shape) != values.shape:
            raise InvalidArgument(
                f"{name} has shape {values.shape} in the recording and {tuple(tensor.shape)} in the model"
            )
    with torch.no_grad():
        for name, values in state.items():
            tensor = homes[name].tensor
            if is_sharded(tensor):
                where = place_of(name, tensor)["offset"]
                values = values[tuple(slice(a, a + n) for a, n in zip(where, local(tensor).shape))]
            load_plain(local(tensor), values)

"""``torch.nn.Module``: parameters, buffers, gradients and optimizer state under their state-dict names.

How they are copied is prepared when they are listed (``torch_copy.py``). Before each copy what was prepared is checked against the live tensors, so
that a replaced layer, a swapped storage or another view of the same memory is seen at the next step and never recorded stale.
"""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, is_
from typing import Any

import numpy as np
import torch
import torch.optim.swa_utils
from numpy.typing import NDArray

from weightlapse.adapters.dtensor import Place, is_sharded, local, place_of, refuse_flat_parameters
from weightlapse.adapters.rows import Rows
from weightlapse.adapters.several import items_of, leaves
from weightlapse.adapters.source import ArrayInfo, Selection, left_out_text
from weightlapse.adapters.torch_copy import Copies
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
from weightlapse.adapters.torch_packing import Packer, has_room_to_pack
from weightlapse.adapters.torch_same import SameShapes
from weightlapse.errors import CannotRecord, InvalidArgument, closest

_VERSION, _POINTER = attrgetter("_version"), torch.Tensor.data_ptr
_WARY = 64
_PACKED_SLOTS = 2  # packed frames that may lie on the device at a time
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
        self.elsewhere = False
        self.unpacked = ""  # why frames are not packed though they were to be
        self.pending: Callable[[], None] | None = _nothing  # waits until the last copy is done
        self.left_out: dict[str, str] = {}  # tensors that cannot be recorded, and why
        self.generation = 0  # rises whenever a parameter is replaced by another
        self._identities: list[int] = []
        self._wary = _WARY  # copies to come after which exchanged memory is still reckoned with
        self._rank = rank

    # ---- what there is ---------------------------------------------------------------------------------------------

    def arrays(self, params: Any = None) -> Sequence[ArrayInfo]:
        """As `Source.arrays`, listed anew from the module; ``params`` is not looked at. Raises InvalidArgument for a module without parameters."""
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
        self._homes = [home_of(m._parameters) for m in modules]
        if with_buffers:
            self._homes += [home_of(m._buffers) for m in modules]
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
        self._listed = [place.tensor for place, _ in chosen]
        for stream, places in streams:
            self._listed += [place.tensor for place, _ in places]
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

    def _look_at_structure(self) -> list[Any]:
        """How many tensors each module holds, which modules there are, and what the optimizers keep for how many parameters.

        Tells of a layer that was added or replaced, and of a parameter that an optimizer was given later.
        """
        found: list[Any] = [*map(len, self._homes)]
        for children in self._children:
            found += children.values()
        if "optimizer" in self._selection.streams:
            found += [len(o.state.get(p, ())) for o in self._optimizers for g in o.param_groups for p in g["params"]]
        return found

    def _remember(self) -> None:
        """Hold on to the live tensors of weights and buffers, and to what tells when they are no longer the same."""
        self._here = [local(place.tensor) for place in self._places]
        slots = self._slots()
        self._homes_of, self._keys = [home for home, _, _ in slots], [key for _, key, _ in slots]
        self._live = [tensor for _, _, tensor in slots]
        self._get = dict.get if all(isinstance(home, dict) for home in self._homes_of) else _get
        self._pointers = [*map(_POINTER, self._here)]
        self._same_shapes = SameShapes(self._here)
        if self._side is None and any(t.device.type == "cuda" for t in self._here):
            self._side = SideStreams()

    def _slots(self) -> list[tuple[Any, str, torch.Tensor | None]]:
        """Every place that holds a tensor which is recorded, under whichever of its names, and those that hold none yet: a tied weight may be untied under
        any of its names, and a bias be added where there was none."""
        recorded = {id(tensor) for tensor in self._listed}
        return [
            (home, key, tensor)
            for home in self._homes
            for key, tensor in home.items()
            if tensor is None or id(tensor) in recorded
        ]

    def version(self, *, copied: bool = False) -> tuple[list[int], list[int]] | None:
        """How often torch has changed each parameter in place, and where those recorded lie: unequal after an update, but for changes of ``.data``
        in place. ``copied``: the values have just been copied, so it is known where they lie."""
        if not self._counted:
            return None
        return [*map(_VERSION, self._counted)], self._pointers if copied else [*map(_POINTER, self._here)]

    def moved_since(self, version: tuple[list[int], list[int]]) -> bool:
        """Whether :meth:`version` has become another. Where memory was not exchanged for long (``p.data = ...``), the counters alone are looked at."""
        if [*map(_VERSION, self._counted)] != version[0]:
            return True
        return self._wary > 0 and [*map(_POINTER, self._here)] != version[1]

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
        return (
            all(map(is_, map(self._get, self._homes_of, self._keys), self._live))
            and [*map(_POINTER, self._here)] == self._pointers
            and self._same_shapes()
            and self._look_at_structure() == self._structure
            and (not self._passed or all(place.home.get(place.key) is tensor for place, tensor in self._passed))
            and (self._parts is None or _same(list(leaves(self._parts).values()), self._leaves))
        )

    @property
    def device(self) -> str:
        """Where most of what is recorded lies."""
        sizes: dict[str, int] = {}
        for tensor in self._here:
            sizes[str(tensor.device)] = sizes.get(str(tensor.device), 0) + tensor.nbytes
        return max(sizes, key=lambda device: sizes[device], default="cpu")

    @property
    def on_device(self) -> bool:
        """Whether copies run beside the training, so that :meth:`settle` must be called before the next update."""
        return self._side is not None

    def allocate(self, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """Memory for the ring: page-locked where weights come from a device."""
        return pinned(shape) if self._side is not None else np.empty(shape, np.uint8)

    def packed_copies(self, tolerance: float | None, *, every: int, memory: int) -> PackedCopies | None:
        """What packs frames where the weights are, from the next :meth:`bind` to no rows on; None where they cannot be packed: ``unpacked`` says why."""
        self._packed, self.unpacked = None, ""
        tensors = [plain(t.detach()) for t in self._here]
        devices = {t.device for t in tensors}
        if self._made or self._graded or self._states:
            self.unpacked = "only weights and buffers that lie in memory as they are can be packed"
        elif len(devices) != 1:
            self.unpacked = f"the weights lie on {len(devices)} devices, and are packed on one alone"
        elif not has_room_to_pack(self._infos, tensors, slots=_PACKED_SLOTS):
            self.unpacked = f"{devices.pop()} has not enough free memory to pack frames there"
        else:
            packer = Packer(self._infos, tensors, tolerance, every=every, slots=_PACKED_SLOTS)
            self._packed = PackedCopies(packer, memory)
        return self._packed

    def settle(self) -> None:
        """As `Source.settle`: the device waits, on the stream that will make the update; the host does not."""
        if self._packed is not None:
            self._packed.settle()
        if self._side is not None:
            self._side.settle()

    def follow(self, model: Any, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """From now on the tensors are those of another module."""
        self.module, self._optimizers, self._parts = unwrap(model), optimizers, None

    def adopt(self, names: Iterable[str]) -> None:
        """A module keeps its names."""

    @property
    def graded(self) -> bool:
        """Whether gradients are recorded."""
        return "gradients" in self._selection.streams

    # ---- copying ---------------------------------------------------------------------------------------------------

    def bind(self, rows: Rows | None) -> None:
        """As `Source.bind`; copies are prepared here, once, and checked against the live tensors at every :meth:`copy`."""
        self._rows = rows
        self._aim()
        self._columns = [] if rows is None else [rows.column(i) for i in range(len(self._places), len(self._infos))]

    def _aim(self) -> None:
        """Prepare the copies of what was last listed."""
        self._bound = self._infos
        tensors = [t.detach() for t in self._here]
        if self._rows is None:  # frames are packed
            assert self._packed is not None
            self._packed.bind([*map(plain, tensors)])
            self._copies: Copies | PackedCopies = self._packed
            return
        self._copies = Copies(self._rows, tensors, [i.dtype for i in self._infos], self._side)

    def _places_in(self, slot: int, first: int, count: int) -> list[NDArray[Any]]:
        """Where in the row ``slot`` some arrays go: ``count`` of them from the one numbered ``first`` after those that are copied as they lie."""
        return [column[slot, ...] for column in self._columns[first : first + count]]

    def before_any(self, slot: int) -> None:
        """As `Source.before_any`: the places of gradients in row ``slot`` become NaN."""
        for place, info in zip(self._gradient_places(slot), self._gradient_infos()):
            over(place, info.dtype).fill_(math.nan)

    def _gradient_places(self, slot: int) -> list[NDArray[Any]]:
        return self._places_in(slot, len(self._made), len(self._graded))

    def _gradient_infos(self) -> Sequence[ArrayInfo]:
        first = len(self._places) + len(self._made)
        return self._infos[first : first + len(self._graded)]

    def before(self, slot: int) -> None:
        """As `Source.before`: gradients into row ``slot``; NaN where a parameter has none, sparse ones made dense."""
        if self._graded:
            for place, info, held in zip(self._gradient_places(slot), self._gradient_infos(), self._graded):
                parameter = held.home.get(held.key)
                gradient = None if parameter is None else local(parameter.grad)
                if gradient is None or gradient.shape != info.shape:
                    over(place, info.dtype).fill_(math.nan)
                else:
                    _put(place, info.dtype, gradient.to_dense() if gradient.is_sparse else gradient)

    def copy(self, slot: int, params: Any = None) -> bool:
        """As `Source.copy`: tensors of a device are on their way when it returns, and ``pending`` waits for them."""
        if self._infos is not self._bound or not (self._is_current() or self._relist()):
            return False
        if self._wary:
            self._wary -= 1
        self.pending = self._copies.copy(slot) or _nothing
        if not self._columns:
            return True
        for (source, kind, read), place, info in zip(
            self._made, self._places_in(slot, 0, len(self._made)), self._infos[len(self._places) :]
        ):
            held = source.home.get(source.key)
            if held is None or sort(held) != kind or not _fits(value := read(held), info):
                return False
            _put(place, info.dtype, plain(value))
        first = len(self._made) + len(self._graded)
        infos = self._infos[len(self._places) + first :]
        for getter, place, info in zip(self._states, self._places_in(slot, first, len(self._states)), infos):
            state = local(getter())
            if state is None:
                place.fill(0)
            elif state.shape != info.shape:
                return False
            else:
                _put(place, info.dtype, state)
        return True

    def _relist(self) -> bool:
        """After a change: True when the same names, shapes and dtypes are there again, only in other memory."""
        before = self._bound
        if list(self.arrays()) != before:
            return False
        self._aim()
        self._wary = _WARY
        return True


def _memory(tensor: torch.Tensor) -> int:
    """The address of the memory that a tensor lies in, 0 when it has none."""
    try:
        return local(tensor).untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError, AttributeError):
        return 0


def _nothing() -> None: ...


def _get(home: Any, key: str) -> Any:
    return home.get(key)


def _put(place: NDArray[Any], dtype: str, tensor: torch.Tensor) -> None:
    """Copy a tensor from anywhere to its place in a row."""
    if tensor.device.type == "cpu" and dtype == dtype_of(tensor):
        np.copyto(place, as_array(tensor))
    else:
        over(place, dtype).copy_(tensor.detach())


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
        return {}  # an optimizer of unusual construction: its state begins a new layout when it appears
    return twin.state.get(twin_parameter, {})


def _fitting(module: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, _Place]:
    """The place of each of these tensors; raises when the module does not have it, or not in this shape."""
    target = unwrap(module)
    homes = {n: place for place, more in (*_parameters(target), *_buffers(target)) for n in (place.name, *more)}
    for name, shape in shapes.items():
        if name not in homes:
            raise InvalidArgument(f"the model has no tensor {name!r} to load into; {closest(name, homes)}")
        tensor = homes[name].tensor
        if tensor.is_quantized:
            raise InvalidArgument(
                f"{name} is quantised: make it anew from its integers, scale and zero point, run.state(...)"
            )
        if tuple(tensor.shape) != shape:
            raise InvalidArgument(f"{name} has shape {shape} in the recording and {tuple(tensor.shape)} in the model")
    return homes


def places(module: Any, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, NDArray[Any]], Callable[[], None]]:
    """Arrays, in stored dtype, over those tensors that lie in CPU memory in one piece, each alone in its memory; call the second when they are
    written: autograd is told.
    """
    homes = _fitting(module, shapes)
    found = {
        name: homes[name].tensor
        for name in shapes
        if type(homes[name].tensor) in (torch.Tensor, torch.nn.Parameter)
        and homes[name].tensor.device.type == "cpu"
        and homes[name].tensor.layout == torch.strided
        and homes[name].tensor.is_contiguous()
        and not (homes[name].tensor.is_conj() or homes[name].tensor.is_neg())  # views whose memory holds other numbers
    }
    owners = Counter(tensor.untyped_storage().data_ptr() for tensor in {id(t): t for t in found.values()}.values())
    alone = {n: t for n, t in found.items() if owners[t.untyped_storage().data_ptr()] == 1}

    def written() -> None:
        torch.autograd.graph.increment_version([t for t in alone.values() if not t.is_inference()])

    return {name: as_array(tensor) for name, tensor in alone.items()}, written


def load(module: Any, state: Mapping[str, NDArray[Any]]) -> None:
    """Put ``state`` (names to arrays) into the module's parameters and buffers, in place and exactly."""
    homes = _fitting(module, {name: values.shape for name, values in state.items()})
    with torch.no_grad():
        for name, values in state.items():
            tensor = homes[name].tensor
            if is_sharded(tensor):
                where = place_of(name, tensor)["offset"]
                values = values[tuple(slice(a, a + n) for a, n in zip(where, local(tensor).shape))]
            load_plain(local(tensor), values)

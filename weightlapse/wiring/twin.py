"""A structural twin of a module: the same weights in memory, everything else its own.

Running a model may change it: counters, caches, hooks that install themselves, lists that grow. So whatever has to be run is
run on a twin. Modules, containers, hooks and the variables they close over, plain Python objects, buffers and generators are
copied; the bytes of the parameters are shared (or copied too, with ``own_weights``). References among the copied things lead
to copies, so a bound method, a closure or a weak reference to a part of the model leads to the same part of the twin.

What cannot be copied (open files, locks, Python generators, objects written in C that refuse) is shared.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import types
import warnings
import weakref
from collections import ChainMap, OrderedDict, defaultdict, deque
from collections.abc import Callable
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from weightlapse.errors import CannotTrace

# One array beyond the registered tensors that is larger than this and than all weights is data, not a cache.
_LARGE = 64 << 20
_BARE = (type(None), bool, int, float, complex, str, bytes, type, range, types.ModuleType, types.CodeType, Enum, PurePath, property,
         torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format)  # fmt: skip
_PLAIN = frozenset(_BARE)  # asked first, for it is quick
# Machinery around a model that no forward changes, and that is large or alive.
_APART = ("torch.optim", "torch.utils.data", "torch.distributed", "torch._", "torch.fx", "threading", "logging", "multiprocessing",
          "concurrent", "asyncio", "socket", "queue", "importlib", "typing")  # fmt: skip
_EMPTY = frozenset({dict, OrderedDict, list, set})
_CONTAINERS: tuple[type, ...] = (OrderedDict, defaultdict, dict, list, set, deque)


def twin(model: nn.Module, *, own_weights: bool = False) -> nn.Module:
    """A module that computes what ``model`` does and can be run, put in another mode or taken apart without touching it.

    Parameters of the twin are tensors of their own over the same memory, so writing *into* one still reaches the model;
    with ``own_weights`` they are copied too. Ties and views are kept. Parameters made under ``torch.inference_mode`` become
    ordinary ones. Scripted modules are copied whole.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).train()
    >>> other = twin(net)
    >>> _ = other(torch.randn(8, 2))
    >>> float(net[1].num_batches_tracked), other[0].weight.data_ptr() == net[0].weight.data_ptr()
    (0.0, True)
    """
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # copying an itertools counter warns; nothing of it is kept
        copier = _Copier(model, own_weights)
        for part in [*model.modules(), *model.parameters(), *model.buffers()]:
            copier.of(part)  # first, so that whatever refers to them finds their copies
        copier.finish()
        other: nn.Module = copier.of(model)
    return other


def at_rest(model: nn.Module, *, own_weights: bool = False) -> nn.Module:
    """A twin in eval mode. Only the flag is set: ``eval()`` of some layers merges weights, which the twin may share."""
    other = twin(model, own_weights=own_weights)
    for module in other.modules():
        module.training = False
        if hasattr(module, "_hf_hook") and any(p.is_meta for p in module.parameters()):
            _without_loading(module)
    return other


def _without_loading(module: nn.Module) -> None:
    """Weights that Accelerate keeps on disk or in another memory would be loaded for each call: the twin runs without them."""
    plain = vars(module).pop("_old_forward", None)
    if plain is not None:
        module.forward = plain


class _Copier:
    """Copies are made empty and filled from a queue, so that no chain of references is too long."""

    def __init__(self, model: nn.Module, own_weights: bool) -> None:
        self.own_weights = own_weights
        self.memo: dict[int, Any] = {}
        self.alive: list[Any] = []  # what was copied must keep its id
        self.waiting: deque[Callable[[], None]] = deque()
        weights = list(model.parameters())
        self.shared = {_storage_key(p) for p in weights if p.layout is torch.strided}
        self.largest = max(_LARGE, sum(p.numel() * p.element_size() for p in weights))
        self.storages: dict[Any, torch.UntypedStorage] = {}

    def finish(self) -> None:
        while self.waiting:
            self.waiting.popleft()()

    def of(self, value: Any) -> Any:
        """The copy that stands for ``value`` in the twin; what it holds may still be on its way."""
        if type(value) in _PLAIN or isinstance(value, _BARE):
            return value
        key = id(value)
        if key not in self.memo:
            self.alive.append(value)
            self.memo[key] = value  # while its parts are copied, and if it refuses
            try:
                self.memo[key] = self._made(value)
            except CannotTrace:
                raise
            except Exception:  # noqa: BLE001  whatever an object says when it cannot be copied
                self.memo[key] = value
        return self.memo[key]

    def _made(self, value: Any) -> Any:
        if type(value) in _CONTAINERS:  # the most frequent first
            return self._container(value)
        if isinstance(value, torch.jit.ScriptModule):
            return copy.deepcopy(value)
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, np.ndarray):
            return value.copy() if value.nbytes <= self.largest and value.dtype != object else value
        if isinstance(value, torch.Generator):
            return value.clone_state()
        if isinstance(value, (tuple, frozenset)):
            parts = [self.of(v) for v in value]
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        if isinstance(value, _CONTAINERS):
            return self._container(value)
        return self._callable(value)

    def _callable(self, value: Any) -> Any:
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return types.MethodType(self.of(value.__func__), self.of(value.__self__))
        if isinstance(value, types.BuiltinMethodType):  # ``seen.append`` of a list that is copied
            owner = value.__self__
            return getattr(self.of(owner), value.__name__) if isinstance(owner, _CONTAINERS) else value
        if type(value) is functools.partial:
            return functools.partial(
                self.of(value.func), *map(self.of, value.args), **{k: self.of(v) for k, v in value.keywords.items()}
            )
        if isinstance(value, weakref.ref):
            target = value()
            return weakref.ref(self.of(target)) if isinstance(target, (nn.Module, Tensor)) else value
        return self._object(value)

    # ---- one kind after the other

    def _module(self, value: nn.Module) -> nn.Module:
        try:
            new: nn.Module = object.__new__(type(value))
        except TypeError as error:
            raise CannotTrace(
                f"a module of class {type(value).__name__} cannot be copied ({error}), and the original must not be run"
            ) from error
        self.memo[id(value)] = new
        self.waiting.append(lambda: self._fill(value, new))
        return new

    def _fill(self, value: Any, new: Any) -> None:
        kind: Any = type(value)
        for slot in (s for s in _slots_of(kind) if hasattr(value, s)):
            object.__setattr__(new, slot, self.of(getattr(value, slot)))
        if hasattr(value, "__dict__"):
            state = vars(new)
            for name, attribute in list(vars(value).items()):
                kind = type(attribute)
                if kind in _PLAIN:
                    state[name] = attribute
                elif kind in _EMPTY and not attribute and id(attribute) not in self.memo:  # most of what a module holds
                    self.alive.append(attribute)
                    state[name] = self.memo[id(attribute)] = kind()
                else:
                    state[name] = self.of(attribute)

    def _container(self, value: Any) -> Any:
        kind: Any = type(value)
        base: Any = next(b for b in _CONTAINERS if isinstance(value, b))
        new: Any = deque(maxlen=value.maxlen) if kind is deque else kind.__new__(kind)
        self.memo[id(value)] = new
        if not value and kind in _CONTAINERS and base is not defaultdict:
            return new

        def fill() -> None:
            if issubclass(base, dict):
                if base is defaultdict:
                    new.default_factory = self.of(value.default_factory)
                for k, v in list(dict.items(value)):
                    base.__setitem__(new, self._key(k), self.of(v))
            elif base is set:
                set.update(new, [self._key(v) for v in value])
            else:
                base.extend(new, [self.of(v) for v in value])
            self._fill(value, new)

        self.waiting.append(fill)
        return new

    def _key(self, key: Any) -> Any:
        # What hashes by its contents cannot be a key before it is filled.
        if type(key) is tuple:
            return tuple(map(self._key, key))
        kind: Any = type(key)
        return self.of(key) if issubclass(kind, (nn.Module, Tensor)) or kind.__hash__ is object.__hash__ else key

    def _function(self, value: types.FunctionType) -> types.FunctionType:
        """A function with variables of its own where it closes over some: a hook that counts or collects."""
        if not value.__closure__ and not value.__defaults__ and not value.__kwdefaults__:
            return value
        cells = tuple(map(self._cell, value.__closure__ or ()))
        defaults = None if value.__defaults__ is None else tuple(map(self.of, value.__defaults__))
        new = types.FunctionType(value.__code__, value.__globals__, value.__name__, defaults, cells)
        new.__qualname__, new.__module__, new.__doc__ = value.__qualname__, value.__module__, value.__doc__
        new.__kwdefaults__ = {k: self.of(v) for k, v in value.__kwdefaults__.items()} if value.__kwdefaults__ else None
        new.__annotations__ = value.__annotations__
        new.__dict__.update({k: v for k, v in vars(value).items() if k != "__wrapped__"})
        return new

    def _cell(self, cell: types.CellType) -> types.CellType:
        """Two functions that share a variable go on sharing it."""
        if id(cell) not in self.memo:
            self.alive.append(cell)
            new = self.memo[id(cell)] = types.CellType()

            def fill() -> None:
                with contextlib.suppress(ValueError):  # not assigned yet
                    new.cell_contents = self.of(cell.cell_contents)

            self.waiting.append(fill)
        made = self.memo[id(cell)]
        assert isinstance(made, types.CellType)
        return made

    def _object(self, value: Any) -> Any:
        kind: Any = type(value)
        if kind.__module__.startswith(_APART):
            return value
        plain = (
            kind.__reduce_ex__ is object.__reduce_ex__
            and kind.__reduce__ is object.__reduce__
            and not any(
                hasattr(kind, n) for n in ("__deepcopy__", "__setstate__", "__getnewargs__", "__getnewargs_ex__")
            )
            and getattr(kind, "__getstate__", None) is getattr(object, "__getstate__", None)
        )
        if not plain:
            mine: dict[int, Any] = {}
            self.memo.pop(id(value), None)  # else it would be taken for its own copy
            new = copy.deepcopy(value, ChainMap(mine, self.memo))  # type: ignore[arg-type]
            self.memo.update(mine)
            return new
        if not hasattr(value, "__dict__") and not _slots_of(kind):
            return value  # object(): only its identity matters
        new = self.memo[id(value)] = object.__new__(kind)  # refuses what is laid out in C
        self.waiting.append(lambda: self._fill(value, new))
        return new

    # ---- tensors

    def _tensor(self, t: Tensor) -> Tensor:
        if isinstance(t, nn.parameter.UninitializedTensorMixin):
            return t
        new = self._values(t)
        if isinstance(t, nn.Parameter) and not isinstance(new, nn.Parameter):
            new = nn.Parameter(new, requires_grad=t.requires_grad)
        elif t.requires_grad and new is not t:
            new.requires_grad_()
        for name, attribute in vars(t).items():
            if not hasattr(new, name):
                setattr(new, name, self.of(attribute))
        return new

    def _values(self, t: Tensor) -> Tensor:
        shares = not self.own_weights and (isinstance(t, nn.Parameter) or _storage_key(t) in self.shared)
        plain = type(t) in (Tensor, nn.Parameter) and t.layout is torch.strided and not t.is_quantized
        if not plain or t.is_conj() or t.is_neg():
            return t if shares else t.detach().clone()
        storage = t.untyped_storage()
        if not shares and not isinstance(t, nn.Parameter) and storage.nbytes() > self.largest:
            return t
        if not shares and t.is_meta:
            return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta")
        if not shares and 0 in t.stride():
            return t.detach().clone()
        if not shares:
            key = _storage_key(t)
            if key not in self.storages:
                self.storages[key] = storage.clone()
            storage = self.storages[key]
        # Made anew rather than detached: a tensor made under inference_mode becomes an ordinary one.
        return torch.empty(0, dtype=t.dtype, device=t.device).set_(storage, t.storage_offset(), t.shape, t.stride())


def _storage_key(t: Tensor) -> int:
    return int(t.untyped_storage()._cdata) if t.layout is torch.strided else id(t)


@functools.cache
def _slots_of(kind: Any) -> tuple[str, ...]:
    found: list[str] = []
    for c in kind.__mro__:
        slots = c.__dict__.get("__slots__", ())
        for s in [slots] if isinstance(slots, str) else slots:
            if s not in ("__dict__", "__weakref__"):
                found.append(f"_{c.__name__.lstrip('_')}{s}" if s.startswith("__") and not s.endswith("__") else s)
    return tuple(found)

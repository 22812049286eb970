"""Networks as plain arrays: reading modules and state dicts, and measuring how far two of them are apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument
from weightlapse.wiring.arrays import Numbers, doubled, is_tensor, on_device, real_pairs
from weightlapse.wiring.data import Wiring

Arrays = dict[str, NDArray[Any]]
Weights = Mapping[str, Numbers]  # for readers: possibly made when looked at, possibly tensors on a device

_WRAPPERS = ("_orig_mod.", "module.")


def is_module(net: Any) -> bool:
    """Whether ``net`` can be run: a torch module rather than a mapping of arrays."""
    return hasattr(net, "state_dict") and callable(net)


def bare(net: Any) -> Any:
    """The module below `torch.compile` and data-parallel wrappers."""
    while hasattr(net, "_orig_mod") or (type(net).__name__.endswith("DataParallel") and hasattr(net, "module")):
        net = net._orig_mod if hasattr(net, "_orig_mod") else net.module
    return net


class Renamed(Mapping[str, Any]):
    """A mapping under names without the prefixes of wrappers; values are read when they are looked at."""

    def __init__(self, state: Mapping[Any, Any]) -> None:
        self._state = state
        self._names = {unwrapped(str(n)): n for n in state}

    def __getitem__(self, name: str) -> Any:
        return self._state[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class OpenFile(Renamed):
    """A file opened with ``safetensors.safe_open``: each tensor is read from disk when it is looked at."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._names = {unwrapped(str(n)): n for n in file.keys()}  # noqa: SIM118  it is no mapping
        self.shapes = {n: tuple(file.get_slice(own).get_shape()) for n, own in self._names.items()}

    def __getitem__(self, name: str) -> Any:
        return self._file.get_tensor(self._names[name])


def state_of(net: Any) -> Mapping[str, Any]:
    """The state dict of a module, or a mapping of arrays; names lose the prefixes of wrappers. Mappings are read lazily.

    An open safetensors file (``safe_open(path, framework="pt")`` or ``"np"``) is such a mapping too.
    """
    if is_module(net):
        return dict(_plain_entries(bare(net).state_dict()))
    if hasattr(net, "get_tensor") and hasattr(net, "keys"):  # an open safetensors file, read tensor by tensor
        return OpenFile(net)
    if not isinstance(net, Mapping):
        raise InvalidArgument(
            f"expected a torch module or a mapping of names to arrays, got {type(net).__name__}; "
            "pass model, model.state_dict() or run.state(step=...)"
        )
    if type(net) is not dict:  # a mapping that may load what is asked for: it is not asked for everything at once
        return Renamed(net)
    return {unwrapped(str(n)): v for n, v in net.items()}


def _plain_entries(state: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Tensors as they are, weights packed as whole numbers as what they stand for, each under a name of its own; nothing else."""
    for name, value in state.items():
        if hasattr(value, "detach") and not value.is_quantized:
            yield name, value
        else:
            yield from ((f"{name}.{i}", t) for i, t in enumerate(_packed(value)))


def _packed(value: Any) -> Iterator[Any]:
    if hasattr(value, "detach"):
        yield value.dequantize() if value.is_quantized else value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _packed(part)
    elif hasattr(value, "__getstate__") and type(value).__name__ == "ScriptObject":
        yield from _packed(value.__getstate__())


def unwrapped(name: str) -> str:
    """A name without the prefixes of wrappers."""
    for prefix in _WRAPPERS:
        name = name.removeprefix(prefix)
    return name


def as_array(value: Any) -> NDArray[Any]:
    """Any tensor as a NumPy array; low-precision floats are widened to float32, exactly."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if value.dtype.is_floating_point and value.dtype.itemsize < 4:
            value = value.float()
        value = value.resolve_conj() if value.is_complex() else value
        return np.asarray(value.numpy())
    out = np.asarray(value)
    if out.dtype.kind == "V" or (out.dtype.kind == "f" and out.dtype.itemsize < 4):  # float16; bfloat16 of ml_dtypes
        return out.astype(np.float32)
    return out


def numbers(value: Any, device: Any = None) -> Numbers:
    """Any tensor as a NumPy array, or on a device as a torch tensor there; low-precision floats are widened to float32, exactly."""
    return as_array(value) if device is None else on_device(value, device)


def short_floats(state: Mapping[str, Any]) -> str | None:
    """The name of a float type of less than 32 bits, if the state has any."""
    names = (str(getattr(v, "dtype", "")).rpartition(".")[2] for v in state.values())
    return next((n for n in names if n.startswith(("bfloat", "float16", "float8"))), None)


class FloatArrays(Mapping[str, Numbers]):
    """The floating-point tensors of a state as float32 or float64 arrays (tensors on a ``device``), each read when it is looked at.

    Complex ones get a last axis (real, imaginary). ``shapes``: what they have then. Tensors that NumPy can share are not
    copied; the names in ``double`` are read as float64.
    """

    def __init__(self, state: Mapping[str, Any], names: Iterable[str] | None = None, device: Any = None) -> None:
        self.state, self.device = state, device
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.double: frozenset[str] = frozenset()
        for name in state if names is None else names:
            value = state[name]
            kind = kind_of(value)
            if kind:
                self.shapes[name] = (*value.shape, 2) if kind == "c" else tuple(value.shape)

    def __getitem__(self, name: str) -> Numbers:
        if name not in self.shapes:
            raise KeyError(name)
        value = numbers(self.state[name], self.device)
        if "complex" in str(value.dtype):
            value = real_pairs(value)
        return doubled(value) if name in self.double else value

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __contains__(self, name: object) -> bool:
        return name in self.shapes


def kind_of(value: Any) -> str:
    """ "f" for floating-point numbers, "c" for complex ones, else nothing."""
    dtype: Any = getattr(value, "dtype", None)
    if dtype is None:
        dtype = np.asarray(value).dtype
    floating = getattr(dtype, "is_floating_point", None)  # torch says it itself
    if floating is not None:
        return "f" if floating else "c" if dtype.is_complex else ""
    kind = np.dtype(dtype).kind
    return "f" if kind in "fV" else "c" if kind == "c" else ""


def float_arrays(state: Mapping[str, Any], names: Iterable[str] | None = None, device: Any = None) -> FloatArrays:
    """`FloatArrays` of a state, of all its names or of ``names``."""
    return FloatArrays(state, names, device)


def place_in_memory(value: Any) -> Any:
    """Equal for two values that are one array; valid while both are held."""
    if hasattr(value, "data_ptr") and getattr(value.device, "type", "") != "meta" and value.numel():
        return value.data_ptr(), tuple(value.shape), value.stride(), value.dtype
    return id(value)


def parameter_names(state: Mapping[str, Any], wiring: Wiring | None) -> list[str]:
    """Tensors that count in a distance: each tied tensor once, no running statistics.

    Statistics are what every member of the wiring calls so; without a wiring the names that torch gives them.
    """
    alias = {other for rest in wiring.aliases.values() for other in rest} if wiring else set()
    roles: dict[str, set[str]] = {}
    for g in wiring.groups if wiring else ():
        for m in g.members:
            roles.setdefault(m.tensor, set()).update(m.roles)
    out = []
    for name in state:
        statistic = roles[name] == {"stat"} if name in roles else name.rpartition(".")[2] in _STATISTICS
        if name not in alias and not statistic:
            out.append(name)
    return out


_STATISTICS = {"running_mean", "running_var", "num_batches_tracked"}


def distance(a: Weights, b: Weights, names: Iterable[str] | None = None) -> float:
    """``||A - B|| / ||A||`` over the named arrays together, in float64 (0 for two zero networks, inf against a zero one).

    Places where both hold the same infinity, or NaN, count as equal.
    """
    gap = norm = 0.0
    for n in a if names is None else names:
        d, s = _squares(a[n], b[n])
        gap, norm = gap + d, norm + s
    if norm == 0.0:
        return 0.0 if gap == 0.0 else float("inf")
    return float(np.sqrt(gap / norm))


_CHUNK = 1 << 16  # numbers at a time: both fit the cache, and no copy of the tensor is made
_CHUNK_THERE = 1 << 24  # the same of tensors on a device


def _squares(x: Numbers, y: Numbers) -> tuple[float, float]:
    """``||x - y||^2`` and ``||x||^2`` in float64."""
    x, y = x.reshape(-1), y.reshape(-1)
    if is_tensor(x):
        parts = ((u.double(), v) for u, v in zip(x.split(_CHUNK_THERE), y.split(_CHUNK_THERE)))
        sums = [(float((u - v).square().sum()), float(u.square().sum())) for u, v in parts]
        gap, norm = sum(g for g, _ in sums), sum(n for _, n in sums)
        if np.isfinite(gap + norm):
            return gap, norm
        x, y = as_array(x), as_array(y)
    gap = norm = 0.0
    for start in range(0, x.size, _CHUNK):
        u = x[start : start + _CHUNK].astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            d = u - y[start : start + _CHUNK]
        here, own = float(np.dot(d, d)), float(np.dot(u, u))
        if not np.isfinite(here + own):
            v = y[start : start + _CHUNK]
            same = (u == v) | (np.isnan(u) & np.isnan(v))
            d, u = np.where(same, 0.0, d), np.where(np.isfinite(u), u, 0.0)
            here, own = float(np.dot(d, d)), float(np.dot(u, u))
        gap, norm = gap + here, norm + own
    return gap, norm


def own_state(net: Any) -> Mapping[str, Any]:
    """A state that later training of the module cannot change."""
    state = state_of(net)
    return {n: v.detach().clone() for n, v in state.items()} if is_module(net) else state

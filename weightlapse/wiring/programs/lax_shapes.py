"""JAX primitives that move numbers about: reshapes, slices, concatenations, padding, indexing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from weightlapse.errors import CannotTrace
from weightlapse.wiring.programs.contractions import padded
from weightlapse.wiring.programs.jaxpr import Interpreter, Value, primitive

Params = Mapping[str, Any]


@primitive("reshape")
def _reshape(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Tensor:
    x = it.tensor(args[0], eqn.invars[0].aval)
    if params.get("dimensions") is not None:
        x = x.permute(params["dimensions"])
    return it.reshaped(x.reshape(params["new_sizes"]), args[0] if params.get("dimensions") is None else None)


@primitive("transpose")
def _transpose(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Tensor:
    return args[0].permute(params["permutation"])  # type: ignore[no-any-return]


@primitive("squeeze")
def _squeeze(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Tensor:
    return it.reshaped(args[0].reshape(eqn.outvars[0].aval.shape), args[0])


@primitive("expand_dims")
def _expand_dims(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Tensor:
    return it.reshaped(it.tensor(args[0], eqn.invars[0].aval).reshape(eqn.outvars[0].aval.shape), args[0])


@primitive("broadcast_in_dim")
def _broadcast(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Tensor:
    shape = tuple(params["shape"])
    if not isinstance(args[0], Tensor):
        return torch.full(shape, args[0], dtype=it.dtype(eqn.outvars[0].aval.dtype))
    x = args[0]
    inside = [1] * len(shape)
    for own, axis in enumerate(params["broadcast_dimensions"]):
        inside[axis] = x.shape[own]
    if tuple(inside) != tuple(x.shape):
        x = it.reshaped(x.reshape(inside), x)
    return x if tuple(x.shape) == shape else x.expand(shape)


@primitive("concatenate")
def _concatenate(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Tensor:
    return torch.cat(args, params["dimension"])


@primitive("stack")
def _stack(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Tensor:
    return torch.stack(
        [it.tensor(a, v.aval) for a, v in zip(args, eqn.invars, strict=True)],
        params.get("axis", params.get("dimension", 0)),
    )


@primitive("unstack")
def _unstack(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Any:
    return list(torch.unbind(args[0], params.get("axis", params.get("dimension", 0))))


@primitive("tile")
def _tile(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Tensor:
    return it.tensor(args[0], eqn.invars[0].aval).repeat([int(r) for r in params["reps"]])


@primitive("split")
def _split(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Any:
    return torch.split(args[0], [int(s) for s in params["sizes"]], params["axis"])


@primitive("pad")
def _pad(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Tensor:
    x, value = args
    return padded(
        x,
        [(int(a), int(b), int(c)) for a, b, c in params["padding_config"]],
        float(value) if not _whole(x) else int(value),
    )


def _whole(x: Any) -> bool:
    return isinstance(x, Tensor) and not (x.is_floating_point() or x.is_complex())


@primitive("slice")
def _slice(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Tensor:
    x = args[0]
    strides = params["strides"] or (1,) * x.ndim
    for axis, (lo, hi, step) in enumerate(zip(params["start_indices"], params["limit_indices"], strides, strict=True)):
        if (lo, hi, step) != (0, x.shape[axis], 1):
            x = torch.ops.aten.slice.Tensor(x, axis, lo, hi, step)
    return x  # type: ignore[no-any-return]


@primitive("dynamic_slice")
def _dynamic_slice(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Tensor:
    x, *starts = args
    return sliced(x, [int(s) for s in starts[: x.ndim]], params["slice_sizes"])


def sliced(x: Tensor, starts: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """A window of ``x``; one that would reach over an edge is moved inside, as JAX does."""
    for axis, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        if size != x.shape[axis]:
            x = x.narrow(axis, min(max(start, 0), x.shape[axis] - size), size)
    return x


@primitive("dynamic_update_slice")
def _dynamic_update_slice(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Tensor:
    x, new, *starts = (it.tensor(a, v.aval) for a, v in zip(args, eqn.invars, strict=True))
    return replaced(x, new, [int(s) for s in starts[: x.ndim]])


def replaced(x: Tensor, new: Tensor, starts: Sequence[int]) -> Tensor:
    """``x`` with ``new`` in place of a window."""
    where = [axis for axis in range(x.ndim) if new.shape[axis] != x.shape[axis]]
    if not where:
        return new
    if len(where) > 1:  # axis by axis: the rows that change, with their part replaced
        axis = where[0]
        start = min(max(starts[axis], 0), x.shape[axis] - new.shape[axis])
        rows = x.narrow(axis, start, new.shape[axis])
        return replaced(x, replaced(rows, new, [0 if a == axis else s for a, s in enumerate(starts)]), starts)
    axis = where[0]
    start = min(max(starts[axis], 0), x.shape[axis] - new.shape[axis])
    after = start + new.shape[axis]
    parts = [x.narrow(axis, 0, start), new, x.narrow(axis, after, x.shape[axis] - after)]
    return torch.cat([p for p in parts if p.shape[axis]], axis)


@primitive("rev")
def _rev(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Tensor:
    return torch.flip(args[0], list(params["dimensions"]))


@primitive("iota")
def _iota(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Tensor:
    shape, axis = tuple(params["shape"]), params["dimension"]
    row = torch.arange(shape[axis], dtype=it.dtype(params["dtype"]))
    return row if len(shape) == 1 else row.reshape([-1 if a == axis else 1 for a in range(len(shape))]).expand(shape)


@primitive("sort")
def _sort(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Any:
    axis = params["dimension"]
    if params["num_keys"] != 1:
        raise CannotTrace(
            "the program sorts by several keys, which its trace cannot follow; write its wiring as a spec"
        )
    values, order = torch.sort(args[0], dim=axis, stable=True)
    return [values, *(torch.gather(a, axis, order) for a in args[1:])]


@primitive("top_k", "approx_top_k")
def _top_k(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Any:
    return list(torch.topk(args[0], params["k"], dim=params.get("axis", params.get("reduction_dimension", -1))))


# ---- indexing


@primitive("gather")
def _gather(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Tensor:
    x, index = (it.tensor(a, v.aval) for a, v in zip(args, eqn.invars, strict=True))
    d, sizes = params["dimension_numbers"], params["slice_sizes"]
    mapped, gone = tuple(d.start_index_map), tuple(d.collapsed_slice_dims)
    batched = tuple(getattr(d, "operand_batching_dims", ()))
    out = len(eqn.outvars[0].aval.shape)
    if batched:
        return _along(x, index, d, sizes, eqn)
    if index.ndim == 1 or index[..., 0].numel() == 1:  # one window
        at = index.reshape(-1)
        starts = [0] * x.ndim
        for k, axis in enumerate(mapped):
            starts[axis] = int(at[k])
        return sliced(x, starts, sizes).reshape(eqn.outvars[0].aval.shape)
    if set(mapped) == set(gone) and all(sizes[a] == x.shape[a] for a in range(x.ndim) if a not in gone):
        places = tuple(_inside(index[..., k], x.shape[axis]) for k, axis in enumerate(mapped))
        rest = [a for a in range(x.ndim) if a not in mapped]
        picked = _picked(x, mapped, rest, places)  # batch axes first, then the rest
        batch = picked.ndim - len(rest)
        order, first, last = [], iter(range(batch)), iter(range(batch, picked.ndim))
        for axis in range(out):
            order.append(next(last) if axis in d.offset_dims else next(first))
        return picked if order == list(range(out)) else picked.permute(order)
    raise CannotTrace(
        "the program picks windows of an array at computed places (gather), which its trace cannot follow; write its wiring as a spec "
        "(Wiring.from_spec)"
    )


def _inside(index: Tensor, size: int) -> Tensor:
    return index.clamp(0, size - 1)


def _picked(x: Tensor, mapped: Sequence[int], rest: Sequence[int], places: tuple[Tensor, ...]) -> Tensor:
    if len(mapped) == 1 and mapped[0] == 0 and x.ndim == 2:
        return torch.nn.functional.embedding(places[0], x)
    order = [*mapped, *rest]
    front = x if order == list(range(x.ndim)) else x.permute(order)
    return front[places]


def _along(x: Tensor, index: Tensor, d: Any, sizes: Sequence[int], eqn: Any) -> Tensor:
    """``take_along_axis``: one place for every row; the rows of the index are those of the array."""
    mapped, batched = tuple(d.start_index_map), tuple(d.operand_batching_dims)
    theirs = tuple(d.start_indices_batching_dims)
    shape = eqn.outvars[0].aval.shape
    if len(mapped) != 1 or any(s != 1 for s in sizes) or set(range(x.ndim)) != {*mapped, *batched}:
        raise CannotTrace(
            "the program picks along several axes at once (gather), which its trace cannot follow; write its wiring as a spec"
        )
    places = index[..., 0]
    own = [a for a in range(places.ndim) if a not in theirs]
    if len(own) > 1:
        raise CannotTrace(
            "the program picks blocks along an axis (gather), which its trace cannot follow; write its wiring as a spec"
        )
    if not own:
        places, own = places.unsqueeze(-1), [places.ndim]
    order = [0] * x.ndim
    for axis, other in zip(batched, theirs, strict=True):
        order[axis] = other
    order[mapped[0]] = own[0]
    found = torch.gather(x, mapped[0], _inside(places.permute(order), x.shape[mapped[0]]))
    back = sorted(range(x.ndim), key=lambda a: order[a])
    return found.permute(back).reshape(shape)


@primitive("scatter", "scatter-add", "scatter_add", "scatter-mul", "scatter-min", "scatter-max")
def _scatter(it: Interpreter, params: Params, args: list[Value], eqn: Any) -> Tensor:
    x, index, new = (it.tensor(a, v.aval) for a, v in zip(args, eqn.invars, strict=True))
    d, adds = params["dimension_numbers"], "add" in eqn.primitive.name
    mapped, gone = tuple(d.scatter_dims_to_operand_dims), tuple(d.inserted_window_dims)
    plain = not getattr(d, "operand_batching_dims", ()) and eqn.primitive.name in (
        "scatter",
        "scatter-add",
        "scatter_add",
    )
    windows = [a for a in range(x.ndim) if a not in gone]
    if plain and (index.ndim == 1 or index[..., 0].numel() == 1):
        at = index.reshape(-1)
        shape, starts = [1] * x.ndim, [0] * x.ndim
        sizes = [new.shape[a] for a in d.update_window_dims]
        for axis, size in zip(windows, sizes, strict=True):
            shape[axis] = size
        for k, axis in enumerate(mapped):
            starts[axis] = int(at[k])
        new = new.reshape(shape)
        return replaced(x, sliced(x, starts, shape) + new if adds else new, starts)
    whole = [new.shape[a] for a in d.update_window_dims] == [x.shape[a] for a in windows]
    if plain and set(mapped) == set(gone) and whole:
        batch = [a for a in range(new.ndim) if a not in d.update_window_dims]
        values = new.permute([*batch, *d.update_window_dims])
        order = [*mapped, *windows]
        places = tuple(_inside(index[..., k], x.shape[axis]) for k, axis in enumerate(mapped))
        out = x.permute(order).index_put(places, values, accumulate=adds)
        return out.permute([order.index(a) for a in range(x.ndim)])
    raise CannotTrace(
        f"the program writes at computed places ({eqn.primitive.name}), which its trace cannot follow; write its wiring as a spec"
    )

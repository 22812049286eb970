"""The optimizer of a JAX network comes along: an optax state, or an ``nnx.Optimizer`` around one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from weightlapse.errors import CannotGrow, InvalidArgument
from weightlapse.growth.attributes import Setting
from weightlapse.growth.foreign import Moment
from weightlapse.wiring.programs.jax_models import dotted

# field of an optax state that holds one array for each trained one -> power of the gradient that it averages
POWERS = {"mu": 1.0, "nu": 2.0, "nu_max": 2.0, "trace": 1.0, "sum_of_squares": 2.0, "ema": 1.0, "acc_grads": 1.0}


def powers_of(optimizer: Any, names: Sequence[str]) -> dict[str, tuple[str, float]]:
    """For each array of the state, by path, the weight that it belongs to and the power of its gradient; CannotGrow for a field without a rule."""
    found = {}
    longest = sorted(names, key=len, reverse=True)
    for path, value in _arrays(optimizer):
        if np.ndim(value) == 0 and not any(f".{path}".endswith(f".{n}") for n in names):
            continue  # a count of steps, a learning rate
        name = next((n for n in longest if f".{path}".endswith(f".{n}")), None)
        if name is None:
            raise CannotGrow(
                f"the optimizer's state holds {path}, which belongs to no weight of the network: {_WAY_ON}"
            )
        field = path[: -len(name)].rstrip(".").rpartition(".")[2]
        if field not in POWERS:
            raise CannotGrow(
                f"the optimizer's state holds {field!r} for each weight, for which there is no known exact rule (known: {', '.join(POWERS)}); {_WAY_ON}"
            )
        found[path] = (name, POWERS[field])
    if not found:
        raise InvalidArgument(
            f"optimizer must be an optax state or an nnx.Optimizer of this network; {type(optimizer).__name__} holds no array for any of its weights "
            "(a rule without a state, plain SGD, need not be carried)"
        )
    return found


_WAY_ON = "leave optimizer= out and begin a new state with tx.init(...)"


def _is_nnx(optimizer: Any) -> bool:
    return type(optimizer).__module__.startswith("flax.nnx") and hasattr(optimizer, "tx")


def _arrays(optimizer: Any) -> list[tuple[str, Any]]:
    if _is_nnx(optimizer):
        return [(".".join(map(str, path)), _value(v)) for path, v in _opt_state(optimizer)]
    leaves = jax.tree_util.tree_flatten_with_path(optimizer)[0]
    return [(dotted(path), leaf) for path, leaf in leaves if hasattr(leaf, "dtype")]


def _opt_state(optimizer: Any) -> list[tuple[tuple[Any, ...], Any]]:
    from flax import nnx

    return [(path, v) for path, v in nnx.to_flat_state(nnx.state(optimizer)) if path[0] == "opt_state"]


def _value(variable: Any) -> Any:
    return variable.get_value() if hasattr(variable, "get_value") else variable.value


def carried(optimizer: Any, names: Sequence[str], new: Any, moment: Moment) -> Any:
    """The same state for the network ``new``, with all moments; the argument is not touched."""
    known = powers_of(optimizer, names)

    def moved(path: str, value: Any) -> Any:
        if path not in known:
            return jax.numpy.copy(value)
        name, power = known[path]
        return jax.numpy.array(moment(name, power, np.asarray(value)), value.dtype)

    if _is_nnx(optimizer):
        from flax import nnx

        made = type(optimizer)(new, optimizer.tx, wrt=optimizer.wrt)
        values = {path: moved(".".join(map(str, path)), _value(v)) for path, v in _opt_state(optimizer)}
        if set(values) != {path for path, _ in _opt_state(made)}:
            raise CannotGrow(f"the state of {type(optimizer).__name__} is not what its rule begins with: {_WAY_ON}")
        flat = [(path, v.replace(values[path])) for path, v in _opt_state(made)]
        made.step[...] = _value(optimizer.step)
        nnx.update(made, nnx.from_flat_state(flat))
        return made
    leaves, form = jax.tree_util.tree_flatten_with_path(optimizer)
    state = jax.tree_util.tree_unflatten(
        form, [moved(dotted(path), leaf) if hasattr(leaf, "dtype") else leaf for path, leaf in leaves]
    )
    _follow_sizes(state, new)
    return state


def _follow_sizes(state: Any, new: Any) -> list[Setting]:
    """Moments of Equinox are modules of the network's kind, which remember its sizes: set, in place, as the new network has them."""
    from weightlapse.growth.jax_models import modules_of

    done: list[Setting] = []
    sizes = {path: vars(module) for path, module in modules_of(new)}
    if not sizes:
        return done
    for node in jax.tree_util.tree_leaves(state, is_leaf=lambda n: type(n) is type(new)):
        if type(node) is type(new):
            for path, module in modules_of(node):
                for key, value in sizes.get(path, {}).items():
                    if type(value) in (int, tuple) and vars(module).get(key) != value:
                        vars(module)[key] = value
    return done

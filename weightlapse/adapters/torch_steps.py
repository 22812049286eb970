"""When a torch optimizer, or whatever object the user steps, has made an update.

The outermost object counts: its own ``step`` is wrapped, so an update is over when the call that the user wrote returns, whatever optimizers, closures
and compiled graphs run inside. The hooks of the torch optimizers within catch what goes around it (a ``step`` that was bound before). Of a bare optimizer
hooks tell everything, at less cost, as long as ours is the last.

An object with an optimizer inside may be called without making an update (accumulated batches, a gradient scaler): there it is asked whether the
weights moved. A bare optimizer makes one at each call, but for one that a scaler let skip.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks as _AFTER_ALL
from torch.optim.optimizer import register_optimizer_step_post_hook as _register_after_all

from weightlapse.adapters.iteration import DOUBTFUL, Iteration
from weightlapse.adapters.nesting import inside_another_step, may_nest
from weightlapse.adapters.source import Watcher
from weightlapse.errors import InvalidArgument

_FINAL = ("step", "second_step", "descent_step", "step_and_update_lr")  # an update is made when one of these returns
_OPENING = (
    "first_step",
    "ascent_step",
    "extrapolation",
)  # moves the weights to where a gradient is taken, for the update to come


class TorchSteps:
    """Follows everything that is given as ``optimizer=``, from :meth:`follow` to :meth:`leave`. Refuses what cannot be followed when it is made."""

    given = True

    def __init__(self, optimizers: list[Any], iteration: Iteration | None = None) -> None:
        self._given = optimizers
        for optimizer in optimizers:
            _check(optimizer)
        self.iteration = iteration
        # the number, among those given, of each optimizer that is reached
        self._number = {id(o): k for k, given in enumerate(optimizers) for o in _reached(given)}
        self.inner = [o for given in optimizers for o in _reached(given)]
        # a bare optimizer touches the weights within step() alone; of a wrapper that is not known
        self._bare = {id(o): not _within(o) for o in self.inner}
        self.plain = all(self._bare[id(o)] and not _methods(o, _OPENING) for o in optimizers)
        self.running = False  # whether a call of something given is under way
        self._opened = False  # whether an update has begun that a later call will make
        self._inner_made = False  # whether an optimizer inside has made its own step in the present call
        self._wrapped: list[_Wrapped] = []
        self._handles: list[Any] = []
        self._watcher: Watcher | None = None

    @property
    def leaves(self) -> list[Any]:
        """The optimizers without another one inside: they keep the state of the parameters."""
        return [o for o in self.inner if self._bare[id(o)] and _groups(o)]

    def told(self) -> bool:
        """False: torch tensors count their own changes, so nobody has to ask here."""
        return False

    def parameters(self) -> list[torch.Tensor] | None:
        """All tensors that the optimizers hold, None when that cannot be told of one of them."""
        held: list[torch.Tensor] = []
        for given in self._given:
            groups = [g for o in _reached(given) for g in _groups(o)]
            if not groups:
                return None
            held += [p for group in groups for p in group["params"]]
        return held

    def wait(self) -> None:
        """Nothing to wait for: updates are told of in the thread that makes them."""

    def follow(self, watcher: Watcher) -> None:
        """As `Steps.follow`: hooks on bare optimizers, a wrapper around the ``step`` of everything else, and hooks on what lies within."""
        self._watcher = watcher
        for given in self._given:
            if self._tells(given):
                self._handles.append(_PlainHooks(self, given, watcher))
            else:
                self._wrapped += [_Wrapped(self, given, name) for name in _methods(given, _FINAL + _OPENING)]
        plain = [o for o in self._given if self._tells(o)]
        for optimizer in self.inner:
            if _has_hooks(optimizer) and not any(optimizer is o for o in plain):
                within = not any(optimizer is o for o in self._given)
                before, after = _hooks(self, may_nest(optimizer), within=within)
                self._handles += [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]

    def _tells(self, given: Any) -> bool:
        """Whether hooks say all: a bare torch optimizer whose ``step`` is that of its class, or this in the wrapper of a scheduler."""
        own = vars(given).get("step")
        return (
            self._bare[id(given)]
            and _has_hooks(given)
            and getattr(type(given).step, "hooked", False)
            and not may_nest(given)
            and _methods(given, _FINAL + _OPENING) == ["step"]
            and (own is None or (hasattr(own, "_wrapped_by_lr_sched") and own.__wrapped__ is type(given).step))
        )

    def leave(self) -> None:
        """Tell no more; hooks are removed and wrapped methods put back."""
        self._watcher = None
        for wrapped in self._wrapped:
            wrapped.take_off()
        for handle in self._handles:
            handle.remove()
        self._wrapped.clear()
        self._handles.clear()

    # ---- the user's call of the outermost object -------------------------------------------------------------------

    def run(self, owner: Any, name: str, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A call of ``owner.name(...)``; one within another is part of that one."""
        if self.running:
            return call(*args, **kwargs)
        if not self._opened:
            self.begins()
            self._opened = name in _OPENING
        self._inner_made = False
        self.running = True
        try:
            result = call(*args, **kwargs)
        finally:
            self.running = False
        if name in _FINAL:
            self.made(owner)
        return result

    def made(self, owner: Any) -> None:
        """``owner``, one of those given, has made a call that makes an update: tell of it, unless it was skipped or its iteration goes on."""
        self._opened = False
        if self._watcher is None or _was_skipped(owner):
            return
        if self.iteration is None:
            self._watcher.after(sure=self._bare[id(owner)] or self._inner_made)
        elif self.iteration.ended_by(self._number[id(owner)]):
            self._watcher.after(sure=all(self._bare[id(o)] for o in self._given))
            if self.iteration.doubtful:
                self._watcher.doubt(DOUBTFUL)

    # ---- calls that go around it -----------------------------------------------------------------------------------

    def begins(self) -> None:
        """An update begins, unless it is one of an iteration, of which others have moved the weights already."""
        if self._watcher is not None and (self.iteration is None or not self.iteration.under_way):
            self._watcher.before()

    def before_inner(self) -> None:
        """An optimizer within is about to step: the update begins with the first that does."""
        if not self._opened:
            self.begins()

    def after_inner(self, optimizer: Any, nests: bool) -> None:
        """An optimizer within has stepped: an update of its own, where no call of what was given is under way. ``nests``: it may run inside of another's step."""
        if self.running:
            self._inner_made = self._inner_made or not _was_skipped(optimizer)
        elif not (nests and inside_another_step(optimizer)):
            self.made(optimizer)


class _Wrapped:
    """Stands in for ``owner.name`` while it is followed. A copy of the owner, or a pickled one, gets its own plain method back."""

    def __init__(self, steps: TorchSteps, owner: Any, name: str) -> None:
        inner = getattr(owner, name)
        vars(self).update(getattr(inner, "__dict__", {}))  # marks that schedulers leave on a function
        self._steps = steps
        self._owner = owner
        self._name = name
        self._own = name in vars(owner)  # whether the object had one of its own already, as schedulers give it
        self.__wrapped__ = inner
        try:
            setattr(owner, name, self)
        except (AttributeError, TypeError) as error:
            raise _cannot_follow(owner) from error

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():  # being traced into a graph: what follows the call must happen outside of it
            result = self.__wrapped__(*args, **kwargs)
            _made_by_a_graph(self._steps, self._owner, self._name)
            return result
        return self._steps.run(self._owner, self._name, self.__wrapped__, args, kwargs)

    @property
    def __self__(self) -> Any:
        return self._owner

    @property
    def __func__(self) -> Callable[..., Any]:
        """What schedulers ask a method for, to wrap it once more."""
        return lambda owner, *args, **kwargs: self(*args, **kwargs)

    def take_off(self) -> None:
        if vars(self._owner).get(self._name) is not self:
            return  # somebody has wrapped it once more: it stays, and does nothing
        if self._own:
            setattr(self._owner, self._name, self.__wrapped__)
        else:
            delattr(self._owner, self._name)

    def _plain(self, owner: Any) -> Any:
        return types.MethodType(getattr(type(owner), self._name), owner)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if self._own or id(self._owner) not in memo:
            return copy.deepcopy(self.__wrapped__, memo)
        return self._plain(memo[id(self._owner)])

    def __reduce__(self) -> Any:
        return _same, (self.__wrapped__,)


def _same(value: Any) -> Any:
    return value


@torch.compiler.disable
def _made_by_a_graph(steps: TorchSteps, owner: Any, name: str) -> None:
    if name in _FINAL:
        steps.made(owner)


class _PlainHooks:
    """Tells of a bare optimizer with as few calls as there can be: the last of its hooks, or of those of all optimizers, is always ours."""

    def __init__(self, steps: TorchSteps, optimizer: Optimizer, watcher: Watcher) -> None:
        iteration, hooks = steps.iteration, optimizer._optimizer_step_post_hooks

        def before(_: Any, *__: Any) -> None:
            if steps.running or torch.compiler.is_compiling():
                return
            if next(reversed(hooks)) != mine.id:
                hooks.move_to_end(mine.id)  # type: ignore[attr-defined]
            if iteration is None:
                watcher.before()
            else:
                steps.begins()

        def after(optimizer: Any, *_: Any) -> None:
            if steps.running:
                return
            if torch.compiler.is_compiling():
                _made_by_a_graph(steps, optimizer, "step")
            elif _AFTER_ALL:
                self._after_all()
            elif iteration is not None:
                steps.made(optimizer)
            elif getattr(optimizer, "found_inf", None) is None or not _was_skipped(optimizer):
                watcher.after(sure=True)

        mine = optimizer.register_step_post_hook(after)
        self._steps, self._optimizer = steps, optimizer
        self._handles: list[Any] = [mine, optimizer.register_step_pre_hook(before)]
        self._last: Any = None

    def _after_all(self) -> None:
        """There are hooks of all optimizers, which are about to be called: ours comes after them."""
        if self._last is None:
            self._last = _register_after_all(self._at_last)
            self._handles.append(self._last)
        _AFTER_ALL.move_to_end(self._last.id)  # type: ignore[attr-defined]

    def _at_last(self, optimizer: Any, *_: Any) -> None:
        if optimizer is self._optimizer and not torch.compiler.is_compiling() and not self._steps.running:
            self._steps.made(optimizer)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def _hooks(steps: TorchSteps, nests: bool, *, within: bool) -> tuple[Callable[..., None], Callable[..., None]]:
    """Pre and post hook of an optimizer. Nothing of them is left in a compiled graph; ``within``: it is part of something that is given."""

    def before(optimizer: Any, *_: Any) -> None:
        if not steps.running and not torch.compiler.is_compiling():
            steps.before_inner()

    def after(optimizer: Any, *_: Any) -> None:
        if within or not steps.running:
            if not torch.compiler.is_compiling():
                steps.after_inner(optimizer, nests)
            elif not within and not steps.running:
                _made_by_a_graph(steps, optimizer, "step")

    return before, after


def _has_hooks(optimizer: Any) -> bool:
    return isinstance(optimizer, Optimizer) and "_optimizer_step_post_hooks" in vars(optimizer)


def _was_skipped(optimizer: Any) -> bool:
    """Whether a gradient scaler told an optimizer that skips by itself to skip this step."""
    skipped = getattr(optimizer, "found_inf", None)
    return skipped is not None and bool(skipped)


def _methods(optimizer: Any, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if callable(getattr(optimizer, name, None))]


def _within(optimizer: Any) -> list[Any]:
    """The optimizers that this object holds in attributes of its own."""
    held = []
    for value in list(getattr(optimizer, "__dict__", {}).values()):
        held += [v for v in (value if isinstance(value, (list, tuple)) else (value,)) if _steps_parameters(v)]
    return held


def _steps_parameters(value: Any) -> bool:
    return (
        not isinstance(value, type)
        and not _is_scheduler(value)
        and callable(getattr(value, "step", None))
        and (isinstance(value, Optimizer) or bool(_groups(value)))
    )


def _is_scheduler(value: Any) -> bool:
    return isinstance(value, (torch.optim.lr_scheduler.LRScheduler, torch.optim.lr_scheduler.ReduceLROnPlateau))


def _reached(optimizer: Any) -> list[Any]:
    """The object and all optimizers inside it, each once."""
    found: dict[int, Any] = {}
    left = [optimizer]
    while left:
        each = left.pop(0)
        if id(each) not in found:
            found[id(each)] = each
            left += _within(each)
    return list(found.values())


def _groups(optimizer: Any) -> list[Any]:
    try:
        groups = optimizer.param_groups
    except Exception:  # noqa: BLE001 — a property of somebody else's wrapper
        return []
    return [g for g in groups if isinstance(g, dict) and "params" in g] if isinstance(groups, (list, tuple)) else []


def _cannot_follow(optimizer: Any) -> InvalidArgument:
    return InvalidArgument(
        f"optimizer={type(optimizer).__name__}: its step() cannot be followed, because nothing can be set on it; "
        "leave optimizer= out and call rec.step() after each update"
    )


def _check(optimizer: Any) -> None:
    """Refuse what is no optimizer, with what was probably meant."""
    name = optimizer.__name__ if isinstance(optimizer, type) else type(optimizer).__name__
    if isinstance(optimizer, type):
        problem = f"this is the class; give the object that your loop steps: optimizer={name}(model.parameters(), ...)"
    elif _is_scheduler(optimizer):
        problem = "a scheduler changes the learning rate, not the weights; give the optimizer that it schedules"
    elif "GradScaler" in name:
        problem = "a scaler is not what holds the parameters; give the optimizer, its scaled steps are seen"
    elif not _methods(optimizer, _FINAL):
        problem = (
            "it has no step(): give a torch.optim.Optimizer, or whatever object your loop steps, or a list of them"
        )
    elif not hasattr(optimizer, "__dict__"):
        raise _cannot_follow(optimizer)
    else:
        return
    raise InvalidArgument(f"optimizer={name}: {problem}. In other frameworks call rec.step() or use the WatchCallback")

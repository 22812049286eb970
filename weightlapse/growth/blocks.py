"""A residual block that does nothing yet: a copy whose branches end in zeros.

Every branch that is added to the stream ends in an operator with parameters (an output projection, the second matrix of a
feed-forward net, the last norm of a ResNet block, a layer scale). With these zero the stream passes through unchanged, and
their gradient is not zero, so the block learns from the first step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from weightlapse.errors import CannotGrow
from weightlapse.growth.module import tensors_of
from weightlapse.growth.running import call, same_draws, tensors_in

_MOVES = frozenset(
    "t transpose permute view _unsafe_view reshape expand clone contiguous detach alias unsqueeze squeeze slice native_dropout "
    "_to_copy".split()
)
# Of zeros they give zeros, of a parameter a part of it; but a part of the stream is not the stream.
_PICKS = frozenset("index index_select gather select sum mean".split())
_FILLED = frozenset("zeros zeros_like new_zeros".split())
_GATHERED = frozenset("index_add scatter_add index_put index_copy".split())  # something written into something
_KEEPS_ZERO = frozenset("relu gelu silu tanh hardtanh leaky_relu elu hardswish mish div".split())
_PRODUCTS = frozenset(
    "mm addmm bmm baddbmm linear convolution native_batch_norm _native_batch_norm_legit cudnn_batch_norm "
    "_native_batch_norm_legit_no_training native_layer_norm mul _grouped_mm grouped_mm_fallback".split()
)


def silenced(block: nn.Module, calls: Sequence[tuple[tuple[Any, ...], dict[str, Any]]], path: str) -> list[str]:
    """Zeroes, in place, the parameters that end the branches of ``block``; returns their names.

    ``calls`` are arguments with which the block was called. Raises CannotGrow when the block is not a stream with branches
    added to it (a norm after the sum, a change of shape).
    """
    tensors = tensors_of(block)
    ends: set[str] = set()
    for args, kwargs in calls:
        flow = _Flow(
            {id(t): name for name, (t, _) in tensors.items()}, next(iter(tensors_in([*args, *kwargs.values()])))
        )
        block.eval()
        with torch.no_grad(), same_draws(), no_fast_path(), flow:
            result = block(*args, **kwargs)
        out = tensors_in(result)[0]
        if not flow.is_stream(out) or not flow.ends:
            raise CannotGrow(
                f"{path} cannot be repeated as a block that does nothing: its output is not its input plus branches "
                "(a norm or another layer acts on the sum, or the shape changes)"
            )
        ends |= flow.ends
    with torch.no_grad():
        for name in ends:
            tensors[name][0].zero_()
    for args, kwargs in calls:
        with torch.no_grad(), same_draws():
            before = tensors_in([*args, *kwargs.values()])[0].clone()
            after = tensors_in(block(*args, **kwargs))[0]
        if after.shape != before.shape or not torch.equal(after, before):
            raise CannotGrow(
                f"{path} cannot be repeated as a block that does nothing: with every branch zero it still changes its input "
                "(an activation or norm acts on the stream itself)"
            )
    return sorted(ends)


@contextmanager
def no_fast_path() -> Iterator[None]:
    """Attention in separate operators: the fused ones of eval mode hide where a branch ends."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


def calls_of(model: nn.Module, path: str, examples: Sequence[Any]) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The arguments with which the module at ``path`` is called on the examples."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((args, dict(kwargs)))

    handle = model.get_submodule(path).register_forward_pre_hook(hook, with_kwargs=True)
    try:
        model.eval()
        with torch.no_grad(), same_draws():
            for example in examples:
                call(model, example)
    finally:
        handle.remove()
    return seen


class _Flow(TorchDispatchMode):
    """Follows the stream through a block, and for every other tensor the parameters whose zeroing would make it zero."""

    def __init__(self, parameters: dict[int, str], stream: torch.Tensor) -> None:
        super().__init__()
        self.parameter = dict(parameters)
        self.stream = {id(stream)}
        self.zeroed_by: dict[int, frozenset[str]] = {}
        self.ends: set[str] = set()
        self.kept: list[Any] = [stream]  # an id must not be used twice

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def is_stream(self, tensor: torch.Tensor) -> bool:
        return id(tensor) in self.stream

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        out = result[0] if isinstance(result, (tuple, list)) else result
        if not isinstance(out, torch.Tensor):
            return result
        self.kept.append((args, result))
        name = func.overloadpacket.__name__.removesuffix("_")
        inputs = [a for a in args if isinstance(a, torch.Tensor)]
        parameters = [self.parameter[id(a)] for a in inputs if id(a) in self.parameter]
        streams = [a for a in inputs if id(a) in self.stream]
        zeroed = [self.zeroed_by[id(a)] for a in inputs if id(a) in self.zeroed_by]
        was_stream = id(out) in self.stream
        self.stream.discard(id(out))
        self.zeroed_by.pop(id(out), None)  # written in place: what was known of it is old
        if name == "add" and len(inputs) == 2:
            if streams and zeroed:
                self.ends |= zeroed[0]
                self.stream.add(id(out))
            elif zeroed and (parameters or len(zeroed) == 2):
                self.zeroed_by[id(out)] = frozenset(parameters).union(*zeroed)
        elif name in _MOVES and inputs:
            source = id(inputs[0])
            if source in self.parameter:
                self.parameter[id(out)] = self.parameter[source]
            if source in self.zeroed_by:
                self.zeroed_by[id(out)] = self.zeroed_by[source]
            if source in self.stream or was_stream:
                self.stream.add(id(out))
        elif name in _FILLED:
            self.zeroed_by[id(out)] = frozenset()
        elif name in _GATHERED and len(zeroed) == 2:
            self.zeroed_by[id(out)] = frozenset().union(*zeroed)
        elif name in _PICKS and inputs:
            source = id(inputs[0])
            if source in self.parameter and name not in ("sum", "mean"):
                self.parameter[id(out)] = self.parameter[source]
            if source in self.zeroed_by:
                self.zeroed_by[id(out)] = self.zeroed_by[source]
        elif name in _PRODUCTS and parameters:
            self.zeroed_by[id(out)] = frozenset(parameters)
        elif (name in _KEEPS_ZERO or name == "mul") and zeroed:
            self.zeroed_by[id(out)] = min(zeroed, key=len)
        elif name in _KEEPS_ZERO and streams:
            self.stream.add(
                id(out)
            )  # an activation on the stream: exact where the stream is in its range, checked below
        return result

"""Many networks of one architecture as one object: their parameters in one matrix, their forward pass in one call."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from weightlapse.adapters.chain import activate, find_chain
from weightlapse.errors import InvalidArgument

_INTEGER = (int, np.integer)


@dataclass(frozen=True)
class Slot:
    """Where one tensor lies in a member's row: ``row[start:stop].reshape(shape)``."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int


class Stack:
    """``n`` networks with the architecture of ``template``.

    ``theta`` (n, P) holds all parameters, one member a row, in the order of ``template.named_parameters()``; ``buffers`` are stacked by
    name, (n, *S). Calling it runs every member: ``x`` is (B, ...) for all, or (n, B, ...) with ``per_member=True``; result (n, B, ...).

    >>> stack = Stack.make(lambda: nn.Linear(3, 2), 5)
    >>> stack(torch.zeros(4, 3)).shape, stack.states["weight"].shape
    (torch.Size([5, 4, 2]), torch.Size([5, 2, 3]))
    """

    def __init__(self, template: nn.Module, theta: Tensor, buffers: dict[str, Tensor]) -> None:
        self.template, self.theta, self.buffers = template, theta, buffers
        self.chain = find_chain(template)
        self.slots: list[Slot] = []
        at = 0
        for name, parameter in template.named_parameters():
            stop = at + parameter.numel()
            self.slots.append(Slot(name, tuple(parameter.shape), at, stop))
            at = stop
        if theta.ndim != 2 or theta.shape[1] != at:
            raise InvalidArgument(f"Stack: theta has shape {tuple(theta.shape)}, but one member has {at} parameters")

    # ---- making one

    @classmethod
    def make(
        cls,
        make_model: Callable[..., nn.Module],
        n: int,
        *,
        seeds: Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
    ) -> Stack:
        """``make_model()``, or ``make_model(seed)`` where it takes an argument, called n times with torch seeded by ``seeds`` (0..n-1)."""
        if n < 1:
            raise InvalidArgument(f"an ensemble needs at least one member, not {n}")
        seeds = list(range(n)) if seeds is None else [int(s) for s in seeds]
        if len(seeds) != n:
            raise InvalidArgument(f"{len(seeds)} seeds for {n} members: each member needs one")
        takes_seed = _takes_an_argument(make_model)
        # Without a GPU torch.manual_seed formats a traceback for each absent device; a thousand members notice.
        set_seed = torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed
        with torch.random.fork_rng(devices=[]):
            models = []
            for seed in seeds:
                set_seed(seed)
                models.append(make_model(seed) if takes_seed else make_model())
        return cls.of(models, dtype=dtype)

    @classmethod
    def of(cls, models: Sequence[nn.Module], *, dtype: torch.dtype | None = None) -> Stack:
        """Copies of the parameters and buffers of ``models``, which must share one architecture."""
        first = models[0]
        shapes = {n: p.shape for n, p in first.named_parameters()}
        if not shapes:
            raise InvalidArgument("an ensemble's model must have parameters")
        for i, model in enumerate(models):
            if type(model) is not type(first) or {n: p.shape for n, p in model.named_parameters()} != shapes:
                raise InvalidArgument(
                    f"member {i} is not of the same architecture as member 0: make_model must not vary it"
                )
        if any(p.device.type != "cpu" for m in models for p in m.parameters()):
            raise InvalidArgument(
                "an ensemble's networks are small and train on the CPU: make_model must leave them there"
            )
        template = copy.deepcopy(first)
        if dtype is not None:
            template = template.to(dtype)
        kinds = {p.dtype for p in template.parameters()}
        if len(kinds) > 1 or not next(iter(kinds)).is_floating_point:
            raise InvalidArgument(
                f"an ensemble needs all parameters in one floating dtype, not {', '.join(map(str, kinds))}; pass dtype="
            )
        theta = torch.stack([torch.cat([p.detach().reshape(-1) for p in m.parameters()]) for m in models])
        buffers = {n: torch.stack([dict(m.named_buffers())[n] for m in models]) for n, _ in first.named_buffers()}
        kind = kinds.pop()
        return cls(
            template, theta.to(kind), {n: b.to(kind) if b.is_floating_point() else b for n, b in buffers.items()}
        )

    def with_states(self, states: Mapping[str, Any]) -> Stack:
        """A stack of the same architecture with the tensors ``states``, name -> (n, *S)."""
        rows = [torch.as_tensor(states[s.name]).reshape(-1, s.stop - s.start) for s in self.slots]
        buffers = {n: torch.as_tensor(states[n]).clone() for n in self.buffers}
        return Stack(self.template, torch.cat(rows, dim=1), buffers)

    # ---- looking at it

    def __len__(self) -> int:
        return len(self.theta)

    @property
    def parameters(self) -> int:
        """Number of parameters of one member."""
        return self.theta.shape[1]

    @property
    def states(self) -> dict[str, Tensor]:
        """Name -> (n, *S): parameters (views of ``theta``) and buffers."""
        return self.named(self.theta) | self.buffers

    def named(self, theta: Tensor) -> dict[str, Tensor]:
        """``theta`` (n, P) as name -> (n, *S)."""
        return {
            s.name: theta[:, s.start : s.stop].unflatten(1, s.shape) if s.shape else theta[:, s.start]
            for s in self.slots
        }

    def state(self, i: int) -> dict[str, Tensor]:
        """State dict of member ``i`` (a copy)."""
        return {name: value[i].clone() for name, value in self.states.items()}

    def member(self, i: int) -> nn.Module:
        """Member ``i`` as an ordinary module, a copy."""
        model = copy.deepcopy(self.template)
        model.load_state_dict(self.state(i), strict=False)
        return model

    def __getitem__(self, members: slice | Sequence[int] | Tensor) -> Stack:
        """The chosen members, as a copy."""
        if isinstance(members, _INTEGER):
            raise InvalidArgument("a Stack is indexed by slices, lists or masks; one member as a module is .member(i)")
        chosen = members if isinstance(members, slice) else torch.as_tensor(members)
        return Stack(self.template, self.theta[chosen].clone(), {n: b[chosen].clone() for n, b in self.buffers.items()})

    def to(self, dtype: torch.dtype) -> Stack:
        """The same networks in another floating dtype."""
        buffers = {n: b.to(dtype) if b.is_floating_point() else b.clone() for n, b in self.buffers.items()}
        return Stack(copy.deepcopy(self.template).to(dtype), self.theta.to(dtype), buffers)

    # ---- running it

    @torch.no_grad()
    def __call__(self, x: Tensor, *, per_member: bool | None = None) -> Tensor:
        per_member = self.is_per_member(x) if per_member is None else per_member
        return self.forward(self.theta, x, per_member=per_member)

    def is_per_member(self, x: Tensor) -> bool:
        """For dense chains the shape tells; every other network says per_member= where it means it."""
        if self.chain is None:
            return False
        if x.ndim == 3 and len(x) != len(self):
            raise InvalidArgument(f"x has shape {tuple(x.shape)}: its first axis must be the {len(self)} members")
        return x.ndim == 3

    def forward(
        self, theta: Tensor, x: Tensor, *, per_member: bool, buffers: dict[str, Tensor] | None = None
    ) -> Tensor:
        """Outputs (n, B, ...) with the parameters ``theta``; differentiable. Buffers that the network writes are updated in place."""
        held = self.buffers if buffers is None else buffers
        if self.chain is not None:
            named = self.named(theta)
            a = x if per_member else x.expand(len(theta), *x.shape)
            for layer in self.chain.layers:
                weight = named[layer.weight].transpose(1, 2)
                z = (
                    torch.bmm(a, weight)
                    if layer.bias is None
                    else torch.baddbmm(named[layer.bias][:, None, :], a, weight)
                )
                a = activate(layer.activation, z)
            return a

        def one(row: Tensor, buffers: dict[str, Tensor], inputs: Tensor) -> Tensor:
            made = {s.name: row[s.start : s.stop].reshape(s.shape) for s in self.slots}
            out: Tensor = functional_call(self.template, made | buffers, (inputs,))
            return out

        try:
            # The fused attention kernels have no batching rule; the plain one is made of operators that have.
            with sdpa_kernel(SDPBackend.MATH):
                return vmap(one, in_dims=(0, 0, 0 if per_member else None), randomness="different")(theta, held, x)
        except RuntimeError as error:
            if "atching rule not implemented" not in str(error):
                raise
        # Recurrent layers have none at all: right, but member by member.
        outs = [one(row, {n: b[i] for n, b in held.items()}, x[i] if per_member else x) for i, row in enumerate(theta)]
        return torch.stack(outs)


def _takes_an_argument(make_model: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(make_model).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty for p in parameters)


def glorot(
    *sizes: int, activation: type[nn.Module] = nn.Tanh, output: type[nn.Module] | None = None
) -> Callable[[], nn.Module]:
    """A ``make_model`` for dense networks with Keras's start: Glorot-uniform kernels, zero biases, ``activation`` between the layers.

    >>> glorot(10, 8, 8, 1, output=nn.Tanh)()[0]
    Linear(in_features=10, out_features=8, bias=True)
    """

    def make() -> nn.Module:
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(pairwise(sizes)):
            linear = nn.Linear(a, b)
            limit = math.sqrt(6 / (a + b))
            nn.init.uniform_(linear.weight, -limit, limit)
            nn.init.zeros_(linear.bias)
            layers.append(linear)
            last = i == len(sizes) - 2
            if not last:
                layers.append(activation())
            elif output is not None:
                layers.append(output())
        return nn.Sequential(*layers)

    return make

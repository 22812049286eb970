"""Residuals of many small networks and their Jacobians, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call, jacrev, vmap

from weightlapse.adapters.chain import activate, slope
from weightlapse.ensembles.stack import Stack
from weightlapse.errors import InvalidArgument

# Jacobians of so many bytes at once: long products, but small enough for caches and for several threads.
_CHUNK_BYTES = 16_000_000


@dataclass(frozen=True)
class Residuals:
    """r = f(x) - y of every member of ``stack`` (float64, in eval mode). ``x`` and ``y`` have the member axis where ``own_x``, ``own_y``."""

    stack: Stack
    x: Tensor
    y: Tensor
    own_x: bool
    own_y: bool

    @classmethod
    def of(cls, stack: Stack, x: Tensor, y: Tensor, per_member: bool | None) -> Residuals:
        """Targets have the member axis where their shape says so; inputs by ``per_member``, or by shape for dense chains."""
        own_x = stack.is_per_member(x) if per_member is None else per_member
        answers = tuple(stack(x[:, :1] if own_x else x[:1], per_member=own_x).shape[2:])
        count = x.shape[1] if own_x else x.shape[0]
        shared = (count, *answers)
        if tuple(y.shape) not in (shared, (len(stack), *shared)):
            raise InvalidArgument(
                f"polish: targets have shape {tuple(y.shape)}, expected {shared} for all members or {(len(stack), *shared)}"
            )
        return cls(stack, x, y, own_x, tuple(y.shape) != shared)

    @property
    def count(self) -> int:
        """Residuals per member."""
        return int(self.y[0].numel() if self.own_y else self.y.numel())

    def chunks(self, members: Tensor) -> Iterator[Tensor]:
        """``members`` in groups whose Jacobians fit into memory."""
        size = max(1, _CHUNK_BYTES // (8 * self.count * self.stack.parameters))
        yield from members.split(size)

    def values(self, theta: Tensor, members: Tensor) -> Tensor:
        """r (c, M) of ``members`` (c,) with the parameters ``theta`` (c, P)."""
        x, buffers = self.x[members] if self.own_x else self.x, {n: b[members] for n, b in self.stack.buffers.items()}
        out = self.stack.forward(theta, x, per_member=self.own_x, buffers=buffers)
        return (out - (self.y[members] if self.own_y else self.y)).flatten(1)

    def errors(self, theta: Tensor, members: Tensor) -> Tensor:
        """Mean squared residual (c,) of ``members``."""
        return self.values(theta, members).square().mean(1)

    def with_jacobian(self, theta: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
        """r (c, M) and dr / dtheta (c, M, P)."""
        return self._by_hand(theta, members) if self.stack.chain is not None else self._by_autograd(theta, members)

    def _by_autograd(self, theta: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
        stack = self.stack
        buffers = {n: b[members] for n, b in stack.buffers.items()}

        def answer(row: Tensor, held: dict[str, Tensor], sample: Tensor) -> Tensor:
            made = {s.name: row[s.start : s.stop].reshape(s.shape) for s in stack.slots}
            out: Tensor = functional_call(stack.template, made | held, (sample[None],))
            return out.flatten()

        over_samples = vmap(jacrev(answer), in_dims=(None, None, 0))
        x = self.x[members] if self.own_x else self.x
        try:
            jacobian = vmap(over_samples, in_dims=(0, 0, 0 if self.own_x else None))(theta, buffers, x)
        except RuntimeError as error:
            raise InvalidArgument(
                f"polish: the Jacobians of this network cannot be batched, as with LSTM and GRU layers ({error}); use method='lbfgs'"
            ) from error
        return self.values(theta, members), jacobian.flatten(1, 2)

    def _by_hand(self, theta: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
        """Backward pass for each output separately; rows sample-major, as ``values``."""
        stack, chain = self.stack, self.stack.chain
        assert chain is not None
        named = stack.named(theta)
        x = self.x[members] if self.own_x else self.x.expand(len(theta), *self.x.shape)
        values = [x]
        for layer in chain.layers:
            z = torch.bmm(values[-1], named[layer.weight].transpose(1, 2))
            if layer.bias is not None:
                z += named[layer.bias][:, None, :]
            values.append(activate(layer.activation, z))
        bends = [slope(layer.activation, a) for layer, a in zip(chain.layers, values[1:], strict=True)]
        c, samples, outputs = values[-1].shape
        jacobian = torch.empty(c, samples, outputs, stack.parameters, dtype=theta.dtype)
        into = {s.name: jacobian[..., s.start : s.stop].unflatten(-1, s.shape) for s in stack.slots}
        for o in range(outputs):
            delta = torch.zeros(c, samples, outputs, dtype=theta.dtype)
            delta[:, :, o] = 1.0
            for i in range(len(chain.layers) - 1, -1, -1):
                layer, bend = chain.layers[i], bends[i]
                if bend is not None:
                    delta = delta * bend
                torch.mul(delta[..., :, None], values[i][..., None, :], out=into[layer.weight][:, :, o])
                if layer.bias is not None:
                    into[layer.bias][:, :, o] = delta
                if i:
                    delta = torch.bmm(delta, named[layer.weight])
        target = self.y[members] if self.own_y else self.y
        return (values[-1] - target).flatten(1), jacobian.flatten(1, 2)

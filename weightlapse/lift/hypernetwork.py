"""A network whose weights are written, for every input anew, by another network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from weightlapse.adapters.chain import Chain, activate, find_chain
from weightlapse.adapters.threads import WORTH_THREADS, single_threaded
from weightlapse.errors import InvalidArgument, UnknownTensor, closest
from weightlapse.lift.generators import ChunkedGenerator, Slot, dense_generator, glorot_, hyperfan_
from weightlapse.wiring.programs.find import is_foreign, program_of
from weightlapse.wiring.programs.program import Program

# From here on one output row per weight costs more than the piecewise generator (hidden x outputs numbers in the last layer).
_CHUNK_FROM = 20_000
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


class Lift(nn.Module):
    """A hypernetwork; `wl.HyperNetwork` is the same class under the field's name, *Lift* the name of the document that it comes from.

    It runs ``task`` with weights that ``generator`` writes for each input: ``net(x)[i] = task_{w(x[i])}(x[i])``, a whole batch at once.

    Parameters
    ----------
    task: any module. It is copied, never changed. A Keras model, Flax NNX or Equinox module is run by torch, as its own framework traces it: the
        Lift and its training are torch's, and ``weights_for`` gives weights under their own names ("dense/kernel"). Buffers are shared by all
        inputs; norm layers keep to their running statistics,
        because a batch whose rows have different weights has no common statistics.
    generator: module (B, H) -> (B, P), or hidden sizes such as ``(10,)``; P is the number of generated weights, in the order of
        ``task.named_parameters()``. Default: one hidden ReLU layer, or a `ChunkedGenerator` from 20 000 weights on.
    parameters: glob or globs on parameter names: what is generated. The others stay ordinary trainable parameters of the net.
    hyper_input: None (the generator sees x, flattened), a callable x -> (B, H), or the width H of a second argument: ``net(x, hyper)``.
    base: None; "frozen" (generated numbers are added to the task's own weights), or "trained" (and those are trained as well).
    init: "glorot" (Keras's start: Glorot-uniform, zero bias), "hyperfan_in" or "hyperfan_out" (right scale of the *generated* network, for
        hyper-inputs of unit variance), or None (as the generator came). Default: "glorot" for a generator made here, None for yours.
    chunk_size: at most so many inputs at once in the general path, to bound memory. Layers without a batching rule (LSTM, GRU) are run
        row by row.

    Sources: Ha, Dai and Le, "HyperNetworks" (2016); Chang et al. (2020) for the initialisation. Unlike hypernetwork libraries, each
    input of a batch has its own weights (``torch.func.vmap`` over ``functional_call``; batched products where the task is a dense chain).

    >>> net = Lift(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1)))
    >>> net(torch.zeros(7, 3)).shape, net.weights_for(torch.zeros(7, 3))["0.weight"].shape
    (torch.Size([7, 1]), torch.Size([7, 5, 3]))
    """

    def __init__(
        self,
        task: nn.Module,
        generator: nn.Module | Sequence[int] | None = None,
        *,
        parameters: str | Sequence[str] = "*",
        hyper_input: int | Callable[[Tensor], Tensor] | None = None,
        base: str | None = None,
        init: str | None = "default",
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        if base not in (None, "frozen", "trained"):
            raise InvalidArgument(f"Lift: base must be None, 'frozen' or 'trained', not {base!r}")
        foreign = is_foreign(task)
        if foreign:
            task = program_of(task)
        elif not isinstance(task, nn.Module):
            raise InvalidArgument(
                f"Lift: task must be a torch module, a Keras model or a Flax NNX or Equinox module, not {type(task).__name__}"
            )
        self.task = copy.deepcopy(task)
        chain = None if foreign else find_chain(self.task)
        self.slots = _slots(self.task, parameters)
        self.generated = sum(s.stop - s.start for s in self.slots)
        self.base = base
        self.chunk_size = chunk_size
        self.hyper_width = hyper_input if isinstance(hyper_input, int) else None
        self.hyper_map = hyper_input if callable(hyper_input) else None
        ours = not isinstance(generator, nn.Module)
        self.generator = generator if isinstance(generator, nn.Module) else self._make_generator(chain, generator)
        if init == "default":
            init = "glorot" if ours else None
        if init not in (None, "glorot", "hyperfan_in", "hyperfan_out"):
            raise InvalidArgument(f"Lift: init must be 'glorot', 'hyperfan_in', 'hyperfan_out' or None, not {init!r}")
        if init == "glorot":
            glorot_(self.generator)
        elif init is not None:
            relu = any(isinstance(m, nn.ReLU) for m in task.modules())
            hyperfan_(self.generator, self.slots, mode=init.removeprefix("hyperfan_"), relu=relu)
        self.base_values = _hand_over(self.task, self.slots, base)
        self.task_chain = chain
        self._check_widths()
        self.train(task.training)

    def train(self, mode: bool = True) -> Lift:
        """As for any module, except that norm layers of the task stay on their running statistics (a task of another framework as a whole)."""
        super().train(mode)
        for m in self.task.modules():
            if (isinstance(m, _NORMS) and m.track_running_stats) or isinstance(m, Program):
                m.eval()
        return self

    def forward(self, x: Tensor, hyper: Tensor | None = None) -> Tensor:
        """The task's outputs (B, ...) on ``x`` (B, ...), each row with its own weights."""
        with single_threaded(
            x.device.type == "cpu" and len(x) * self.generated < WORTH_THREADS and self.task_chain is not None
        ):
            return self.run_with(x, self.flat_weights_for(x, hyper))

    def run_with(self, x: Tensor, flat: Tensor) -> Tensor:
        """The task's outputs on ``x`` (B, ...) with the generated weights ``flat`` (B, P)."""
        if self.task_chain is not None and x.ndim == 2:
            return self._run_chain(x, flat)
        return self._run_any(x, flat)

    def weights_for(self, x: Tensor, hyper: Tensor | None = None) -> dict[str, Tensor]:
        """The generated weights for each row of ``x``: name -> (B, *S); differentiable, base included."""
        flat = self.flat_weights_for(x, hyper)
        return {s.name: flat[:, s.start : s.stop].reshape(-1, *s.shape) for s in self.slots}

    def flat_weights_for(self, x: Tensor, hyper: Tensor | None = None) -> Tensor:
        """The same as one matrix (B, P), in the order of ``slots``."""
        flat: Tensor = self.generator(self.hyper_for(x, hyper))
        if flat.shape != (x.shape[0], self.generated):
            raise InvalidArgument(
                f"Lift: the generator returned shape {tuple(flat.shape)} for {x.shape[0]} inputs; "
                f"it must write {self.generated} weights for each: ({x.shape[0]}, {self.generated})"
            )
        return flat if self.base is None else flat + self.base_vector()

    def base_vector(self) -> Tensor:
        """The task's own weights (P,) in the order of ``slots``: the base of "frozen" and "trained", the start of rule "fixed_start"."""
        values = [
            self.base_values.get_parameter(_key(s)) if self.base == "trained" else self.base_values.get_buffer(_key(s))
            for s in self.slots
        ]
        return torch.cat([v.reshape(-1) for v in values])

    def hyper_for(self, x: Tensor, hyper: Tensor | None = None) -> Tensor:
        """What the generator sees for ``x``: (B, H)."""
        if (hyper is None) != (self.hyper_width is None):
            need = (
                "takes no second argument"
                if self.hyper_width is None
                else f"needs net(x, hyper) with hyper ({x.shape[0]}, {self.hyper_width})"
            )
            raise InvalidArgument(f"Lift: this net {need}; hyper_input= decides that when it is made")
        if hyper is not None:
            if hyper.shape != (x.shape[0], self.hyper_width):
                raise InvalidArgument(
                    f"Lift: hyper has shape {tuple(hyper.shape)}, expected ({x.shape[0]}, {self.hyper_width})"
                )
            return hyper
        return self.hyper_map(x) if self.hyper_map is not None else x.flatten(1)

    @torch.no_grad()
    def task_at(self, x: Tensor, hyper: Tensor | None = None) -> nn.Module:
        """The one network written for one input ``x`` (1, ...): an ordinary copy of the task that owns all its parameters."""
        if len(x) != 1:
            raise InvalidArgument(f"Lift.task_at: x must be a single input (1, ...), not {tuple(x.shape)}")
        values = self.weights_for(x, hyper)
        made = copy.deepcopy(self.task)
        for slot in self.slots:
            new = nn.Parameter(values[slot.name][0].clone())
            for name in (slot.name, *slot.aliases):
                module, leaf = _owner(made, name)
                del module._buffers[leaf]
                module.register_parameter(leaf, new)
        return made

    def _run_chain(self, x: Tensor, flat: Tensor) -> Tensor:
        assert self.task_chain is not None
        made = {s.name: flat[:, s.start : s.stop].reshape(-1, *s.shape) for s in self.slots}
        for layer in self.task_chain.layers:
            if layer.weight in made:
                x = torch.bmm(made[layer.weight], x[:, :, None])[:, :, 0]
            else:
                x = nn.functional.linear(x, self.task.get_parameter(layer.weight))
            if layer.bias is not None:
                x = x + (made[layer.bias] if layer.bias in made else self.task.get_parameter(layer.bias))
            x = activate(layer.activation, x)
        return x

    def _run_any(self, x: Tensor, flat: Tensor) -> Tensor:
        def one(weights: Tensor, row: Tensor) -> Tensor:
            out: Tensor = functional_call(self.task, self._named(weights), (row[None],))
            return out[0]

        try:
            # The fused attention kernels have no batching rule; the plain one is made of operators that have.
            with sdpa_kernel(SDPBackend.MATH):
                return vmap(one, randomness="different", chunk_size=self.chunk_size)(flat, x)
        except RuntimeError as error:
            # recurrent layers, and Keras' convolutions on torch: right, but row by row
            if "atching rule not implemented" in str(error) or "inside of vmap" in str(error):
                return torch.stack([one(weights, row) for weights, row in zip(flat, x, strict=True)])
            written = self._buffers_written(x[:1], flat[:1])
            if not written:
                raise
            raise InvalidArgument(
                f"Lift: the task writes to its buffers while it runs ({', '.join(written)}), with values that differ from input to "
                "input; one buffer cannot serve a batch of networks. Put that layer into eval mode, or take it out of the task"
            ) from error

    def _named(self, weights: Tensor) -> dict[str, Tensor]:
        """One flat vector (P,) as the task's tensors, tied ones under each of their names."""
        made = {}
        for slot in self.slots:
            value = weights[slot.start : slot.stop].reshape(slot.shape)
            made.update(dict.fromkeys((slot.name, *slot.aliases), value))
        return made

    @torch.no_grad()
    def _buffers_written(self, x: Tensor, flat: Tensor) -> list[str]:
        probe = copy.deepcopy(self.task)
        before = {n: b.clone() for n, b in probe.named_buffers()}
        functional_call(probe, self._named(flat[0]), (x,))
        return [n for n, b in probe.named_buffers() if not torch.equal(b, before[n])]

    def _make_generator(self, chain: Chain | None, hidden: Sequence[int] | None) -> nn.Module:
        width = self.hyper_width or (chain.inputs if chain is not None and self.hyper_map is None else None)
        if width is None and self.hyper_map is None:
            width = getattr(self.task, "input_width", None)  # Keras models know it
        if width is None:
            raise InvalidArgument(
                "Lift: the width of the generator's input cannot be told from this task; pass a generator module, or hyper_input=<width>"
            )
        like = next(self.task.parameters())
        made: nn.Module
        if hidden is None and self.generated >= _CHUNK_FROM:
            made = ChunkedGenerator(width, self.generated)
        else:
            made = dense_generator(width, self.generated, hidden)
        return made.to(dtype=like.dtype, device=like.device)

    def _check_widths(self) -> None:
        chain = find_chain(self.generator)
        writes = chain.outputs if chain is not None else self.generated
        if writes != self.generated:
            raise InvalidArgument(
                f"Lift: the generator writes {writes} numbers, but the selected weights of the task are {self.generated} "
                f"({', '.join(f'{s.name} {s.stop - s.start}' for s in self.slots[:8])}); change the generator's last layer"
            )


HyperNetwork = Lift
"""The field's name of `wl.Lift`: the same class."""


def _slots(task: nn.Module, globs: str | Sequence[str]) -> tuple[Slot, ...]:
    wanted = [globs] if isinstance(globs, str) else list(globs)
    names = [name for name, _ in task.named_parameters()]
    if not names:
        raise InvalidArgument("Lift: the task has no parameters, so there is nothing to generate")
    for glob in wanted:
        if not any(fnmatchcase(name, glob) for name in names):
            raise UnknownTensor(f"Lift: no parameter of the task matches {glob!r}; {closest(glob, names)}")
    every = list(task.named_parameters(remove_duplicate=False))
    slots, at = [], 0
    for name, parameter in task.named_parameters():
        if any(fnmatchcase(name, glob) for glob in wanted):
            aliases = tuple(n for n, p in every if p is parameter and n != name)
            slots.append(Slot(name, tuple(parameter.shape), at, at + parameter.numel(), aliases))
            at += parameter.numel()
    if not slots:
        raise InvalidArgument("Lift: parameters= selects nothing; pass '*' or a glob such as '*.weight'")
    return tuple(slots)


def _key(slot: Slot) -> str:
    return slot.name.replace(".", "/")


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf


def _hand_over(task: nn.Module, slots: Sequence[Slot], base: str | None) -> nn.Module:
    """Turn the generated parameters of ``task`` into buffers, so that only the generator's are trained; returns where their values are kept."""
    store = nn.Module()
    for slot in slots:
        value = task.get_parameter(slot.name).detach().clone()
        if base == "trained":
            store.register_parameter(_key(slot), nn.Parameter(value))
        else:
            store.register_buffer(_key(slot), value, persistent=base is not None)
        for name in (slot.name, *slot.aliases):
            module, leaf = _owner(task, name)
            del module._parameters[leaf]
            module.register_buffer(leaf, value, persistent=False)
    return store

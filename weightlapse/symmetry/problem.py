"""What is to be solved: two states of one wiring and one size, what may be moved, and how long to look. Whatever can be wrong with it is told here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from weightlapse.arguments import search_seed
from weightlapse.errors import InvalidArgument
from weightlapse.symmetry.checks import check_same_shapes, check_wiring_fits, wired_arrays
from weightlapse.symmetry.elements import Elements
from weightlapse.symmetry.nets import Net, Nets, sound
from weightlapse.symmetry.runner import Runner
from weightlapse.symmetry.search import ONCE, Budget, Search
from weightlapse.symmetry.states import FloatArrays, short_floats
from weightlapse.symmetry.units import allowed_symmetries
from weightlapse.symmetry.widths import OneSize, differ_in_width
from weightlapse.wiring.data import Wiring


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Find the element that brings ``state_b`` onto ``state_a``.

    ``arrays``: their tensors that units live in, in one precision. ``nets``: the networks that they are of, as they came; ``sizes``: how networks of
    different widths were brought into one size, else None. ``allowed``: of "permutation", "sign", "scale", "basis". ``short``: the float type of less
    than 32 bits that b has, in which nothing may be rescaled. ``notes``: what the result has to say of it.
    """

    nets: Nets
    wiring: Wiring
    state_a: Mapping[str, Any] = field(repr=False)
    state_b: Mapping[str, Any] = field(repr=False)
    arrays: tuple[FloatArrays, FloatArrays] = field(repr=False)
    allowed: frozenset[str]
    device: Any = None
    budget: Budget = ONCE
    sizes: OneSize | None = None
    short: str | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        nets: Nets,
        *,
        symmetries: Literal["auto"] | Iterable[str] = "auto",
        restarts: int | Literal["auto"] = "auto",
        seed: int | None = 0,
        wiring_b: Wiring | None = None,
        merge: float = 1e-6,
    ) -> Problem:
        """Of two networks; the arguments are those of ``wl.align``.

        Raises CannotAlign (different tensors, NaN or Inf, a wiring that does not fit the network) and InvalidArgument (no wiring, an unknown symmetry).
        """
        allowed, budget = allowed_symmetries(symmetries), Budget(restarts, search_seed(seed))
        w = sound((nets.a, nets.b), nets.wiring, nets.data)
        a, b = nets.a.state, nets.b.state
        check_wiring_fits(a, w)
        if differ_in_width(a, b):
            sizes = OneSize.of(a, b, w, wiring_b, merge)
            found = cls.of_states(sizes.a, sizes.b, sizes.wiring, allowed, budget)
            return replace(found, nets=nets, sizes=sizes)
        check_same_shapes(a, b)
        notes: tuple[str, ...] = ()
        short = short_floats(b)
        if short and any(g.symmetries & allowed >= {"scale"} for g in w.groups):
            allowed -= {"scale"}
            notes = (
                f"scales were left as they are: in {short} a rescaled unit would be rounded, and the function with it",
            )
        return cls(
            nets=nets,
            wiring=w,
            state_a=a,
            state_b=b,
            arrays=wired_arrays(a, b, w, nets.device),
            allowed=allowed,
            device=nets.device,
            budget=budget,
            short=short,
            notes=notes,
        )

    @classmethod
    def of_states(
        cls,
        a: Mapping[str, Any],
        b: Mapping[str, Any],
        wiring: Wiring,
        allowed: frozenset[str],
        budget: Budget = ONCE,
    ) -> Problem:
        """Of two states of one wiring, frames of recordings say. Raises CannotAlign where a weight is NaN or Inf."""
        nets = Nets(a=Net(a, a, "first"), b=Net(b, b, "second"), wiring=wiring)
        arrays = wired_arrays(a, b, wiring)
        return cls(nets=nets, wiring=wiring, state_a=a, state_b=b, arrays=arrays, allowed=allowed, budget=budget)

    @cached_property
    def search(self) -> Search:
        """The search over orders, signs and scales, which several solvers continue."""
        return Search(*self.arrays, self.wiring, self.allowed)

    @property
    def turns(self) -> bool:
        """Whether there are bases that may be changed."""
        return bool(self.wiring.bases) and "basis" in self.allowed

    def moved(self, elements: Elements) -> dict[str, Any]:
        """``state_b`` where an element brings it."""
        return elements.on_state(self.state_b, self.wiring)

    @cached_property
    def runner(self) -> Runner | None:
        """What runs weights of both networks on the data: a's code, or b's where a has none; None without data, or where widths differ.

        Raises InvalidArgument where neither network is a module.
        """
        if self.nets.data is None or self.sizes is not None:
            return None
        net = next((n.net for n in (self.nets.a, self.nets.b) if n.runs), None)
        if net is None:
            raise InvalidArgument(
                "data= needs at least one of the networks as a module, to run it; state dicts hold no code"
            )
        return Runner(net, self.nets.data, double=False)

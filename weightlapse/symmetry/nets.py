"""Networks made ready: networks of other frameworks as modules that run, states read once, a second network under the names of the first."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from weightlapse.errors import InvalidArgument
from weightlapse.symmetry.checks import check_values, check_weights
from weightlapse.symmetry.runner import Data, data_of
from weightlapse.symmetry.states import Renamed, bare, is_module, state_of, unwrapped
from weightlapse.wiring.arrays import check_device, device_of
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.naming import paired_names, shapes_of
from weightlapse.wiring.programs.find import is_foreign, program_of


@dataclass(frozen=True)
class Net:
    """One network that is looked at.

    ``net``: a module that runs, or a mapping; ``state``: its tensors, read once; ``which``: what errors call it; ``wiring``: the one that its
    recording holds; ``foreign``: whether it came from another framework, so that its states are given back as NumPy arrays.
    """

    net: Any
    state: Mapping[str, Any] = field(repr=False)
    which: str
    wiring: Wiring | None = None
    foreign: bool = False
    _checked: list[Wiring | None] = field(default_factory=list, repr=False)  # by which weights are numbers

    @classmethod
    def of(cls, what: Any, which: str) -> Net:
        """A module, a mapping, a recording (its last frame) or a path. Raises InvalidArgument for anything else, and what reading a path raises."""
        what, wiring = given(what)
        net = runnable(what)
        return cls(net, state_of(net), which, wiring, is_foreign(what))

    @property
    def runs(self) -> bool:
        """Whether it is a module, and no mapping of its weights alone."""
        return is_module(self.net)

    def under_names_of(self, first: Net) -> tuple[Net, dict[str, str]]:
        """The same network under another one's names, and its own name for each of them; nothing is renamed where the names agree or cannot be told."""
        if not all(hasattr(n.net, "under") or isinstance(n.net, Mapping) for n in (first, self)):
            return self, {}
        found = paired_names(shapes_of(first.state), shapes_of(self.state))
        names = {} if found is None else {name: mine for name, mine in found.items() if name != mine}
        if not names:
            return self, {}
        net = self.net.under(names) if self.runs else _Under(self.net, names)
        renamed = replace(self, net=net, state=state_of(net), _checked=[])
        return renamed, {mine: name for name, mine in names.items()}

    def weights(self, wiring: Wiring | None) -> set[str]:
        """The names of its weights: a module's parameters; of a mapping what the wiring, or their names, call so."""
        if self.runs:
            return {unwrapped(n) for n, _ in bare(self.net).named_parameters()}
        names = {m.tensor for g in wiring.groups for m in g.members if m.roles != {"stat"}} if wiring else set()
        return names | {n for n in self.state if n.endswith(("weight", "bias"))}

    def check_weights(self, wiring: Wiring | None) -> None:
        """Raises CannotAlign, naming the tensor, where a weight is NaN or Inf; looks once for each wiring, which says what a weight is."""
        if not any(wiring is w for w in self._checked):
            check_weights(self.state, self.weights(wiring), self.which)
            self._checked.append(wiring)


@dataclass(frozen=True, kw_only=True)
class Nets:
    """Two networks, read once: ``b`` bears a's names, and ``own`` maps them to those that it came with.

    ``wiring``: what was given or what a recording holds; None where it is still to be traced. ``data``: what to run them on. ``device``: where
    products of weights are made.
    """

    a: Net
    b: Net
    own: Mapping[str, str] = field(default_factory=dict)
    wiring: Wiring | None = None
    data: Data | None = field(default=None, repr=False)
    device: Any = None

    @classmethod
    def of(cls, a: Any, b: Any, *, wiring: Wiring | None, data: Any, device: Any) -> Nets:
        """Raises InvalidArgument for what is no network, for data without samples and for a device that is not there."""
        a, b = Net.of(a, "first"), Net.of(b, "second")
        known = next((w for w in (wiring, a.wiring, b.wiring) if w is not None), None)
        b, own = b.under_names_of(a)
        if device is None:
            device = device_of(b.state, a.state)
        else:
            check_device(device)
        data = None if data is None else data_of(data, *(n.net for n in (a, b) if n.runs))
        return cls(a=a, b=b, own=own, wiring=known, data=data, device=device)


def sound(nets: Sequence[Net], known: Wiring | None, data: Any) -> Wiring:
    """The wiring of networks, of which every weight is a number: the one that is known, that a recording holds, or that is traced.

    Raises CannotAlign, naming the tensor, for weights without values, NaN or Inf, and InvalidArgument where there is no wiring.
    """
    for n in nets:
        check_values(n.state, n.which)
    wiring = next((w for w in (known, *(n.wiring for n in nets)) if w is not None), None)
    if wiring is None:
        wiring = traced((n.net for n in nets), data)
    for n in nets:
        n.check_weights(wiring)
    return wiring


def traced(nets: Iterable[Any], data: Any) -> Wiring:
    """The wiring of the first of ``nets`` that is a module, found on the first samples of ``data``. Raises InvalidArgument without either."""
    module = next((n for n in nets if is_module(n)), None)
    if module is None or data is None:
        raise InvalidArgument(
            "the wiring is missing: pass wiring=wl.trace(model, example), or give a module and data to find it on; "
            "state dicts alone do not say which axes hold the same units"
        )
    from weightlapse.wiring.trace import trace

    few = data_of(data).head(3)
    device = next((p.device for p in bare(module).parameters()), None)
    return trace(module, few.with_inputs(x.clone().to(device) for x in few.inputs).example)


def given(what: Any) -> tuple[Any, Wiring | None]:
    """A network as it was given, or the state that lies at a path or at the end of a recording; and the wiring of a recording.

    Paths: a checkpoint (file, folder of shards), a recording, or one step of it ("run@500"). Raises what `weightlapse.recording.given.at_path` does.
    """
    if isinstance(what, (str, os.PathLike)):
        from weightlapse.recording.given import at_path

        found = at_path(what)
        if found.run is None:
            return found.widened(), None
        return _state_at(found.run, found.step)
    recordings = sys.modules.get("weightlapse.recording.recording")  # of what was never imported there is none
    if recordings is not None and isinstance(what, recordings.Recording):
        return _state_at(what, None)
    return what, None


def _state_at(run: Any, step: int | None) -> tuple[dict[str, Any], Wiring | None]:
    from weightlapse.recording.given import frame_at

    return dict(run.state(frame=frame_at(run, step))), run.wiring


class _Under(Renamed):
    """A mapping under the names of another network; values are read when they are looked at."""

    def __init__(self, state: Mapping[Any, Any], names: Mapping[str, str]) -> None:
        self._state = state
        self._names = {names.get(str(n), str(n)): n for n in state}


def runnable(net: Any) -> Any:
    """A network of another framework as a torch module that computes the same; anything else as it is."""
    return program_of(net) if is_foreign(net) else net

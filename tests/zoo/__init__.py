"""Networks of many kinds, each with what its wiring must be: importable by any test.

``ZOO[name].make()`` builds the module (seeded, small, in eval mode), ``ZOO[name].examples`` are inputs for it, ``sizes`` the
expected sizes of all groups that are nested in no other, ``nested`` how many nested groups there are. ``limits`` names what is
known to be missed: a group whose sign or scale is not found, or the reason why a free axis is not.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Case:
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    sizes: tuple[int, ...]
    nested: int = 0
    limits: tuple[str, ...] = ()

    def make(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # building old kinds of modules warns; that is not what is tested
            torch.manual_seed(0)
            return self.build().eval()

    @property
    def examples(self) -> tuple[Any, ...]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            return self.inputs()


ZOO: dict[str, Case] = {}


def add(
    name: str,
    inputs: Callable[[], tuple[Any, ...]],
    *,
    sizes: tuple[int, ...],
    nested: int = 0,
    limits: tuple[str, ...] = (),
) -> Callable[[Any], Any]:
    """Registers a module class or a factory without arguments."""

    def register(build: Any) -> Any:
        assert name not in ZOO, name
        ZOO[name] = Case(build, inputs, tuple(sorted(sizes)), nested, limits)
        return build

    return register


from tests.zoo import attention, buffers, conv, dense, experts, fused, graph, language, odd, recurrent, stateful, vision  # noqa: E402, F401  (they fill ZOO)

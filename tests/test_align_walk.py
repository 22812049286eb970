"""How far a reader walks who follows one argument of ``wl.align`` through `weightlapse.symmetry`, from the call to where it is used and back.

The walk. Three small aligns (of modules with data, of different widths, of state dicts in other bases) are run, and every call of a function of the room that
is handed the argument, by itself or in a tuple, is a step; each pair of caller and callee counts once, for a reader follows a call once. For ``symmetries`` the set made of it
counts too, and for ``data`` the `Data`. A *stay* is an unbroken stretch of the walk in one file, a *return* a stay in a file where the walk has been before. A `Problem` or a
`Search` that holds the argument is no hand-over: nobody has to follow it by then. The walk ends at the door of a solver, or of an instrument (`USES`): a call into one counts,
what these do among themselves is their use of it.

Before there was a `Problem` this same walk came to 37 stays and 24 returns for ``wiring``, the argument that goes furthest, and to 31 and 25 for the networks (30 and 15, 17 and 11
with it); and one function took 11 arguments that were carried to it by hand.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from tests.planted_bases import in_other_bases, network, wiring_of
from weightlapse.symmetry.runner import Data

ROOM = Path(wl.__file__).parent / "symmetry"
#: solvers, and instruments that they share with others
USES = {"search", "match", "nesting", "rebase", "with_bases", "elements", "invariants", "moved", "fits", "barrier", "runner", "scale", "units"}  # fmt: skip
MOST_STAYS, MOST_RETURNS, MOST_PARAMETERS = 40, 20, 8


@dataclass
class Walk:
    """The files of the steps and of the ways back, and from them the stays."""

    steps: int = 0
    path: list[str] = field(default_factory=list)

    @property
    def stays(self) -> list[str]:
        return [f for i, f in enumerate(self.path) if i == 0 or self.path[i - 1] != f]

    @property
    def returns(self) -> int:
        return len(self.stays) - len(set(self.stays))


Same = Callable[[Any], bool]


def walked(call: Callable[[], object], arguments: Mapping[str, Same], room: Path = ROOM) -> dict[str, Walk]:
    """For each argument the walk of one call after every value of which ``arguments[name]`` is true."""
    walks = {name: Walk() for name in arguments}
    seen: set[tuple[str, CodeType | None, CodeType]] = set()
    stack: list[
        tuple[FrameType, str, list[str], bool]
    ] = []  # frame, file, whose step it is, whether behind a solver's door
    begin = str(room) + os.sep

    def look(frame: FrameType, event: str, _arg: object) -> None:
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(begin):
            return
        if event == "call":
            file = code.co_filename[len(begin) :].removesuffix(".py")
            caller, behind = (stack[-1][0].f_code, stack[-1][3]) if stack else (None, False)
            mine: list[str] = []
            if not behind:
                values = [frame.f_locals.get(n) for n in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]]
                values += [u for v in values if type(v) is tuple for u in v]
                mine = [n for n, same in arguments.items() if (n, caller, code) not in seen and any(map(same, values))]
            seen.update((n, caller, code) for n in mine)
            stack.append((frame, file, mine, behind or file in USES))
            for n in mine:
                walks[n].steps += 1
                walks[n].path.append(file)
        elif stack and stack[-1][0] is frame:
            for n in stack.pop()[2] if len(stack) > 1 else ():
                walks[n].path.append(stack[-1][1])

    sys.setprofile(look)
    try:
        call()
    finally:
        sys.setprofile(None)
    return walks


def mlp(hidden: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 3)
    ).double()


@pytest.fixture(scope="module")
def aligns() -> tuple[Callable[[], None], dict[str, Same]]:
    """The three aligns, and for each argument how to know it."""
    torch.manual_seed(0)
    a, b, narrow = mlp(6), mlp(6), mlp(5)
    x = torch.randn(24, 4).double()
    w, w_b = wl.trace(a, x[:3]), wl.trace(narrow, x[:3])
    w_llama = wiring_of("llama")
    state = {n: v.detach() for n, v in network("llama").state_dict().items()}
    turned = in_other_bases(dict(state), w_llama, np.random.default_rng(1))
    symmetries = ("permutation", "sign", "scale", "basis")
    merge, seed, device = float("1.25e-6"), int("987654321"), torch.device("cpu")

    def call() -> None:
        some: dict[str, Any] = {"symmetries": symmetries, "merge": merge, "seed": seed, "device": device}
        wl.align(a, b, w, data=x, **some)
        wl.align(a, narrow, w, data=x, wiring_b=w_b, **some)
        wl.align(state, turned, w_llama, **some)

    def one_of(*things: Any) -> Same:
        return lambda v: any(v is t for t in things)

    return call, {
        "a, b": one_of(a, b, narrow, state, turned),
        "wiring": one_of(w, w_llama),
        "wiring_b": one_of(w_b),
        "data": lambda v: v is x or isinstance(v, Data),
        "symmetries": lambda v: v is symmetries or (isinstance(v, frozenset) and v == frozenset(symmetries)),
        "merge": lambda v: isinstance(v, float) and v == merge,
        "seed": lambda v: isinstance(v, int) and v == seed,
        "device": one_of(device),
    }


def test_no_argument_of_align_is_carried_far(aligns: tuple[Callable[[], None], dict[str, Same]]) -> None:
    walks = walked(*aligns)
    told = {
        n: f"{w.steps} steps, {len(w.stays)} stays in {len(set(w.stays))} files, {w.returns} returns"
        for n, w in walks.items()
    }
    print(told)
    assert all(w.stays[:1] == ["align"] for w in walks.values()), "one was not seen at all"
    assert max(len(w.stays) for w in walks.values()) <= MOST_STAYS, told
    assert max(w.returns for w in walks.values()) <= MOST_RETURNS, told
    assert walks["wiring"].steps > 10, "hand-overs are seen"


def parameters(source: str) -> Iterator[tuple[str, int]]:
    """Each function of a source with the number of its parameters, ``self`` and ``cls`` among them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            a = node.args
            yield node.name, len(a.posonlyargs) + len(a.args) + len(a.kwonlyargs)


def test_no_function_of_the_room_takes_more_than_eight_parameters() -> None:
    public = {name for name in dir(wl) if not name.startswith("_")}
    many = {
        (file.name, name): count
        for file in sorted(ROOM.glob("*.py"))
        for name, count in parameters(file.read_text(encoding="utf-8"))
        if count > MOST_PARAMETERS and name not in public
    }
    assert many == {}


# ---- the looking itself


def test_a_walk_counts_stays_and_returns(tmp_path: Path) -> None:
    """``go`` hands a thing to two functions of another file, one of which comes back for a third; the solver's own calls do not count."""
    texts = {
        "begin": "def go(x, other, solver):\n    other.one(x)\n    other.two(x, helper)\n    other.two(x, helper)\n    solver.door(x)\ndef helper(x):\n    pass\n",
        "other": "def one(x):\n    pass\ndef two(x, f):\n    f(x)\n    f(None)\n",
        "search": "def door(x):\n    inside(x)\ndef inside(x):\n    pass\n",
    }
    made: dict[str, Any] = {}
    for name, text in texts.items():
        space: dict[str, Any] = {}
        exec(compile(text, str(tmp_path / f"{name}.py"), "exec"), space)
        made[name] = type("Module", (), {k: staticmethod(v) for k, v in space.items() if callable(v)})
    thing = object()
    walks = walked(
        lambda: made["begin"].go(thing, made["other"], made["search"]),
        {"x": lambda v: v is thing, "none": lambda v: v == 7},
        tmp_path,
    )
    assert walks["x"].stays == ["begin", "other", "begin", "other", "begin", "other", "begin", "search", "begin"]
    assert (walks["x"].steps, walks["x"].returns) == (5, 6)
    assert walks["none"].path == []


def test_parameters_are_counted() -> None:
    assert dict(parameters("class A:\n    def f(self, a, /, b, *c, d=1, **e): ...\n")) == {"f": 4}

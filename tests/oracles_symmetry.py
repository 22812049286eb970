"""Networks and wirings by hand, and slow, obvious twins of what weightlapse.symmetry does."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from weightlapse.symmetry.states import parameter_names
from weightlapse.wiring.apply import permute_state, scale_state
from weightlapse.wiring.data import Wiring
from weightlapse.wiring.members import Group, Member, blocks

State = dict[str, NDArray[np.float64]]


def mlp_wiring(sizes: list[int], *symmetries: str, prefix: str = "fc") -> Wiring:
    """A chain of dense layers ``fc1``, ``fc2``, ... with biases."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (n, m) in enumerate(itertools.pairwise(sizes), 1):
        shapes[f"{prefix}{i}.weight"], shapes[f"{prefix}{i}.bias"] = (m, n), (m,)
    groups = tuple(
        Group(
            f"{prefix}{i}",
            n,
            (
                Member(f"{prefix}{i}.weight", 0, blocks(n), "out"),
                Member(f"{prefix}{i}.bias", 0, blocks(n), "add"),
                Member(f"{prefix}{i + 1}.weight", 1, blocks(n), "in"),
            ),
            frozenset({"permutation", *symmetries}),
        )
        for i, n in enumerate(sizes[1:-1], 1)
    )
    return Wiring(groups, shapes=shapes)


def residual_wiring(n_in: int, stream: int, hidden: int, n_blocks: int, n_out: int) -> Wiring:
    """``h = inp(x); h = h + b(act(a(h))) ...; out(h)``: one group for the stream, one for each block."""
    shapes = {"inp.weight": (stream, n_in), "inp.bias": (stream,), "out.weight": (n_out, stream), "out.bias": (n_out,)}
    flow = [
        Member("inp.weight", 0, blocks(stream), "out"),
        Member("inp.bias", 0, blocks(stream), "add"),
        Member("out.weight", 1, blocks(stream), "in"),
    ]
    groups = []
    for i in range(n_blocks):
        a, b = f"blocks.{i}.a", f"blocks.{i}.b"
        shapes |= {f"{a}.weight": (hidden, stream), f"{a}.bias": (hidden,)}
        shapes |= {f"{b}.weight": (stream, hidden), f"{b}.bias": (stream,)}
        flow += [
            Member(f"{a}.weight", 1, blocks(stream), "in"),
            Member(f"{b}.weight", 0, blocks(stream), "out"),
            Member(f"{b}.bias", 0, blocks(stream), "add"),
        ]
        inner = (
            Member(f"{a}.weight", 0, blocks(hidden), "out"),
            Member(f"{a}.bias", 0, blocks(hidden), "add"),
            Member(f"{b}.weight", 1, blocks(hidden), "in"),
        )
        groups.append(Group(a, hidden, inner))
    return Wiring((Group("inp", stream, tuple(flow)), *groups), shapes=shapes)


def random_state(wiring: Wiring, rng: np.random.Generator, dtype: type = np.float64) -> State:
    """Dense layers as torch initialises them: uniform in +-1/sqrt(inputs)."""
    out = {}
    for name, shape in wiring.shapes.items():
        fan = shape[1] if len(shape) > 1 else wiring.shapes[name.replace("bias", "weight")][1]
        out[name] = rng.uniform(-1, 1, shape).astype(dtype) / np.sqrt(fan, dtype=dtype)
    return out


def planted(
    state: State, wiring: Wiring, rng: np.random.Generator, *, signs: bool = False, scales: bool = False
) -> tuple[State, dict[str, NDArray[np.int64]]]:
    """The same network in another guise, and the permutations that were used."""
    perms = {}
    for g in wiring.groups:
        perms[g.name] = rng.permutation(g.size)
        state = permute_state(state, wiring, g.name, perms[g.name])
        if signs and "sign" in g.symmetries:
            state = scale_state(state, wiring, g.name, rng.choice([-1.0, 1.0], g.size))
        if scales and "scale" in g.symmetries:
            state = scale_state(state, wiring, g.name, np.exp(rng.normal(size=g.size)))
    return state, perms


def noisy(state: State, rng: np.random.Generator, level: float) -> State:
    """Gaussian noise of ``level`` standard deviations of each tensor."""
    return {n: v + level * v.std() * rng.normal(size=v.shape).astype(v.dtype) for n, v in state.items()}


def best_distance(a: State, b: State, wiring: Wiring) -> float:
    """By trying every permutation and sign of every group: the smallest relative distance."""
    best = np.inf
    choices = []
    for g in wiring.groups:
        signs = itertools.product([1.0, -1.0], repeat=g.size) if "sign" in g.symmetries else [(1.0,) * g.size]
        choices.append(list(itertools.product(itertools.permutations(range(g.size)), signs)))
    for pick in itertools.product(*choices):
        moved = dict(b)
        for g, (perm, sign) in zip(wiring.groups, pick, strict=True):
            moved = permute_state(moved, wiring, g.name, list(perm))
            if min(sign) < 0:
                moved = scale_state(moved, wiring, g.name, np.array(sign))
        names = parameter_names(a, wiring)
        gap = sum(float(((a[n] - moved[n]) ** 2).sum()) for n in names)
        best = min(best, gap / sum(float((a[n] ** 2).sum()) for n in names))
    return float(np.sqrt(best))

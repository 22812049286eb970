"""``wl.align``: bring one network onto another by moving its hidden units, without changing what it computes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from weightlapse.symmetry.alignment import Alignment, alignment_of, given_back
from weightlapse.symmetry.choose import choose
from weightlapse.symmetry.judge import judge
from weightlapse.symmetry.nets import Nets
from weightlapse.symmetry.problem import Problem
from weightlapse.wiring.arrays import in_full_precision
from weightlapse.wiring.data import Wiring


def align(
    a: Any,
    b: Any,
    wiring: Wiring | None = None,
    *,
    data: Any = None,
    symmetries: Literal["auto"] | Iterable[str] = "auto",
    restarts: int | Literal["auto"] = "auto",
    seed: int | None = 0,
    wiring_b: Wiring | None = None,
    merge: float = 1e-6,
    device: Any = None,
) -> Alignment:
    """Find the order, signs and scales of b's hidden units that bring its weights nearest to a's.

    What b computes stays the same; this is checked on every call (by undoing the moves, and by running b when it is a module
    and there is data).

    a, b: torch modules, Keras models, Flax NNX or Equinox modules, mappings of names to arrays or tensors, recordings (their last frame), or paths of
    checkpoints (files, folders of shards), of recordings, or of one step ("run@500"); of one architecture. wiring: from ``wl.trace`` or
    ``Wiring.from_spec``; may be left out when a recording holds one, or a module and ``data`` are given. data: inputs (samples first), or
    ``(inputs, integer labels)``: matching by activations is tried too, and the result with the lower loss half way between
    both networks is returned. symmetries: "auto" for all that each group has, or some of "permutation", "sign",
    "scale", "basis" (streams and heads in other bases). restarts: further random starts; "auto" gives small networks a few. seed: for these; None is 0.

    Different widths: where b has more units in a group than a, it is folded first (`weightlapse.symmetry.fold`): units
    whose incoming weights agree to ``merge``, up to sign and scale, are merged, constant ones become part of the next bias, unheard ones
    are dropped. What is left without partner is set beside zeros, and ``units`` and ``notes`` of the result say so. wiring_b: b's own
    wiring; needed only where it cannot be told from a's and the shapes.

    device: where the products of weights are made ("cuda", a ``torch.device``); default: where the weights are, in NumPy for
    those in main memory. Weights that lie elsewhere are brought there one tensor at a time. What is decided is decided in double precision
    in main memory, and the result lies where b's weights do.

    Method: coordinate descent on exact assignments (Ainsworth et al. 2023), departures in `weightlapse.symmetry.match`.

    Raises CannotAlign (different tensors, NaN or Inf, a wiring that does not fit the network) and InvalidArgument (among others, for a device
    that is not there).

    >>> import numpy as np, weightlapse as wl
    >>> w = wl.Wiring.from_spec('''
    ... tensor a.weight (3, 2)
    ... tensor b.weight (1, 3)
    ... group a: 3 units, permutation
    ...   a.weight[0]: out
    ...   b.weight[1]: in
    ... ''')
    >>> a = {"a.weight": np.arange(6.0).reshape(3, 2), "b.weight": np.array([[10.0, 20.0, 30.0]])}
    >>> b = wl.permute(a, w, "a", [2, 0, 1])
    >>> found = wl.align(a, b, wiring=w)
    >>> found.distance_after, found.state["b.weight"].tolist()
    (0.0, [[10.0, 20.0, 30.0]])
    """
    nets = Nets.of(a, b, wiring=wiring, data=data, device=device)
    with in_full_precision(nets.device):
        problem = Problem.of(nets, symmetries=symmetries, restarts=restarts, seed=seed, wiring_b=wiring_b, merge=merge)
        return given_back(solved(problem), nets)


def solved(problem: Problem) -> Alignment:
    """The best candidate for a problem, after a look at whether the function stays."""
    choice = choose(problem)
    return alignment_of(problem, choice, judge(problem, choice.best))

"""Whether the verifier is worth its time by default: estimated from what ran, so that the answer is the same every time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from weightlapse.wiring.record import Call, Tape

# Rough seconds on one core. That they are rough decides only whether a check is made without being asked for.
_FLOP, _NUMBER, _CALL = 2.5e-11, 1e-9, 1.2e-5
_DRAWN = 4.5e-9  # a weight drawn at random, written and moved
_FEW_CALLS, _PATIENCE = 20, 5.0  # small programs are checked when it takes a few seconds at most


def affordable(tapes: Sequence[Tape], weights: int) -> bool:
    """Whether checking takes no longer than tracing: about twice three forwards and 0.3 ms for each operator, both together."""
    calls = [call for tape in tapes for call in tape.calls]
    forward = sum(seconds(call) for call in calls)
    check = 2 * forward + weights * _DRAWN + 6e-5 * len(calls)
    if check > _PATIENCE:
        return False
    return len(calls) <= _FEW_CALLS or check <= 5 * forward + 2.5e-4 * len(calls)


def seconds(call: Call) -> float:
    """About how long one operator runs."""
    out = sum(t.numel() for t in call.outs)
    depth = 1
    tensors = [t for t in call.inputs if t.ndim > 1]
    if call.name in ("mm", "bmm", "addmm", "baddbmm", "linear", "mv", "addmv") and len(tensors) > 1:
        depth = 2 * tensors[-2].shape[-1]
    elif "convolution" in call.name and len(tensors) > 1:
        depth = 2 * math.prod(tensors[1].shape[1:])
    elif "attention" in call.name and len(tensors) > 1:
        depth = 4 * tensors[1].shape[-2]
    return _CALL + out * (_NUMBER if depth == 1 else depth * _FLOP)

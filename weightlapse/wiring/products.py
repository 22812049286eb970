"""The iteration axes of products: which axes of the inputs run together, and where they come out."""

from __future__ import annotations

from weightlapse.wiring.record import Call

BIASED = ("addmm", "addmv", "baddbmm", "_sparse_addmm")  # their first input is added to the product of the next two
GROUPED = ("_grouped_mm", "_scaled_grouped_mm", "transformers::grouped_mm_fallback")
Iteration = list[tuple[dict[int, int], int | None]]  # ({input: its axis}, axis of the result, or None when summed)


def matrix_iteration(call: Call) -> Iteration | None:
    """The iteration axes of a matrix product; None for other products."""
    if call.name in GROUPED:
        if call.inputs[0].ndim != 2 or call.inputs[1].ndim != 3:
            return None
        return [({0: 0}, 0), ({1: 0}, None), ({0: 1, 1: 1}, None), ({1: 2}, 1)]
    if call.name not in ("mm", "mv", "dot", "vdot", "inner", "bmm", "_sparse_mm", "linear", *BIASED):
        return None
    first = 1 if call.name in BIASED else 0
    a, b = call.inputs[first], call.inputs[first + 1]
    if call.name in ("linear", "inner"):  # both sum over their last axes; the second may be a vector
        if not a.ndim or not b.ndim:
            return None
        rows: Iteration = [({0: d}, d) for d in range(a.ndim - 1)]
        columns: Iteration = [({1: d}, a.ndim - 1 + d) for d in range(b.ndim - 1)]
        return [*rows, ({0: a.ndim - 1, 1: b.ndim - 1}, None), *columns]
    batch = 1 if call.name in ("bmm", "baddbmm") else 0
    axes: Iteration = [({first: d, first + 1: d}, d) for d in range(batch)]
    axes += [({first: d}, d) for d in range(batch, a.ndim - 1)]
    axes.append(({first: a.ndim - 1, first + 1: batch}, None))
    if b.ndim > batch + 1:
        axes.append(({first + 1: batch + 1}, a.ndim - 1))
    return axes


def conv_iteration(call: Call, held: list[list[bool]]) -> Iteration:
    """The iteration axes of a convolution for one atom; ``held`` says on which axes of input, weight and result it stands.

    In a grouped convolution the first axis of the weight holds the blocks and one side's channels, the second the other side's.
    """
    x, w, out = held
    axes: Iteration = [({0: d}, d) for d in range(len(x)) if d != 1]
    inside, outside = (0, 1) if call["transposed"] else (1, 0)  # axes of the weight: channels in, channels out
    if call["groups"] == 1:
        return [*axes, ({0: 1, 1: inside}, None), ({1: outside}, 1)]
    if w[1]:
        axes.append(({1: 1}, 1) if call["transposed"] else ({0: 1, 1: 1}, None))
        if w[0]:
            axes.append(({0: 1, 1: 0}, None) if call["transposed"] else ({1: 0}, 1))
    elif x[1] and out[1]:
        axes.append(({0: 1, 1: 0}, 1))  # the blocks themselves
    elif w[0]:
        axes.append(({0: 1, 1: 0}, None) if call["transposed"] else ({1: 0}, 1))
    return axes

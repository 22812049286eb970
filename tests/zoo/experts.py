"""Mixtures of experts: loops, picked stacks and grouped products, with and without top-k."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo import add


def rows():
    return (torch.randn(9, 4),)


class _Stacked(nn.Module):
    """Top-2 of three experts in stacked weights; what is done with the chosen rows is left to the kinds below."""

    bias = False

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.router, self.out = nn.Linear(4, 10), nn.Linear(10, 3), nn.Linear(10, 2)
        self.up, self.down = nn.Parameter(torch.randn(3, 10, 5) / 3), nn.Parameter(torch.randn(3, 5, 10) / 3)
        if self.bias:
            self.up_bias, self.down_bias = nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(3, 10))

    def forward(self, x):
        x = torch.tanh(self.inp(x))
        weight, chosen = self.router(x).softmax(-1).topk(2, -1)
        return self.out(x + self.mixed(x, weight / weight.sum(-1, keepdim=True), chosen))


# Every expert has five hidden units of its own; that the experts may change places is found by trying, not by the rules.
@add("experts_loop_over_hit", rows, sizes=(10, 5, 5, 5))
class LoopOverHit(_Stacked):
    def mixed(self, x, weight, chosen):
        y = torch.zeros_like(x)
        mask = F.one_hot(chosen, 3).permute(2, 1, 0)
        for (e,) in (mask.sum((-1, -2)) > 0).nonzero():
            slot, row = torch.where(mask[e])
            y.index_add_(0, row, torch.relu(x[row] @ self.up[e]) @ self.down[e] * weight[row, slot, None])
        return y


@add("experts_picked", rows, sizes=(10, 5, 5, 5))
class Picked(_Stacked):
    """One matrix for every row and choice, taken from the stack."""

    def mixed(self, x, weight, chosen):
        each = x.repeat_interleave(2, 0)
        e = chosen.reshape(-1)
        h = torch.relu(torch.bmm(each[:, None], self.up[e]))
        return (torch.bmm(h, self.down[e])[:, 0] * weight.reshape(-1, 1)).view(-1, 2, 10).sum(1)


@add("experts_picked_with_bias", rows, sizes=(10, 5, 5, 5))
class PickedWithBias(_Stacked):
    bias = True

    def mixed(self, x, weight, chosen):
        e = chosen.reshape(-1)
        h = torch.bmm(x.repeat_interleave(2, 0)[:, None], self.up[e])[:, 0] + self.up_bias[e]
        h = torch.bmm(F.gelu(h)[:, None], self.down[e])[:, 0] + self.down_bias[e]
        return (h * weight.reshape(-1, 1)).view(-1, 2, 10).sum(1)


@add("experts_picked_two_axes", rows, sizes=(10, 5, 5, 5))
class PickedTwoAxes(_Stacked):
    """The stack indexed by rows × choices at once."""

    def mixed(self, x, weight, chosen):
        h = torch.relu(torch.einsum("bc,bkch->bkh", x, self.up[chosen]))
        return torch.einsum("bkh,bkhc,bk->bc", h, self.down[chosen], weight)


@add("experts_grouped", rows, sizes=(12, 8, 8, 8))
class Grouped(_Stacked):
    """Runs of rows, one for each expert, in one fused product."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.router, self.out = nn.Linear(4, 12), nn.Linear(12, 3), nn.Linear(12, 2)
        self.up, self.down = nn.Parameter(torch.randn(3, 12, 8) / 3), nn.Parameter(torch.randn(3, 8, 12) / 3)

    def mixed(self, x, weight, chosen):
        e, order = chosen.reshape(-1).sort()
        ends = torch.cumsum(torch.bincount(e, minlength=3), 0, dtype=torch.int32)
        h = torch.relu(F.grouped_mm(x[order // 2], self.up, offs=ends))
        h = F.grouped_mm(h, self.down, offs=ends) * weight.reshape(-1)[order, None]
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        return h[back].view(-1, 2, 12).sum(1)


@add("experts_grouped_gated", rows, sizes=(12, 8, 8, 8))
class GroupedGated(Grouped):
    """Gate and value side by side in one stack, weights kept the other way round, a bias for each row's expert."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(3, 16, 12) / 3)
        self.up_bias = nn.Parameter(torch.randn(3, 16))

    def mixed(self, x, weight, chosen):
        e, order = chosen.reshape(-1).sort()
        ends = torch.cumsum(torch.bincount(e, minlength=3), 0, dtype=torch.int32)
        gate, value = (F.grouped_mm(x[order // 2], self.up.mT, offs=ends) + self.up_bias[e]).chunk(2, -1)
        h = F.grouped_mm(F.silu(gate) * value, self.down, offs=ends) * weight.reshape(-1)[order, None]
        return torch.zeros_like(x).index_add_(0, order // 2, h)


@add("experts_other_routes", rows, sizes=(10, 5), limits=("up: its units in up[2], down[1]",))
class OtherRoutes(_Stacked):
    """The second product takes another expert than the first: hidden units are given one order everywhere.

    (Expert e writes for the one behind it: three orders would be possible, and are not looked for.)
    """

    def mixed(self, x, weight, chosen):
        e = chosen.reshape(-1)
        h = torch.relu(torch.bmm(x.repeat_interleave(2, 0)[:, None], self.up[e]))
        return (torch.bmm(h, self.down[(e + 1) % 3])[:, 0] * weight.reshape(-1, 1)).view(-1, 2, 10).sum(1)


@add("experts_mixed_before_reading", rows, sizes=(10, 5))
class MixedHidden(_Stacked):
    """Hidden units of different experts are averaged before they are read: one order for all."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(5, 10))

    def mixed(self, x, weight, chosen):
        h = torch.relu(torch.einsum("bc,bkch->bkh", x, self.up[chosen]))
        return (h * weight[..., None]).sum(1) @ self.down


@add("experts_rows_shuffled", rows, sizes=(10, 5))
class Shuffled(_Stacked):
    """Between the two products the rows change places, so that the second expert is not the first one's."""

    def mixed(self, x, weight, chosen):
        e = chosen[:, 0]
        h = torch.relu(torch.bmm(x[:, None], self.up[e]))[torch.arange(len(x) - 1, -1, -1)]
        return torch.bmm(h, self.down[e])[:, 0]


@add("experts_by_token_type", lambda: ((torch.randn(6, 4), torch.tensor([0, 1, 2, 2, 1, 0])),), sizes=(10, 10, 5, 5, 5))
class ByType(_Stacked):
    """No router: the type of a row, an input, says which matrices it meets."""

    def forward(self, x, kind):
        x = torch.tanh(self.inp(x))
        return self.out(torch.bmm(torch.relu(torch.bmm(x[:, None], self.up[kind])), self.down[kind])[:, 0])


@add("experts_soft_all", rows, sizes=(10, 3), nested=3)
class SoftAll(_Stacked):
    """Every expert for every row, weighted: the experts themselves may change places, by rule."""

    def forward(self, x):
        x = torch.tanh(self.inp(x))
        h = torch.relu(torch.einsum("bc,ech->beh", x, self.up))
        return self.out(x + torch.einsum("beh,ehc,be->bc", h, self.down, self.router(x).softmax(-1)))


@add("embeddings_picked", lambda: ((torch.randint(0, 7, (9,)), torch.randint(0, 3, (9,))),), sizes=(10, 6))
class PickedEmbeddings(nn.Module):
    """Rows of tables taken by plain indexing: the columns are ordinary units, whatever the row."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.kinds = nn.Parameter(torch.randn(7, 10)), nn.Parameter(torch.randn(3, 10))
        self.a, self.out = nn.Linear(10, 6), nn.Linear(6, 2)

    def forward(self, words, kinds):
        return self.out(torch.relu(self.a(torch.tanh(self.words[words] + self.kinds[kinds]))))


@add("experts_attended", rows, sizes=(10, 5))
class Attended(_Stacked):
    """Rows look at each other between the two products: a mixture of hidden units of different experts, row by row."""

    def mixed(self, x, weight, chosen):
        e = chosen[:, 0]
        h = torch.relu(torch.bmm(x[:, None], self.up[e]))[:, 0]
        h = (x @ x.mT).softmax(-1) @ h
        return torch.bmm(h[:, None], self.down[e])[:, 0]


@add("experts_running_sum", rows, sizes=(10, 5))
class RunningSum(_Stacked):
    """Hidden units are summed along the rows."""

    def mixed(self, x, weight, chosen):
        e = chosen[:, 0]
        h = torch.relu(torch.bmm(x[:, None], self.up[e]))[:, 0].cumsum(0)
        return torch.bmm(h[:, None], self.down[e])[:, 0]

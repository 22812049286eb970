"""Graph networks written by hand: messages gathered along edges and scattered onto nodes, in all the ways the libraries do it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo import add

EDGES = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 2, 4, 6], [1, 2, 3, 4, 5, 6, 3, 5, 0, 2]])


def graph():
    return ((torch.randn(7, 4), EDGES.clone()),)


def scatter_sum(messages, index, nodes):
    out = messages.new_zeros(nodes, *messages.shape[1:])
    return out.scatter_add_(0, index.view(-1, *[1] * (messages.ndim - 1)).expand_as(messages), messages)


class _TwoLayers(nn.Module):
    def __init__(self, layer) -> None:
        super().__init__()
        self.one, self.two, self.out = layer(4, 16), layer(16, 16), nn.Linear(16, 3)

    def forward(self, x, edges):
        x = torch.relu(self.one(x, edges))
        return self.out(torch.relu(self.two(x, edges)))


class _Sage(nn.Module):
    """GraphSAGE: the mean of the neighbours through one matrix, the node itself through another."""

    def __init__(self, i, o, normalize=False) -> None:
        super().__init__()
        self.l, self.r, self.normalize = nn.Linear(i, o), nn.Linear(i, o, bias=False), normalize

    def forward(self, x, edges):
        src, dst = edges
        index = dst.view(-1, 1).expand(-1, x.shape[1])
        total = x.new_zeros(x.shape).scatter_add_(0, index, x[src])
        count = x.new_zeros(x.shape[0]).scatter_add_(0, dst, torch.ones_like(dst, dtype=x.dtype))
        out = self.l(total / count.clamp(min=1)[:, None]) + self.r(x)
        return F.normalize(out, dim=-1) if self.normalize else out


class _GraphConv(nn.Module):
    """GraphConv: the sum of the neighbours, functional scatter_add."""

    def __init__(self, i, o) -> None:
        super().__init__()
        self.l, self.r = nn.Linear(i, o), nn.Linear(i, o, bias=False)

    def forward(self, x, edges):
        src, dst = edges
        messages = x.index_select(0, src)
        total = torch.zeros(x.shape, dtype=x.dtype).scatter_add(0, dst[:, None].expand(-1, x.shape[1]), messages)
        return self.l(total) + self.r(x)


class _Max(_Sage):
    def forward(self, x, edges):
        src, dst = edges
        index = dst.view(-1, 1).expand(-1, x.shape[1])
        best = x.new_zeros(x.shape).scatter_reduce(0, index, x[src], "amax", include_self=False)
        return self.l(best) + self.r(x)


class _Mean(_Sage):
    def forward(self, x, edges):
        src, dst = edges
        index = dst.unsqueeze(-1).repeat(1, x.shape[1])  # not expanded: every column holds the index again
        mean = torch.zeros_like(x).scatter_reduce_(0, index, x[src], reduce="mean", include_self=False)
        return self.l(mean) + self.r(x)


class _IndexAdd(_Sage):
    def forward(self, x, edges):
        src, dst = edges
        return self.l(x.new_zeros(x.shape).index_add_(0, dst, x[src])) + self.r(x)


class _Put(_Sage):
    def forward(self, x, edges):
        src, dst = edges
        return self.l(torch.zeros_like(x).index_put_((dst,), x[src], accumulate=True)) + self.r(x)


class _Gather(_Sage):
    """Messages taken by ``gather`` with an expanded index."""

    def forward(self, x, edges):
        src, dst = edges
        messages = x.gather(0, src[:, None].expand(-1, x.shape[1]))
        return self.l(scatter_sum(messages, dst, x.shape[0])) + self.r(x)


class _Gin(nn.Module):
    def __init__(self, i, o) -> None:
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(()))
        self.a, self.b = nn.Linear(i, 10), nn.Linear(10, o)

    def forward(self, x, edges):
        src, dst = edges
        return self.b(torch.relu(self.a((1 + self.eps) * x + scatter_sum(x[src], dst, x.shape[0]))))


class _Edge(nn.Module):
    """EdgeConv: a perceptron on both ends of each edge, the largest over the neighbours."""

    def __init__(self, i, o) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2 * i, 10), nn.Linear(10, o)

    def forward(self, x, edges):
        src, dst = edges
        m = self.b(torch.relu(self.a(torch.cat([x[dst], x[src] - x[dst]], -1))))
        index = dst[:, None].expand(-1, m.shape[1])
        return torch.zeros(x.shape[0], m.shape[1], dtype=m.dtype).scatter_reduce(
            0, index, m, "amax", include_self=False
        )


class _Gated(nn.Module):
    """A gated graph layer: the state of a GRU, messages by a matrix."""

    def __init__(self, i, o) -> None:
        super().__init__()
        self.o, self.m, self.cell = o, nn.Linear(o, o, bias=False), nn.GRUCell(o, o)

    def forward(self, x, edges):
        src, dst = edges
        if x.shape[1] < self.o:
            x = F.pad(x, (0, self.o - x.shape[1]))
        return self.cell(scatter_sum(self.m(x)[src], dst, x.shape[0]), x)


add("graph_sage", graph, sizes=(16, 16))(lambda: _TwoLayers(_Sage))
add("graph_sage_normalised", graph, sizes=(16, 16))(lambda: _TwoLayers(lambda i, o: _Sage(i, o, True)))
add("graph_conv", graph, sizes=(16, 16))(lambda: _TwoLayers(_GraphConv))
add("graph_max", graph, sizes=(16, 16))(lambda: _TwoLayers(_Max))
add("graph_mean_repeated_index", graph, sizes=(16, 16))(lambda: _TwoLayers(_Mean))
add("graph_index_add", graph, sizes=(16, 16))(lambda: _TwoLayers(_IndexAdd))
add("graph_index_put", graph, sizes=(16, 16))(lambda: _TwoLayers(_Put))
add("graph_gather", graph, sizes=(16, 16))(lambda: _TwoLayers(_Gather))
add("graph_isomorphism", graph, sizes=(16, 16, 10, 10))(lambda: _TwoLayers(_Gin))
add("edge_conv", graph, sizes=(16, 16, 10, 10))(lambda: _TwoLayers(_Edge))
# four of the sixteen units of the state are the inputs'; both layers have the same state
add("gated_graph", graph, sizes=(12, 16, 16))(lambda: _TwoLayers(_Gated))


class _Gat(nn.Module):
    """Attention over edges: scores per edge and head, a softmax over the neighbours by scatter."""

    def __init__(self, i, o, heads=4) -> None:
        super().__init__()
        self.heads, self.lin = heads, nn.Linear(i, o, bias=False)
        self.src, self.dst = (
            nn.Parameter(torch.randn(1, heads, o // heads)),
            nn.Parameter(torch.randn(1, heads, o // heads)),
        )
        self.bias = nn.Parameter(torch.randn(o))

    def forward(self, x, edges):
        src, dst = edges
        h = self.lin(x).view(x.shape[0], self.heads, -1)
        score = F.leaky_relu((h * self.src).sum(-1)[src] + (h * self.dst).sum(-1)[dst], 0.2)
        index = dst[:, None].expand(-1, self.heads)
        top = torch.zeros(x.shape[0], self.heads, dtype=x.dtype).scatter_reduce(
            0, index, score, "amax", include_self=False
        )
        weight = (score - top[dst]).exp()
        total = scatter_sum(weight, dst, x.shape[0])
        weight = weight / total[dst]
        out = scatter_sum(h[src] * weight[:, :, None], dst, x.shape[0])
        return out.flatten(1) + self.bias


add("graph_attention", graph, sizes=(4, 4), nested=8)(lambda: _TwoLayers(_Gat))


@add(
    "graph_pooled",
    lambda: ((torch.randn(7, 4), EDGES.clone(), torch.tensor([0, 0, 0, 1, 1, 1, 1])),),
    sizes=(16, 12, 8),
)
class Pooled(nn.Module):
    """Two layers of other widths, then the nodes of each graph are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.a, self.out = _Sage(4, 16), _GraphConv(16, 12), nn.Linear(12, 8), nn.Linear(8, 2)

    def forward(self, x, edges, batch):
        x = torch.relu(self.one(x, edges))
        x = torch.relu(self.two(x, edges))
        total = scatter_sum(x, batch, 2)
        count = scatter_sum(torch.ones(x.shape[0], 1, dtype=x.dtype), batch, 2)
        return self.out(torch.tanh(self.a(total / count)))


@add("graph_segments", graph, sizes=(16, 9))
class Segments(nn.Module):
    """Sorted edges, summed by running totals: the order is that of the edges, the units are free."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 16), nn.Linear(16, 9), nn.Linear(9, 2)

    def forward(self, x, edges):
        src, dst = edges
        order = dst.argsort()
        m = torch.relu(self.a(x))[src[order]].cumsum(0)
        return self.out(torch.relu(self.b(m)))


@add("scatter_along_units", lambda: (torch.randn(6, 4),), sizes=(6,))
class AlongUnits(nn.Module):
    """Scattered along the units themselves: the index tells them apart, only the second layer is free."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2)
        self.register_buffer("index", torch.tensor([1, 0, 3, 2, 5, 4, 7, 6]), persistent=False)

    def forward(self, x):
        h = torch.relu(self.a(x))
        h = h + torch.zeros_like(h).scatter(1, self.index.expand_as(h), h)
        return self.out(torch.relu(self.b(h)))


@add("index_differs_by_unit", graph, sizes=(6,))
class IndexByUnit(nn.Module):
    """Every unit gathers from nodes of its own: a true index matrix, not an expanded one. The units differ."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2)
        self.register_buffer("index", torch.arange(56).view(7, 8) % 5, persistent=False)

    def forward(self, x, edges):
        h = torch.relu(self.a(x))
        return self.out(torch.relu(self.b(h.gather(0, self.index))))


@add("written_into_ones", graph, sizes=(16, 6))
class IntoOnes(nn.Module):
    """Sums that start at one: the first layer's units may not be rescaled, the second's may."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 16), nn.Linear(16, 6), nn.Linear(6, 2)

    def forward(self, x, edges):
        h = torch.relu(self.a(x))
        h = torch.ones_like(h).index_add_(0, edges[1], h[edges[0]])
        return self.out(torch.relu(self.b(h)))

"""Recurrent networks and state-space models."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo import add


class Recurrent(nn.Module):
    def __init__(
        self, kind: type[nn.RNNBase], layers: int = 1, both: bool = False, vocabulary: int = 0, **extra
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, 5) if vocabulary else nn.Identity()
        self.rnn = kind(5, 7, layers, batch_first=True, bidirectional=both, **extra)
        self.out = nn.Linear((extra.get("proj_size") or 7) * (1 + both), 3)

    def forward(self, x):
        return self.out(self.rnn(self.embed(x))[0])


def sequence():
    return (torch.randn(2, 4, 5),)


add("lstm_two_layers", lambda: (torch.randint(0, 11, (2, 4)),), sizes=(5, 7, 7))(
    lambda: Recurrent(nn.LSTM, 2, vocabulary=11)
)
add("bilstm", sequence, sizes=(7, 7, 7, 7))(lambda: Recurrent(nn.LSTM, 2, True))
add("lstm_projected", sequence, sizes=(7, 4))(lambda: Recurrent(nn.LSTM, proj_size=4))
add("gru", sequence, sizes=(7, 7))(lambda: Recurrent(nn.GRU, 2))
add("rnn", sequence, sizes=(7,))(lambda: Recurrent(nn.RNN))


@add("gru_cell_loop", sequence, sizes=(7,))
class CellLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRUCell(5, 7), nn.Linear(7, 2)

    def forward(self, x):
        h = x.new_zeros(x.shape[0], 7)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return self.out(h)


@add("packed_lstm", lambda: ((torch.randn(3, 6, 5), torch.tensor([6, 4, 2])),), sizes=(7,))
class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.LSTM(5, 7, batch_first=True), nn.Linear(7, 2)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        y, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return self.out(y)


@add("seq2seq_attention", lambda: ((torch.randint(0, 11, (2, 5)), torch.randint(0, 11, (2, 4))),), sizes=(6, 6, 7))
class Seq2Seq(nn.Module):
    """Dot-product attention of decoder states on encoder states: both share one group."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(11, 6), nn.Embedding(11, 6)
        self.enc, self.dec, self.out = nn.GRU(6, 7, batch_first=True), nn.GRU(6, 7, batch_first=True), nn.Linear(14, 11)

    def forward(self, s, t):
        e, h = self.enc(self.source(s))
        d, _ = self.dec(self.target(t), h)
        context = torch.softmax(d @ e.transpose(1, 2), -1) @ e
        return self.out(torch.cat([d, context], -1))


@add("ssm_scan", sequence, sizes=(6, 3, 6, 2))
class Mamba(nn.Module):
    """A selective scan: channels of the inner stream, and the states of every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.inner = nn.Linear(5, 6), nn.Linear(6, 12)
        self.conv = nn.Conv1d(6, 6, 3, padding=2, groups=6)
        self.project, self.dt = nn.Linear(6, 2 + 3 + 3, bias=False), nn.Linear(2, 6)
        self.a, self.d = nn.Parameter(torch.rand(6, 3)), nn.Parameter(torch.ones(6))
        self.out = nn.Linear(6, 5)

    def forward(self, u):
        x, z = self.inner(self.inp(u)).chunk(2, -1)
        x = F.silu(self.conv(x.transpose(1, 2))[..., : u.shape[1]].transpose(1, 2))
        dt, b, c = self.project(x).split([2, 3, 3], -1)
        dt = F.softplus(self.dt(dt))
        h = torch.zeros(u.shape[0], 6, 3, dtype=u.dtype)
        ys = []
        for t in range(u.shape[1]):
            h = (
                torch.exp(-dt[:, t, :, None] * self.a.exp()) * h
                + dt[:, t, :, None] * b[:, t, None, :] * x[:, t, :, None]
            )
            ys.append((h * c[:, t, None, :]).sum(-1))
        y = torch.stack(ys, 1) + self.d * x
        return self.out(y * F.silu(z))


@add("neural_ode_euler", lambda: (torch.randn(4, 3),), sizes=(6, 9))
class EulerODE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inp, self.f1, self.f2, self.out = nn.Linear(3, 6), nn.Linear(6, 9), nn.Linear(9, 6), nn.Linear(6, 2)

    def forward(self, x):
        h = self.inp(x)
        for _ in range(3):
            h = h + 0.1 * self.f2(torch.tanh(self.f1(h)))
        return self.out(h)

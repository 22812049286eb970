"""Small networks, one per row of the table of what can be widened exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Tensor = torch.Tensor


class Lenet(nn.Module):
    def __init__(self, layout: str = "flatten") -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3)
        self.fc1, self.fc2 = nn.Linear(24, 8), nn.Linear(8, 3)
        self.layout = layout

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        if self.layout == "last":
            x = x.permute(0, 2, 3, 1)
        x = x.reshape(-1, 24) if self.layout == "hard-coded" else x.flatten(1)
        return self.fc2(F.relu(self.fc1(x)))


class ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, pad: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.pad = (outputs - inputs) // 2 if pad else 0
        self.shortcut = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            if stride > 1 and not pad
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.pad:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(out + x)


class Resnet(nn.Module):
    def __init__(self, pad: bool = False) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 6, 3, 1, 1, bias=False), nn.BatchNorm2d(6)
        self.layer1 = nn.Sequential(ResidualBlock(6, 6, 1, pad), ResidualBlock(6, 6, 1, pad))
        self.layer2 = nn.Sequential(ResidualBlock(6, 10, 2, pad), ResidualBlock(10, 10, 1, pad))
        self.fc = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(F.relu(self.bn(self.conv(x))))).mean((2, 3)))


class Mobile(nn.Module):
    """Inverted residual: expansion, depthwise convolution, squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.bn1 = nn.Conv2d(3, 9, 1), nn.BatchNorm2d(9)
        self.depthwise, self.bn2 = nn.Conv2d(9, 9, 3, 1, 1, groups=9), nn.BatchNorm2d(9)
        self.squeeze, self.excite = nn.Conv2d(9, 4, 1), nn.Conv2d(4, 9, 1)
        self.project, self.fc = nn.Conv2d(9, 3, 1), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self.bn2(self.depthwise(F.relu6(self.bn1(self.expand(x))))))
        h = h * torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(h, 1)))))
        return self.fc((self.project(h) + x).mean((2, 3)))


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=2)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv2(F.relu(self.conv1(x)))).mean((2, 3)))


class Densenet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 5, 3, 1, 1), nn.BatchNorm2d(5)
        self.conv2, self.bn2 = nn.Conv2d(5, 4, 3, 1, 1), nn.BatchNorm2d(9)
        self.conv3, self.fc = nn.Conv2d(9, 3, 1), nn.Linear(12 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = torch.cat([x, self.conv2(F.relu(self.bn1(x)))], 1)
        x = torch.cat([x, self.conv3(F.relu(self.bn2(x)))], 1)
        return self.fc(F.relu(F.max_pool2d(x, 2)).flatten(1))


class Unet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 6, 3, 1, 1)
        self.up, self.join, self.head = nn.ConvTranspose2d(6, 5, 2, 2), nn.Conv2d(9, 7, 3, 1, 1), nn.Conv2d(7, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.down1(x))
        b = F.relu(self.down2(F.max_pool2d(a, 2)))
        return self.head(F.relu(self.join(torch.cat([a, self.up(b)], 1))))


class Recurrent(nn.Module):
    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.rnn = getattr(nn, kind)(6, 5, batch_first=True, **options)
        self.head = nn.Linear(10 if self.rnn.bidirectional else 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.rnn(self.embedding(x))[0][:, -1]))


class Layer(nn.Module):
    """A pre-norm transformer block with separate projections; the value dims have a size of their own."""

    def __init__(self, norm: Callable[[int], nn.Module], gated: bool, value_dim: int = 3) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(8), norm(8)
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2 * value_dim)
        self.o = nn.Linear(2 * value_dim, 8)
        self.up, self.down = nn.Linear(8, 20), nn.Linear(20, 8)
        self.gate = nn.Linear(8, 20) if gated else None
        self.key_dim, self.value_dim = 4, value_dim

    def forward(self, x: Tensor) -> Tensor:
        batch, time, _ = x.shape
        n = self.norm1(x)
        q, k = (f(n).view(batch, time, -1, self.key_dim).transpose(1, 2) for f in (self.q, self.k))
        v = self.v(n).view(batch, time, -1, self.value_dim).transpose(1, 2)
        scores = (q @ k.transpose(-1, -2) / math.sqrt(self.key_dim)).softmax(-1)
        x = x + self.o((scores @ v).transpose(1, 2).reshape(batch, time, -1))
        n = self.norm2(x)
        return x + self.down(F.gelu(self.up(n)) if self.gate is None else F.silu(self.gate(n)) * self.up(n))


class Gpt(nn.Module):
    def __init__(
        self, norm: Callable[[int], nn.Module] = nn.LayerNorm, gated: bool = False, tied: bool = False
    ) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(13, 8), nn.Embedding(7, 8)
        self.blocks = nn.ModuleList([Layer(norm, gated), Layer(norm, gated)])
        self.norm, self.head = norm(8), nn.Linear(8, 13, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.tokens(x) + self.places(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


class FusedAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.o, self.head = nn.Linear(3, 8), nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, _ = x.shape
        q, k, v = self.qkv(F.relu(self.stem(x))).reshape(batch, time, 3, 2, 4).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, time, 8)
        return self.head(self.o(h))


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.router, self.head = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 2)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 6)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.stem(x))
        weights = self.router(h).softmax(-1)
        return self.head(sum(weights[:, i : i + 1] * e(h) for i, e in enumerate(self.experts)))


class TiedAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4) * 0.3)
        self.bias, self.back = nn.Parameter(torch.zeros(6)), nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.relu(F.linear(x, self.weight, self.bias)), self.weight.t(), self.back)


class Glu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 12), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.glu(self.fc1(x)))


class Branch(nn.Module):
    """Takes one of two ways, depending on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.left, self.right = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.fc1(x))
        return self.left(h) if x.sum() > 0 else self.right(h)


class Remembers(nn.Module):
    """Keeps its sizes in attributes that its forward reads."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden_dim, self.num_inputs = 6, 6
        self.fc1, self.fc2 = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(x.view(-1, self.num_inputs))).view(-1, self.hidden_dim))


class Returns(nn.Module):
    """Puts out its hidden units."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.fc1(x))
        return self.fc2(h), h


def images(channels: int = 3, size: int = 8) -> Tensor:
    return torch.randn(6, channels, size, size, generator=torch.Generator().manual_seed(5))


def vectors(features: int = 4, rows: int = 8) -> Tensor:
    return torch.randn(rows, features, generator=torch.Generator().manual_seed(6))


def sequences() -> Tensor:
    return torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(7))


def tokens(vocabulary: int = 11) -> Tensor:
    return torch.randint(0, vocabulary, (5, 6), generator=torch.Generator().manual_seed(8))


def mlp(activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), activation(), nn.Linear(6, 5), activation(), nn.Linear(5, 2))


def encoder() -> nn.Sequential:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.Sequential(nn.Linear(3, 8), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 2))


def trained_a_little(model: nn.Module, seed: int = 0) -> nn.Module:
    """Moves every parameter and statistic away from its default: at a default, a forgotten one does not show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p))
        for name, b in model.named_buffers():
            if "running_var" in name:
                b.copy_(0.5 + torch.rand(b.shape, generator=generator, dtype=torch.float64).to(b))
            elif "running_mean" in name:
                b.copy_(0.5 * torch.randn(b.shape, generator=generator, dtype=torch.float64).to(b))
    return model

"""Convolutional networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo import add


def image(channels: int = 3, side: int = 16, batch: int = 2):
    return lambda: (torch.randn(batch, channels, side, side),)


def _lenet(flat):
    class LeNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 8, 3)
            self.fc1, self.fc2 = nn.Linear(8 * 9, 20), nn.Linear(20, 10)

        def forward(self, x):
            x = F.max_pool2d(F.relu(self.conv1(x)), 2)
            x = F.max_pool2d(F.relu(self.conv2(x)), 2)[:, :, :3, :3]
            return self.fc2(F.relu(self.fc1(flat(x))))

    return LeNet


add("lenet_view", image(1, 20), sizes=(6, 8, 20))(_lenet(lambda x: x.reshape(x.shape[0], -1)))
add("lenet_flatten", image(1, 20), sizes=(6, 8, 20))(_lenet(lambda x: torch.flatten(x, 1)))
add("lenet_channels_last", image(1, 20), sizes=(6, 8, 20))(_lenet(lambda x: x.permute(0, 2, 3, 1).flatten(1)))


@add("vgg_bn", image(), sizes=(8, 8, 12, 12, 20))
def vgg_bn() -> nn.Module:
    layers: list[nn.Module] = []
    before = 3
    for n in (8, 8, "M", 12, 12, "M"):
        if n == "M":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(before, n, 3, padding=1), nn.BatchNorm2d(n), nn.ReLU(inplace=True)]
            before = n
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 5)
    )


class Basic(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int = 1, option: str = "B") -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout)
        self.conv2, self.bn2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False), nn.BatchNorm2d(cout)
        self.shortcut: nn.Module | None = None
        self.pad = cout - cin if option == "A" and cin != cout else 0
        if option == "B" and (stride != 1 or cin != cout):
            self.shortcut = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.pad:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad // 2, self.pad - self.pad // 2))
        elif self.shortcut is not None:
            x = self.shortcut(x)
        out += x
        return F.relu(out)


class ResNet(nn.Module):
    def __init__(self, widths: tuple[int, ...], blocks: int, option: str, block: type[nn.Module] = Basic) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0])
        stages, before = [], widths[0]
        for i, n in enumerate(widths):
            stage = []
            for j in range(blocks):
                stage.append(block(before, n, 2 if i and not j else 1, option))
                before = n
            stages.append(nn.Sequential(*stage))
        self.layers = nn.ModuleList(stages)
        self.fc = nn.Linear(before, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in self.layers:
            x = stage(x)
        return self.fc(x.mean((2, 3)))


# One stream per stage and one hidden group per block; with padded shortcuts a stream is the former one plus free channels.
add("resnet20_conv_shortcut", image(), sizes=(4, 8, 16, *(4,) * 3, *(8,) * 3, *(16,) * 3))(
    lambda: ResNet((4, 8, 16), 3, "B")
)
add("resnet20_padded_shortcut", image(), sizes=(4, 2, 2, 4, 4, *(4,) * 3, *(8,) * 3, *(16,) * 3))(
    lambda: ResNet((4, 8, 16), 3, "A")
)
add("resnet18", image(), sizes=(4, 6, 8, 10, *(4,) * 2, *(6,) * 2, *(8,) * 2, *(10,) * 2))(
    lambda: ResNet((4, 6, 8, 10), 2, "B")
)


class Bottleneck(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int = 1, option: str = "", groups: int = 1) -> None:
        super().__init__()
        mid = cout // 2
        self.a, self.na = nn.Conv2d(cin, mid, 1, bias=False), nn.BatchNorm2d(mid)
        self.b, self.nb = nn.Conv2d(mid, mid, 3, stride, 1, groups=groups, bias=False), nn.BatchNorm2d(mid)
        self.c, self.nc = nn.Conv2d(mid, cout, 1, bias=False), nn.BatchNorm2d(cout)
        self.down = nn.Conv2d(cin, cout, 1, stride) if stride != 1 or cin != cout else nn.Identity()

    def forward(self, x):
        y = F.relu(self.nb(self.b(F.relu(self.na(self.a(x))))))
        return F.relu(self.nc(self.c(y)) + self.down(x))


add("resnet_bottleneck", image(), sizes=(8, 12, 4, 4, 4, 4, 6, 6, 6, 6))(lambda: ResNet((8, 12), 2, "", Bottleneck))


class ResNeXtBlock(Bottleneck):
    def __init__(self, cin: int, cout: int, stride: int = 1, option: str = "") -> None:
        super().__init__(cin, cout, stride, option, groups=4)


# Per block: 4 conv groups, in each 4 channels in and 4 out.
add("resnext", image(), sizes=(32, 4, 4), nested=16)(lambda: ResNet((32,), 2, "", ResNeXtBlock))


@add("mobilenet_se", image(), sizes=(6, 12, 3, 6))
class MobileSE(nn.Module):
    """Inverted residual: expand, depthwise, squeeze-excite, project."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 12, 1, bias=False)
        self.bn1, self.depth, self.bn2 = (
            nn.BatchNorm2d(12),
            nn.Conv2d(12, 12, 3, 1, 1, groups=12, bias=False),
            nn.BatchNorm2d(12),
        )
        self.down, self.up = nn.Conv2d(12, 3, 1), nn.Conv2d(3, 12, 1)
        self.project, self.bn3 = nn.Conv2d(12, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.last = nn.Conv2d(6, 6, 1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        x = F.hardswish(self.stem(x))
        y = F.relu6(self.bn1(self.expand(x)))
        y = F.relu6(self.bn2(self.depth(y)))
        s = F.hardsigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(y, 1)))))
        x = x + self.bn3(self.project(y * s))
        return self.fc(F.adaptive_avg_pool2d(F.silu(self.last(x)), 1).flatten(1))


@add("depth_multiplier", image(), sizes=(4,), nested=4)
def depth_multiplier() -> nn.Module:
    """Each input channel makes three: the three may be exchanged within their channel."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 12, 3, groups=4), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 196, 2)
    )


class ShuffleNet(nn.Module):
    """Two grouped convs with a channel shuffle between them: the blocks of one are spread over the blocks of the other."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.stem, self.groups = nn.Conv2d(3, width, 1), groups
        self.a, self.b = nn.Conv2d(width, width, 1, groups=groups), nn.Conv2d(width, width, 1, groups=groups)
        self.fc = nn.Linear(width, 2)

    def forward(self, x):
        x = F.relu(self.a(F.relu(self.stem(x))))
        b, c, h, w = x.shape
        x = x.view(b, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(b, c, h, w)
        return self.fc(F.relu(self.b(x)).mean((2, 3)))


# Blocks of both convs; 8 stem channels per block of the first, 4 channels for every pair of blocks, 8 out per block of the second.
add("shufflenet", image(), sizes=(2, 2), nested=8)(lambda: ShuffleNet(16, 2))
# 4 channels cannot be dealt evenly to 3 blocks, so the blocks are fixed: what remains lies within them.
add("shufflenet_uneven", image(), sizes=(4,) * 6)(lambda: ShuffleNet(12, 3))


@add("grouped_residual", image(), sizes=(2,), nested=2)
class GroupedResidual(nn.Module):
    """A stream that a grouped conv cuts into blocks and a dense conv joins again: blocks and the channels in them on both axes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.dense, self.out = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        x = x + torch.tanh(self.blocks(x))
        return self.out(x + torch.tanh(self.dense(x)))


@add("square_residual", image(), sizes=(5,))
class SquareResidual(nn.Module):
    """A convolution from a stream into itself: the same channels on two axes of its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.out = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 5, 3, padding=1), nn.Conv2d(5, 2, 1)

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        return self.out(x + torch.tanh(self.conv(x)))


@add("densenet", image(), sizes=(6, 4, 4, 4))
class DenseNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6 + 4 * i) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(6 + 4 * i, 4, 3, padding=1) for i in range(3))
        self.fc = nn.Linear(18, 3)

    def forward(self, x):
        features = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(F.relu(norm(torch.cat(features, 1)))))
        return self.fc(torch.cat(features, 1).mean((2, 3)))


@add("unet", image(), sizes=(4, 6, 8, 6, 5, 4))
class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.d1, self.d2, self.mid = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.Conv2d(6, 8, 3, padding=1),
        )
        self.u2, self.c2 = nn.ConvTranspose2d(8, 6, 2, 2), nn.Conv2d(12, 5, 3, padding=1)
        self.u1, self.c1 = nn.ConvTranspose2d(5, 4, 2, 2), nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x):
        a = F.relu(self.d1(x))
        b = F.relu(self.d2(F.max_pool2d(a, 2)))
        m = F.relu(self.mid(F.max_pool2d(b, 2)))
        y = F.relu(self.c2(torch.cat([self.u2(m), b], 1)))
        return self.c1(torch.cat([self.u1(y), a], 1))


@add("fpn", image(), sizes=(4, 6, 5))
class FPN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)
        self.l1, self.l2, self.head = nn.Conv2d(4, 5, 1), nn.Conv2d(6, 5, 1), nn.Conv2d(5, 2, 3, padding=1)

    def forward(self, x):
        a = F.relu(self.c1(x))
        b = F.relu(self.c2(a))
        p2 = self.l2(b)
        p1 = self.l1(a) + F.interpolate(p2, scale_factor=2, mode="nearest")
        return self.head(p1), self.head(p2)


@add("convnext", image(), sizes=(6, 24))
class ConvNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth, self.norm = (
            nn.Conv2d(3, 6, 4, 4),
            nn.Conv2d(6, 6, 3, padding=1, groups=6),
            nn.LayerNorm(6),
        )
        self.up, self.down, self.gamma = nn.Linear(6, 24), nn.Linear(24, 6), nn.Parameter(torch.ones(6))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.stem(x)
        y = self.down(F.gelu(self.up(self.norm(self.depth(x).permute(0, 2, 3, 1)))))
        x = x + (self.gamma * y).permute(0, 3, 1, 2)
        return self.head(x.mean((2, 3)))


@add("group_norm", image(), sizes=(3, 12), nested=3)
def group_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.GroupNorm(3, 12), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.InstanceNorm2d(12, affine=True), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 2),
    )  # fmt: skip


class StandardConv(nn.Conv2d):
    def forward(self, x):
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding)


@add("weight_standardisation", image(), sizes=(6, 7))
def weight_standardisation() -> nn.Module:
    return nn.Sequential(
        StandardConv(3, 6, 3), nn.ReLU(), StandardConv(6, 7, 3), nn.ReLU(), nn.Flatten(), nn.Linear(7 * 144, 2)
    )


@add("gan_generator", lambda: (torch.randn(2, 5),), sizes=(8, 6))
def gan_generator() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (5, 1, 1)), nn.ConvTranspose2d(5, 8, 4, 1, 0), nn.BatchNorm2d(8), nn.ReLU(True), nn.ConvTranspose2d(8, 6, 4, 2, 1),
        nn.BatchNorm2d(6), nn.ReLU(True), nn.ConvTranspose2d(6, 3, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip


@add("grouped_transposed", lambda: (torch.randn(2, 3, 5, 5),), sizes=(2,), nested=4)
def grouped_transposed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.ConvTranspose2d(8, 6, 3, groups=2), nn.ReLU(), nn.Conv2d(6, 2, 1)
    )


@add("super_resolution", image(), sizes=(6, 5))
def super_resolution() -> nn.Module:
    """Pixel shuffle: four channels of one unit become four pixels."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 20, 3, padding=1),
        nn.PixelShuffle(2),
        nn.PReLU(),
        nn.Conv2d(5, 3, 1),
    )


@add("folded_patches", image(), sizes=(4, 5))
class FoldedPatches(nn.Module):
    """Convolution by hand: patches as columns, a linear layer on them, and overlapping patches summed again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.out = nn.Conv2d(3, 4, 1), nn.Linear(4 * 9, 5 * 9), nn.Conv2d(5, 2, 1)

    def forward(self, x):
        columns = F.unfold(F.relu(self.stem(x)), 3, padding=1)
        columns = self.mix(columns.transpose(1, 2)).transpose(1, 2)
        return self.out(F.relu(F.fold(columns, x.shape[2:], 3, padding=1)))


@add("tcn", lambda: (torch.randn(2, 3, 20),), sizes=(6, 5))
class TCN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.skip = nn.Conv1d(3, 5, 3, dilation=2), nn.Conv1d(5, 6, 3), nn.Conv1d(3, 6, 1)
        self.out = nn.Linear(6, 2)

    def forward(self, x):
        y = F.relu(self.a(F.pad(x, (4, 0))))
        y = self.b(F.pad(y, (2, 0)))
        return self.out(F.relu(y + self.skip(x))[..., -1])


@add("wavenet", lambda: (torch.randn(2, 1, 20),), sizes=(6, 7, 7, 9))
class WaveNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Conv1d(1, 6, 1)
        self.gates = nn.ModuleList(nn.Conv1d(6, 14, 2, dilation=2**i) for i in range(2))
        self.res, self.skip = (
            nn.ModuleList(nn.Conv1d(7, 6, 1) for _ in range(2)),
            nn.ModuleList(nn.Conv1d(7, 9, 1) for _ in range(2)),
        )
        self.out = nn.Conv1d(9, 4, 1)

    def forward(self, x):
        x, skips = self.inp(x), []
        for i, (gate, res, skip) in enumerate(zip(self.gates, self.res, self.skip, strict=True)):
            a, b = gate(F.pad(x, (2**i, 0))).chunk(2, 1)
            y = torch.tanh(a) * torch.sigmoid(b)
            skips.append(skip(y))
            x = x + res(y)
        return self.out(F.relu(sum(skips)))


@add("inplace_slices", image(), sizes=(4, 5))
class InplaceSlices(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1), nn.Conv2d(9, 2, 1)

    def forward(self, x):
        y = torch.zeros(x.shape[0], 9, *x.shape[2:], dtype=x.dtype)
        y[:, :4] = self.a(x)
        y[:, 4:] = self.b(x)
        y.relu_()
        return self.out(y)


@add("capsules", image(), sizes=(4, 6, 6, 6))
class Capsules(nn.Module):
    """Votes of primary capsules by a raw weight, routed by agreement; each of the three outputs has dims of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 5, 5)
        self.w = nn.Parameter(torch.randn(9, 3, 6, 4))

    def forward(self, x):
        u = self.conv(x).flatten(2).transpose(1, 2)
        votes = torch.einsum("njdc,bnc->bnjd", self.w, u)
        routes = torch.zeros(votes.shape[:3], dtype=x.dtype)
        for _ in range(2):
            v = torch.tanh((routes.softmax(-1)[..., None] * votes).sum(1))
            routes = routes + (votes * v[:, None]).sum(-1)
        return v.norm(dim=-1)

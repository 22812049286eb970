"""The networks of the viewer's screenshots, trained here: a CNN, a GPT of three million weights, a GAN, a Keras model, a run that ends in NaN, a
network that grows, and two runs of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import weightlapse as wl


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 24, 3, padding=1)
        self.block1, self.block2 = Block(24), Block(24)
        self.down = nn.Conv2d(24, 48, 3, stride=2, padding=1)
        self.block3 = Block(48)
        self.head = nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block2(self.block1(F.relu(self.stem(x))))
        return self.head(self.block3(F.relu(self.down(x))).mean(dim=(2, 3)))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, c = x.shape
        q, k, v = (f(x).view(b, t, self.heads, c // self.heads).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(b, t, c))


class TransformerBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln1, self.attn, self.ln2 = nn.LayerNorm(width), Attention(width, heads), nn.LayerNorm(width)
        self.fc, self.out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln1(x))
        return x + self.out(F.gelu(self.fc(self.ln2(x))))


class Gpt(nn.Module):
    def __init__(self, vocabulary: int, width: int = 256, heads: int = 4, depth: int = 4, context: int = 64) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.ln_f, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))


def mlp(hidden: int = 48) -> nn.Sequential:
    net = nn.Sequential()
    net.fc1, net.act1 = nn.Linear(64, hidden), nn.ReLU()
    net.fc2, net.act2 = nn.Linear(hidden, 32), nn.ReLU()
    net.out = nn.Linear(32, 10)
    return net


def train(
    net: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    path: Path,
    steps: int,
    lr: float,
    mark: dict[int, str] | None = None,
) -> None:
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    with wl.watch(net, path, optimizer=optimizer, example=x[:8]) as rec:
        for step in range(steps):
            batch = torch.randint(0, len(x), (64,))
            loss = F.cross_entropy(net(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rec.log(loss=loss.item())
            if mark and step in mark:
                rec.mark(mark[step])
                for group in optimizer.param_groups:
                    group["lr"] /= 3


def cnn(path: Path) -> None:
    torch.manual_seed(0)
    x, y = digits()
    train(Cnn(), x.view(-1, 1, 8, 8), y, path, 160, 3e-3, {100: "learning rate ÷ 3"})


def gpt(path: Path) -> None:
    torch.manual_seed(0)
    text = "".join(p.read_text("utf-8") for p in sorted(Path(wl.__file__).parent.rglob("*.py"))[:60])
    known = sorted(set(text))
    data = torch.tensor([known.index(c) for c in text])
    net = Gpt(len(known))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    with wl.watch(net, path, optimizer=optimizer, example=data[None, :64]) as rec:
        for step in range(60):
            at = torch.randint(0, len(data) - 65, (6,))
            batch = torch.stack([data[i : i + 65] for i in at])
            loss = F.cross_entropy(net(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rec.log(loss=loss.item())
            if step == 30:
                rec.mark("half time")


def gan(path: Path) -> None:
    torch.manual_seed(0)
    x, _ = digits()
    generator = nn.Sequential(
        nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64), nn.Sigmoid()
    )
    judge = nn.Sequential(nn.Linear(64, 96), nn.LeakyReLU(0.2), nn.Linear(96, 48), nn.LeakyReLU(0.2), nn.Linear(48, 1))
    first = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.99))
    second = torch.optim.Adam(judge.parameters(), lr=1e-3, betas=(0.5, 0.99))

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator, self.judge = generator, judge

        def forward(self, noise: torch.Tensor, real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.generator(noise), self.judge(real)

    both = Both()
    with wl.watch(both, path, every=1, wiring=wl.trace(both, (torch.randn(4, 16), x[:4]))) as rec:
        for step in range(200):
            real, noise = x[torch.randint(0, len(x), (64,))], torch.randn(64, 16)
            fake = generator(noise)
            told = F.softplus(-judge(real)).mean() + F.softplus(judge(fake.detach())).mean()
            second.zero_grad()
            told.backward()
            second.step()
            fooled = F.softplus(-judge(fake)).mean()
            first.zero_grad()
            fooled.backward()
            first.step()
            rec.step(judge_loss=told.item(), generator_loss=fooled.item())
            if step == 120:
                rec.mark("generator ahead")


def keras(path: Path) -> None:
    import keras as k

    from weightlapse.callbacks.keras import WatchCallback

    k.utils.set_random_seed(0)
    x, y = (t.numpy() for t in digits())
    net = k.Sequential(
        [
            k.layers.Input((8, 8, 1)),
            k.layers.Conv2D(16, 3, activation="relu", name="conv1"),
            k.layers.Conv2D(32, 3, activation="relu", name="conv2"),
            k.layers.Flatten(),
            k.layers.Dense(64, activation="relu", name="hidden"),
            k.layers.Dense(10, name="logits"),
        ]
    )
    net.compile("adam", k.losses.SparseCategoricalCrossentropy(from_logits=True))
    net.fit(x.reshape(-1, 8, 8, 1), y, epochs=3, batch_size=64, verbose=0, callbacks=[WatchCallback(path)])


def nan(path: Path) -> None:
    """The learning rate is far too high, and the third layer overflows."""
    torch.manual_seed(3)
    x, y = digits()
    net = nn.Sequential()
    net.fc1, net.act1 = nn.Linear(64, 48), nn.ReLU()
    net.fc2, net.act2 = nn.Linear(48, 32), nn.ReLU()
    net.out = nn.Linear(32, 10)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    with wl.watch(net, path, optimizer=optimizer, example=x[:8]) as rec:
        for step in range(60):
            if step == 30:
                rec.mark("learning rate × 4000")
                optimizer.param_groups[0]["lr"] = 200.0
            batch = torch.randint(0, len(x), (64,))
            loss = ((net(x[batch]) - F.one_hot(y[batch], 10)) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rec.log(loss=loss.item())


def grown(path: Path) -> None:
    torch.manual_seed(0)
    x, y = digits()
    net: Any = mlp(16)
    optimizer: Any = torch.optim.Adam(net.parameters(), lr=3e-3)
    with wl.watch(net, path, optimizer=optimizer, example=x[:8]) as rec:
        for step in range(200):
            if step == 100:
                growth = wl.widen(net, {"fc1": 40}, x[:8], split="random", noise=1e-3, optimizer=optimizer, seed=0)
                rec.grow(growth)
                net, optimizer = growth.model, growth.optimizer
            batch = torch.randint(0, len(x), (64,))
            loss = F.cross_entropy(net(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rec.log(loss=loss.item())


def run(seed: int) -> Callable[[Path], None]:
    def record(path: Path) -> None:
        torch.manual_seed(seed)
        x, y = digits()
        train(mlp(), x, y, path, 400, 3e-3, {200: "learning rate ÷ 3"})

    return record


RUNS: dict[str, Callable[[Path], None]] = {
    "cnn": cnn, "gpt": gpt, "gan": gan, "keras": keras, "nan": nan, "grown": grown, "digits": run(0), "again": run(1),
}  # fmt: skip

"""Makes the pictures of docs/how-to/film.md and plots.md: real networks on scikit-learn's digits, a minute at most.

python docs/pictures/film.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import weightlapse as wl

matplotlib.use("agg")

Layers = OrderedDict


def arrays(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}


def steps(model: nn.Module, count: int, rate: float) -> Iterator[float]:
    """Adam on the digits, one loss per step, as it goes."""
    digits = load_digits()
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for _ in range(count):
        pick = torch.randint(0, 1500, (64,))
        loss = nn.functional.cross_entropy(model(x[pick]), y[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


def digits(work: Path, out: Path) -> None:
    convolution = Layers(
        image=nn.Unflatten(1, (1, 8, 8)), conv=nn.Conv2d(1, 8, 3, padding=1), relu=nn.ReLU(), pool=nn.MaxPool2d(2)
    )
    model = nn.Sequential(Layers(**convolution, flat=nn.Flatten(), fc=nn.Linear(128, 10)))
    with wl.watch(arrays(model), work / "digits") as rec:
        for loss in steps(model, 400, 0.003):
            rec.step(arrays(model), loss=loss)
    run = wl.load(work / "digits")
    wl.make_film(run, out / "digits.gif", size=(640, 360), seconds=3, fps=7, pace="log", panels=["weights", "loss"])
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=[1, 1.4], layout="constrained")
    wl.plot.heatmap(run, "conv.weight", ax=axes[0])
    wl.plot.lines(run, "conv.weight", ax=axes[1])
    figure.savefig(out / "plots.png", dpi=96)


def story(work: Path, out: Path) -> None:
    """A small transformer on the digits, one row of pixels a token."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.attn = nn.MultiheadAttention(width, 4, batch_first=True)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.ln_1(x)
            x = x + self.attn(y, y, y, need_weights=False)[0]
            return x + self.down(nn.functional.gelu(self.up(self.ln_2(x))))

    parts = Layers(rows=nn.Unflatten(1, (8, 8)), embed=nn.Linear(8, 32))
    parts["blocks"] = nn.Sequential(*[Block(32) for _ in range(8)])
    model = nn.Sequential(Layers(**parts, flat=nn.Flatten(), head=nn.Linear(256, 10)))
    with wl.watch(arrays(model), work / "transformer") as rec:
        for number, loss in enumerate(steps(model, 120, 0.002)):
            rec.step(arrays(model), loss=loss)
            if number == 60:
                rec.mark("half way")
    film = wl.make_film(work / "transformer", work / "story.gif", size=(854, 480), seconds=2, fps=5)
    assert film.poster is not None
    film.poster.replace(out / "story.png")


def pair(work: Path, out: Path) -> None:
    """A student that started near a shuffled copy of its teacher."""
    teacher, student = (
        nn.Sequential(Layers(fc1=nn.Linear(10, 8), tanh=nn.Tanh(), fc2=nn.Linear(8, 3))).double() for _ in range(2)
    )
    example = torch.randn(4, 10).double()
    wiring = wl.trace(teacher, example)
    for value in teacher.parameters():
        nn.init.normal_(value, std=0.7)
    shuffled = wl.permute(arrays(teacher), wiring, "fc1", np.array([3, 7, 0, 2, 6, 1, 5, 4]))
    student.load_state_dict(
        {name: torch.as_tensor(w) + 0.4 * torch.randn(w.shape).double() for name, w in shuffled.items()}
    )
    wl.watch(arrays(teacher), work / "teacher", wiring=wiring).close()
    optimizer = torch.optim.Adam(student.parameters(), 0.02)
    with wl.watch(student, work / "student", optimizer=optimizer, wiring=wiring) as rec:
        for _ in range(300):
            x = torch.randn(128, 10).double()
            loss = ((student(x) - teacher(x)) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rec.log(loss=loss.item())
    wl.make_film(work / "teacher", out / "pair.png", other=work / "student")


def growth(work: Path, out: Path) -> None:
    model: nn.Module = nn.Sequential(Layers(fc1=nn.Linear(64, 16), relu=nn.ReLU(), fc2=nn.Linear(16, 10)))
    example = torch.randn(4, 64)
    with wl.watch(arrays(model), work / "growing") as rec:
        for grow in (None, "wider", "deeper"):
            if grow == "wider":
                model = wl.widen(model, {"fc1": 26}, example, seed=0, noise=0.01).model
            elif grow == "deeper":
                model = wl.deepen(model, example, after="fc1").model
            for loss in steps(model, 40, 0.003):
                rec.step(arrays(model), loss=loss)
    wl.make_film(
        work / "growing", out / "growth.gif", size=(640, 360), fps=10, pace=4, hold=0.8, panels=["weights", "loss"]
    )


def main(out: Path) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        for make in (digits, pair, growth, story):
            make(Path(work), out)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)

"""The screenshots of the viewer, taken of a network that is trained here: python docs/pictures/viewer.py"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits

import weightlapse as wl

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))
from tests.browser import Page, chromium, served  # noqa: E402

SHOTS = [  # name, recordings, size, theme, address
    ("desktop-light", ("digits",), (1440, 900), "light", "#tensor=fc1.weight&frame=240"),
    ("desktop-dark", ("digits",), (1440, 900), "dark", "#tensor=fc1.weight&frame=240"),
    ("narrow-light", ("digits",), (420, 800), "light", "#tensor=fc2.weight&frame=240"),
    ("narrow-dark", ("digits",), (420, 800), "dark", "#tensor=fc2.weight&frame=240"),
    ("network-light", ("digits",), (1440, 900), "light", "#tensor=fc1.weight&frame=400&show=all"),
    ("pair-light", ("digits", "again"), (1440, 900), "light", "#tensor=fc1.weight&frame=350"),
]


def record(path: Path, seed: int, steps: int = 400) -> None:
    torch.manual_seed(seed)
    digits = load_digits()
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    net = torch.nn.Sequential()
    net.fc1, net.act1 = torch.nn.Linear(64, 48), torch.nn.ReLU()
    net.fc2, net.act2 = torch.nn.Linear(48, 32), torch.nn.ReLU()
    net.out = torch.nn.Linear(32, 10)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    with wl.watch(net, path, optimizer=optimizer, example=x[:8]) as rec:
        for step in range(steps):
            batch = torch.randint(0, len(x), (64,))
            loss = torch.nn.functional.cross_entropy(net(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rec.log(loss=loss.item())
            if step == steps // 2:
                rec.mark("learning rate ÷ 3")
                optimizer.param_groups[0]["lr"] = 1e-3


def shoot(
    browser: Any, folder: Path, name: str, runs: tuple[str, ...], size: tuple[int, int], theme: str, address: str
) -> None:
    with served(*(folder / r for r in runs)) as url:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=theme)
        page = Page(context.new_page()).open(url + address)
        if len(runs) > 1:
            page.page.wait_for_selector("section[aria-label='Distance of the two runs']", timeout=60_000)
        page.page.wait_for_timeout(2500)
        if "all" not in address:
            for cell in ((5, 20), (17, 28), (23, 11)):
                page.point(*cell, click=True)
            page.page.wait_for_timeout(500)
        page.page.screenshot(path=HERE / f"viewer-{name}.png")
        page.quiet()
        context.close()


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        folder = Path(name)
        record(folder / "digits", 0)
        record(folder / "again", 1)
        for shot in SHOTS:
            shoot(browser, folder, *shot)


if __name__ == "__main__":
    main()

"""The screenshots of the viewer, of networks that are trained here: python docs/pictures/viewer.py [--runs FOLDER] [NAME ...]

Every network opens as for somebody who comes without an address; each is taken on a desktop, a tablet and a telephone, light and dark.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from viewer_runs import RUNS

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))
from tests.browser import Page, chromium, served  # noqa: E402

SIZES = {1440: (1440, 900), 1024: (1024, 768), 390: (390, 844)}
PAIR = "#tensor=fc1.weight&frame=350&show=pair"
NETWORKS: dict[str, tuple[tuple[str, ...], str]] = {  # recordings, address
    "cnn": (("cnn",), ""),
    "gpt": (("gpt",), ""),
    "gan": (("gan",), ""),
    "keras": (("keras",), ""),
    "nan": (("nan",), "#map=on&frame=36"),
    "grown": (("grown",), "#map=on&frame=150"),
    "pair": (("digits", "again"), PAIR),
}
FIGURES = "#tensor=fc1.weight&frame=240&panels=distribution%0Aunits&pins=0%7Cfc1.weight%7C5,20%0A0%7Cfc1.weight%7C17,28"
MORE = {"figures": (("digits",), FIGURES), "ridgeline": (("digits",), FIGURES + "&spread=ridge&window=0:200")}


def small(path: Path) -> None:
    """256 colours: a screenshot is a few shades, and a repository keeps every version of it. The frequent ones are exact, the others the most different ones,
    so that a mark of ten pixels keeps its colour."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    counted = sorted(image.getcolors(image.width * image.height), reverse=True)
    colours = np.array([colour for _, colour in counted])
    chosen = list(range(min(128, len(colours))))
    far = np.min(((colours[:, None] - colours[chosen]) ** 2).sum(axis=2), axis=1)
    while len(chosen) < 256 and far.max() > 0:
        chosen.append(int(far.argmax()))
        far = np.minimum(far, ((colours - colours[chosen[-1]]) ** 2).sum(axis=1))
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours[chosen].ravel().tolist())
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)


def shoot(browser: Any, url: str, address: str, name: str, size: tuple[int, int], theme: str, pair: bool) -> None:
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=theme)
    page = Page(context.new_page()).open(url + address)
    if pair:
        page.page.wait_for_selector("section[aria-label='Distance of the two runs']", timeout=60_000)
    else:
        page.page.wait_for_selector("[data-testid=map][data-surveyed='1']", timeout=60_000, state="attached")
    page.page.wait_for_load_state("networkidle")
    page.page.wait_for_timeout(400)
    if name == "nan":
        page.page.wait_for_selector("[data-testid=finding]", timeout=60_000, state="attached")
    if "panels" in address:
        page.page.locator(".figures").scroll_into_view_if_needed()
        page.page.evaluate(
            "document.querySelector('.inspector').scrollTop = document.querySelector('.figures').offsetTop - 80"
        )
        page.page.wait_for_timeout(800)
    path = HERE / f"viewer-{name}-{size[0]}-{theme}.png"
    page.page.screenshot(path=path)
    assert page.errors == [], page.errors
    context.close()
    small(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="keep the recordings here, or take those that are here")
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary, chromium() as browser:
        folder = given.runs or Path(temporary)
        for name, (runs, address) in {**NETWORKS, **MORE}.items():
            if given.names and name not in given.names:
                continue
            for run in runs:
                if not (folder / run).exists():
                    RUNS[run](folder / run)
            with served(*(folder / run for run in runs)) as url:
                sizes = [1440] if name in MORE else list(SIZES)
                for width in sizes:
                    for theme in ("light", "dark"):
                        shoot(browser, url, address, name, SIZES[width], theme, len(runs) > 1)
            print(name, flush=True)


if __name__ == "__main__":
    main()

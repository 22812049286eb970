"""Stills against pictures that were looked at and kept: tests/golden/film/.

A kept picture is never rewritten. After a change that is meant, delete those it concerns, then keep the new ones and look at them:

    python -m tests.test_film_golden
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import weightlapse as wl
from tests.oracles_film import Imagined
from weightlapse.film.movie import picture

GOLDEN = Path(__file__).parent / "golden" / "film"
SIZE = (640, 360)


def waves(shapes: dict[str, tuple[int, ...]], frames: int = 40) -> Imagined:
    """Smooth patterns that move, so that a row or column in the wrong place is seen."""

    def value(name: str, frame: int) -> NDArray[np.float64]:
        size = int(np.prod(shapes[name]))
        across = shapes[name][-1] if shapes[name] else 1
        at = np.arange(size)
        return np.sin(at // across * 0.4 + frame / frames * 3) * np.cos(at % across * 0.25) + 0.1 * np.sin(at * 7.3)

    run = Imagined(shapes, frames, value)
    run.scalars["accuracy"] = 1 - 0.9 * np.exp(-np.arange(frames) / 8)
    return run


MLP = {
    "fc1.weight": (48, 32),
    "fc1.bias": (48,),
    "fc2.weight": (24, 48),
    "fc2.bias": (24,),
    "out.weight": (10, 24),
    "out.bias": (10,),
}
CNN = {
    "conv1.weight": (8, 1, 3, 3),
    "conv1.bias": (8,),
    "norm.weight": (8,),
    "norm.bias": (8,),
    "conv2.weight": (12, 8, 3, 3),
    "conv2.bias": (12,),
    "fc.weight": (10, 48),
    "fc.bias": (10,),
}
MANY = {
    f"layers.{i}.{n}": s
    for i in range(30)
    for n, s in {"a.weight": (32, 16), "a.bias": (32,), "norm.weight": (16,), "norm.bias": (16,)}.items()
}


def odd() -> Imagined:
    run = waves({"fc.weight": (18, 40)})
    inner = run.value

    def value(name: str, frame: int) -> NDArray[np.float64]:
        w = np.array(inner(name, frame)).reshape(18, 40)
        if frame > 20:
            w[2, 3], w[4, 5], w[6, 7], w[9, 9], w[11, 12] = np.nan, np.inf, -np.inf, 500, -500
        return w

    run.value = value
    return run


def grown() -> Any:
    """A matrix of 6 rows that has 10 from frame 20 on; rows 1, 1, 4, 5 have children."""
    parents = np.array([0, 1, 2, 3, 4, 5, 1, 1, 4, 5])
    small = waves({"fc.weight": (6, 16), "fc.bias": (6,)}, 20)
    wide = Imagined(
        {"fc.weight": (10, 16), "fc.bias": (10,)},
        20,
        lambda n, f: np.asarray(small.value(n, f)).reshape(small.shapes[n])[parents],
    )
    run = Imagined(wide.shapes, 40)
    layouts = []
    for start, part, lineage in ((0, small, None), (20, wide, {"fc": parents})):

        class Span(SimpleNamespace):
            def __getitem__(self, name: str) -> Any:
                return self.part[name]

        layouts.append(
            Span(
                start=start,
                stop=start + 20,
                shapes=part.shapes,
                dtypes=part.dtypes,
                note="",
                lineage=lineage,
                part=part,
            )
        )
    run.layouts = tuple(layouts)
    return run


PICTURES: dict[str, Any] = {
    "mlp": lambda: picture(waves(MLP), 39, size=SIZE),
    "mlp-early-dark": lambda: picture(waves(MLP), 5, size=SIZE, theme="dark", cmap="night"),
    "cnn": lambda: picture(waves(CNN), 39, size=SIZE),
    "neuron": lambda: picture(waves({"weight": (1, 2), "bias": (1,)}), 39, size=SIZE),
    "odd-values": lambda: picture(odd(), 39, size=SIZE),
    "many": lambda: picture(waves(MANY, 10), 9, size=(960, 540)),
    "thinned": lambda: picture(waves({"embedding.weight": (3000, 64), "head.weight": (10, 64)}, 8), 7, size=SIZE),
    "panels": lambda: picture(waves(MLP), 39, size=SIZE, panels=["lines:fc2.bias", "mass", "norms", "histograms"]),
    "grown": lambda: picture(grown(), 30, size=SIZE),
    "upright": lambda: picture(waves(MLP), 39, size=(360, 540)),
    "thumbnail": lambda: picture(waves(MLP), 39, size=(240, 135)),
}


def difference(drawn: NDArray[np.uint8], kept: NDArray[np.uint8]) -> tuple[float, float]:
    """Mean channel difference, and the share of pixels that differ clearly: the edges of letters may, with another FreeType."""
    assert drawn.shape == kept.shape
    gap = np.abs(drawn.astype(int) - kept).max(axis=2)
    return float(gap.mean()), float((gap > 48).mean())


@pytest.mark.parametrize("name", PICTURES)
def test_stills_look_as_they_did(name: str) -> None:
    from PIL import Image

    with Image.open(GOLDEN / f"{name}.png") as image:
        kept = np.array(image.convert("RGB"))
    mean, clear = difference(PICTURES[name](), kept)
    assert mean < 1.0
    assert clear < 0.01


def test_the_comparison_sees_a_moved_row() -> None:
    run = waves(MLP)
    before = picture(run, 39, size=SIZE, panels=["weights"])
    inner = run.value
    run.value = lambda name, frame: np.roll(np.asarray(inner(name, frame)).reshape(run.shapes[name]), 1, axis=0)
    mean, clear = difference(picture(run, 39, size=SIZE, panels=["weights"]), before)
    assert mean > 1.0
    assert clear > 0.01


def test_a_still_in_every_format(tmp_path: Path) -> None:
    run = waves(MLP)
    for suffix in ("png", "svg", "pdf"):
        wl.make_film(run, tmp_path / f"still.{suffix}", size=SIZE)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["still.pdf", "still.png", "still.svg"]
    svg = (tmp_path / "still.svg").read_text()
    assert ">fc1.weight<" in svg  # text stays text
    assert svg.count("<image") >= 7
    assert "Date" not in svg  # the same recording gives the same file
    assert (tmp_path / "still.pdf").read_bytes().startswith(b"%PDF")
    from PIL import Image

    with Image.open(tmp_path / "still.png") as image:
        assert image.text["Title"] == "imagined"
        assert image.text["Comment"] == "weightlapse, step 39"
        assert np.array_equal(np.array(image.convert("RGB")), picture(run, -1, size=SIZE))


if __name__ == "__main__":
    from PIL import Image

    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        if not (GOLDEN / f"{name}.png").exists():
            Image.fromarray(draw()).quantize(255, dither=Image.Dither.NONE).save(GOLDEN / f"{name}.png", optimize=True)
            print(f"kept {name}: look at it")

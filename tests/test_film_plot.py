"""Figures: the numbers in the axes are the numbers of the recording."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlapse as wl
from weightlapse.errors import InvalidArgument, UnknownTensor
from weightlapse.film import colours

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    rng = np.random.default_rng(1)
    state = {
        "conv.weight": rng.normal(size=(4, 3, 2, 2)),
        "fc.weight": rng.normal(size=(3, 5)),
        "fc.bias": rng.normal(size=3),
    }
    path = tmp_path_factory.mktemp("plot") / "run"
    with wl.watch(state, path) as rec:
        for step in range(1, 15):
            state = {name: w + 0.1 * rng.normal(size=w.shape) for name, w in state.items()}
            rec.step(state)
            if step % 2:
                rec.log(loss=10.0**-step)
    return wl.load(path)


@pytest.fixture(autouse=True)
def _no_figures_left() -> Any:
    yield
    import matplotlib.pyplot as plt  # here, because the first test in a process may have drawn nothing yet

    plt.close("all")


def test_lines_are_the_weights(run: Any) -> None:
    axes = wl.plot.lines(run, "fc.weight")
    drawn = [line for line in axes.lines if len(line.get_xdata()) == 15]
    assert len(drawn) == 15
    values = np.asarray(run["fc.weight"]).reshape(15, 15)
    for i, line in enumerate(drawn):
        assert np.array_equal(line.get_xdata(), run.steps)
        assert np.array_equal(line.get_ydata(), values[:, i])
    assert axes.get_title() == "fc.weight"


def test_lines_of_many_are_thinned_and_say_so(run: Any) -> None:
    axes = wl.plot.lines(run, "conv.weight", most=10)
    assert axes.get_title() == "conv.weight: 10 of 48 weights"
    assert len([line for line in axes.lines if len(line.get_xdata()) == 15]) == 10
    assert wl.plot.lines(run, "fc.*", most=100).get_title() == "fc.weight, fc.bias"


def test_heatmap_shows_the_kernels_tiled(run: Any) -> None:
    axes = wl.plot.heatmap(run, "conv.weight", frame=3, scale=2.0)
    codes = np.asarray(axes.images[0].get_array())
    kernels = np.asarray(run["conv.weight"][3])
    for out, into in np.ndindex(4, 3):
        assert np.array_equal(
            codes[out * 2 : out * 2 + 2, into * 2 : into * 2 + 2], colours.encode(kernels[out, into], 2.0)
        )
    assert "step 3, 4×3×2×2" in axes.get_title()


def test_heatmap_draws_on_given_axes_and_any_shape(run: Any) -> None:
    _, ax = matplotlib.pyplot.subplots()
    assert wl.plot.heatmap(run, "fc.bias", ax=ax) is ax
    assert ax.images[0].get_array().shape == (1, 3)


def test_heatmap_marks_odd_values(tmp_path: Path) -> None:
    weight = np.array([[1.0, np.nan], [np.inf, -np.inf]])
    with wl.watch({"w": weight}, tmp_path / "run") as rec:
        rec.step({"w": weight})
    axes = wl.plot.heatmap(tmp_path / "run", "w")
    assert np.asarray(axes.images[0].get_array()).tolist() == [
        [colours.HIGH, colours.NAN],
        [colours.PLUS_INF, colours.MINUS_INF],
    ]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["NaN", "+∞", "−∞"]


def test_mass_adds_up(run: Any) -> None:
    for tensor in (None, "fc.weight", "conv.weight"):
        axes = wl.plot.mass(run, tensor)
        top = axes.collections[-1].get_paths()[0].vertices
        assert top[:, 1].max() == pytest.approx(1.0)
    assert any("others" in str(c.get_label()) for c in axes.collections)


def test_norms_are_norms(run: Any) -> None:
    axes = wl.plot.norms(run)
    drawn = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert set(drawn) == {"conv.weight", "fc.weight", "fc.bias"}
    assert drawn["fc.bias"] == pytest.approx(np.linalg.norm(np.asarray(run["fc.bias"]), axis=1))


def test_scalars_skip_gaps_and_go_logarithmic(run: Any) -> None:
    axes = wl.plot.scalars(run)
    assert axes.lines[0].get_xdata().tolist() == list(range(1, 15, 2))
    assert axes.get_yscale() == "log"


def test_trajectory_and_ridgeline(run: Any) -> None:
    axes = wl.plot.trajectory(run)
    assert len(axes.collections[0].get_offsets()) == 15
    assert "% of the movement" in axes.get_xlabel()
    axes = wl.plot.ridgeline(run, "conv.weight", most=5)
    assert len(axes.collections) == 5


def test_refusals(run: Any, tmp_path: Path) -> None:
    with pytest.raises(UnknownTensor, match=r"nearest: .fc\.weight."):
        wl.plot.lines(run, "fc.weigth")
    with pytest.raises(UnknownTensor, match=r"is called .fc\.weigth."):
        wl.plot.heatmap(run, "fc.weigth")
    with pytest.raises(InvalidArgument, match="frame 99 does not exist"):
        wl.plot.heatmap(run, "fc.weight", frame=99)
    with pytest.raises(InvalidArgument, match="scale must be"):
        wl.plot.heatmap(run, "fc.weight", scale="frame")
    with pytest.raises(InvalidArgument, match="no scalar is called 'acc'"):
        wl.plot.scalars(run, "acc")
    with wl.watch({"w": np.ones(2)}, tmp_path / "bare") as rec:
        rec.step({"w": np.ones(2)})
    with pytest.raises(InvalidArgument, match="holds no scalars"):
        wl.plot.scalars(tmp_path / "bare")


def test_films_need_no_matplotlib_in_memory(tmp_path: Path) -> None:
    """Importing Matplotlib costs more than a short film: only figures and vector stills may."""
    with wl.watch({"w": np.ones((4, 4))}, tmp_path / "run") as rec:
        rec.step({"w": np.zeros((4, 4))})
    code = (
        "import sys, weightlapse as wl; wl.make_film(sys.argv[1], sys.argv[2]); assert 'matplotlib' not in sys.modules"
    )
    for name in ("film.mp4", "film.gif", "film.png"):
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "run"), str(tmp_path / name)], check=True, timeout=60
        )

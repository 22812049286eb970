"""Complex tensors from the first slice to the page: nothing of them is lost, and each picture says which part it shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import weightlapse as wl
from weightlapse.film.frames import chosen
from weightlapse.recording.polar import polar, whole
from weightlapse.view.subject import Subject


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> wl.Recording:
    """Ten frames of a complex matrix (each row a unit), a complex vector in double precision, and a real bias."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("complex") / "run"
    w = (rng.normal(size=(6, 4)) + 1j * rng.normal(size=(6, 4))).astype(np.complex64)
    v, b = rng.normal(size=5) + 1j * rng.normal(size=5), np.zeros(6)
    with wl.watch({"w": w, "v": v, "b": b}, path) as rec:
        for k in range(9):
            w = w * np.complex64(np.exp(0.1j)) + (0.01 * rng.normal(size=w.shape)).astype(np.complex64)
            w[0, 0] = 0 if k == 4 else w[0, 0]
            v, b = v * 1j, b + 0.1
            rec.step({"w": w, "v": v, "b": b}, loss=1.0 / (k + 1))
    return wl.load(path)


def both(z: np.ndarray) -> np.ndarray:
    return np.stack([z.real, z.imag], -1).astype(np.float64)


def test_norms_distances_and_angles_are_those_of_both_parts(run: wl.Recording) -> None:
    names = [
        "norm",
        "update_norm",
        "update_ratio",
        "distance",
        "distance_to_end",
        "angle_to_start",
        "path_length",
        "directness",
    ]
    found = wl.measure(run, names)
    for name in ("w", "v"):
        z = both(run[name][:]).reshape(10, -1)
        norm, update = np.linalg.norm(z, axis=1), np.linalg.norm(np.diff(z, axis=0), axis=1)
        assert np.allclose(found["norm"][name], norm)
        assert np.allclose(found["norm"][name], [np.linalg.norm(m) for m in run[name][:].astype(np.complex128)])
        assert np.allclose(found["update_norm"][name][1:], update)
        assert np.allclose(found["update_ratio"][name][1:], update / norm[:-1])
        assert np.allclose(found["distance"][name], np.linalg.norm(z - z[0], axis=1))
        assert np.allclose(found["distance_to_end"][name], np.linalg.norm(z - z[-1], axis=1))
        cosine = z @ z[0] / norm / norm[0]
        assert np.allclose(np.cos(found["angle_to_start"][name]), cosine)
        assert np.allclose(found["path_length"][name][1:], update.cumsum())
    assert np.allclose(found["distance"]["v"][1:4] / found["norm"]["v"][0], [np.sqrt(2), 2, np.sqrt(2)]), (
        "a turn by i, twice, three times"
    )


def test_the_other_measures_say_what_they_look_at(run: wl.Recording) -> None:
    wanted = ["mean", "std", "max_abs", "sparsity", "sign_changes", "mass", "entropy", "gini", "transport", "spectrum", "stable_rank", "top_movers", "histogram"]  # fmt: skip
    found = wl.measure(run, wanted, tensors="w", bins=8)
    w = run["w"][:].astype(np.complex128)
    parts = both(run["w"][:])
    share = np.abs(w) / np.abs(w).sum((1, 2), keepdims=True)
    assert np.allclose(found["mean"]["w"], parts.mean((1, 2, 3)))
    assert np.allclose(found["std"]["w"], parts.std((1, 2, 3)))
    assert np.allclose(found["max_abs"]["w"], np.abs(w).max((1, 2)))
    assert found["sparsity"]["w"][5] == 1 / 24
    assert np.allclose(found["sign_changes"]["w"][1:], (np.sign(parts[1:]) != np.sign(parts[:-1])).mean((1, 2, 3)))
    assert np.allclose(found["mass"]["w"], share)
    assert np.allclose(found["transport"]["w"][1:], 0.5 * np.abs(np.diff(share, axis=0)).sum((1, 2)))
    assert np.allclose(found["spectrum"]["w"], np.linalg.svd(w, compute_uv=False))
    assert found["histogram"]["w"].sum(1).tolist() == [48] * 10
    change = np.abs(w[1] - w[0]).ravel()
    assert found["top_movers"]["w"][1, 0, 0] == change.argmax()
    assert np.isclose(found["top_movers"]["w"][1, 0, 1], change.max())
    for name in ("entropy", "gini", "stable_rank"):
        assert np.isfinite(found[name]["w"]).all()


def test_a_wide_complex_matrix_has_the_same_singular_values_by_its_gram_matrix(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    w = rng.normal(size=(2, 30)) + 1j * rng.normal(size=(2, 30))
    with wl.watch({"w": w}, tmp_path / "run"):
        pass
    found = wl.measure(wl.load(tmp_path / "run"), "spectrum")["w"][0]
    assert np.allclose(found, np.linalg.svd(w, compute_uv=False))


def test_units_groups_layers_and_the_whole_network(run: wl.Recording) -> None:
    w = run["w"][:].astype(np.complex128)
    assert np.allclose(wl.measure(run, "norm", by="unit", tensors="w")["w"], np.linalg.norm(w, axis=2))
    assert np.allclose(wl.measure(run, "max_abs", by="unit", tensors="w")["w"], np.abs(w).max(2))
    total = sum(np.square(both(run[n][:])).reshape(10, -1).sum(1) for n in run.names)
    assert np.allclose(wl.measure(run, "norm", by="network")["network"], np.sqrt(total))
    some = wl.measure(run, ["norm", "mass"], tensors="w", groups={"first": [0, 1], "last": [23]})
    assert np.allclose(some["norm"]["first"], np.linalg.norm(w.reshape(10, -1)[:, :2], axis=1))
    assert np.allclose(some["mass"]["last"], np.abs(w[:, -1, -1]) / np.abs(w).sum((1, 2)))
    assert wl.measure(run, "pca")["network"].shape == (10, 2)
    assert wl.measure(run, "quiet_units")["w"].shape == (10, 6)
    assert wl.measure(run, "duplicate_units")["w"].max() == 0


def test_a_part_that_alone_moves_is_seen(tmp_path: Path) -> None:
    """The imaginary part is not lost: it is the only one that moves here."""
    w = np.ones(3, np.complex64)
    with wl.watch({"w": w}, tmp_path / "run") as rec:
        for _ in range(3):
            w = w + np.complex64(1j)
            rec.step({"w": w})
    found = wl.measure(wl.load(tmp_path / "run"), ["norm", "update_norm"])
    assert np.allclose(found["norm"]["w"], np.sqrt(3 * (1 + np.arange(4) ** 2)))
    assert np.allclose(found["update_norm"]["w"][1:], np.sqrt(3))


def test_the_doctor_finds_a_nan_in_an_imaginary_part(tmp_path: Path) -> None:
    w = np.ones((2, 3), np.complex64)
    with wl.watch({"w": w}, tmp_path / "run") as rec:
        for k in range(5):
            w = w + np.complex64(1 + 1j)
            if k > 2:
                w[1, 2] = complex(1, np.nan)
            rec.step({"w": w})
    (found,) = [f for f in wl.diagnose(wl.load(tmp_path / "run")) if f.kind == "nonfinite"]
    assert (found.tensor, found.first_step, found.units) == ("w", 4, (5,))


def test_pictures_see_magnitude_and_phase(run: wl.Recording) -> None:
    seen = polar(run)
    assert whole(seen) is run
    assert seen.names == ["w.magnitude", "w.phase", "v.magnitude", "v.phase", "b"]
    assert seen.dtypes == {
        "w.magnitude": "float32",
        "w.phase": "float32",
        "v.magnitude": "float64",
        "v.phase": "float64",
        "b": "float64",
    }
    assert np.array_equal(seen["w.magnitude"][2:4, 1], np.abs(run["w"][2:4, 1]))
    assert np.array_equal(seen["w.phase"][:], np.angle(run["w"][:]))
    assert np.array_equal(seen.layouts[0]["v.phase"][3], np.angle(run["v"][3]))
    assert np.array_equal(seen.state(frame=1)["v.magnitude"], np.abs(run["v"][1]))
    assert chosen(seen, "*") == seen.names
    assert chosen(seen, "w") == ["w.magnitude", "w.phase"]
    assert chosen(seen, "*.phase") == ["w.phase", "v.phase"]


def test_films_plots_and_the_page_show_both(run: wl.Recording, tmp_path: Path) -> None:
    from matplotlib import pyplot

    film = wl.make_film(run, tmp_path / "film.gif", size=(320, 240))
    assert Path(film.path).stat().st_size > 1000
    ax = wl.plot.lines(run, "v")
    assert "v.magnitude, v.phase" in ax.get_title()
    drawn = np.stack([line.get_ydata() for line in ax.lines if len(line.get_ydata()) == 10])
    assert np.allclose(np.sort(drawn[:, 0]), np.sort(np.concatenate([np.abs(run["v"][0]), np.angle(run["v"][0])])))
    assert wl.plot.heatmap(run, "w").get_title().startswith("w.magnitude")
    assert wl.plot.heatmap(run, "w.phase").get_title().startswith("w.phase")
    assert {line.get_label() for line in wl.plot.norms(run).lines} == {"w", "v", "b"}
    wl.plot.mass(run, "w")
    wl.plot.ridgeline(run, "w")
    wl.plot.trajectory(run)
    pyplot.close("all")
    subject = Subject(run, "run")
    assert np.array_equal(subject.picture("w.phase", 3), np.angle(run["w"][3]))
    page = wl.make_page(run, tmp_path / "page.html").read_text()
    for name in ("w.magnitude", "w.phase", "v.magnitude", "v.phase"):
        assert json.dumps(name) in page
    with pytest.raises(wl.InvalidArgument, match="complex64 numbers, whose difference"):
        wl.make_film(run, tmp_path / "pair.gif", other=run)


def test_a_real_recording_is_seen_as_it_is(tmp_path: Path) -> None:
    with wl.watch({"w": np.ones(3)}, tmp_path / "run"):
        pass
    run = wl.load(tmp_path / "run")
    assert polar(run) is run

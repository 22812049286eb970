"""Maps of generated weights: every number is what the generator writes there; the film's recording holds the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import weightlapse as wl
from weightlapse.errors import InvalidArgument, UnknownTensor
from weightlapse.lift.maps import draw_map, path_between, record_path, weight_map, weights_along


def net(hyper: int | None = None) -> wl.Lift:
    torch.manual_seed(0)
    return wl.Lift(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)), hyper_input=hyper).double()


def test_every_cell_is_what_the_generator_writes_there() -> None:
    lift = net()
    found = weight_map(lift, (0, 5), (9, 6), axes=(2, 0), at=[0, 7, 0], resolution=5)
    assert found.weights["0.weight"].shape == (5, 5, 4, 3)
    for row in range(5):
        for column in range(5):
            point = torch.tensor([[found.v[row], 7.0, found.u[column]]]).double()
            for name, value in lift.weights_for(point).items():
                np.testing.assert_allclose(found.weights[name][row, column], value[0].detach().numpy(), rtol=1e-12)
    assert (found.u[0], found.u[-1], found.v[0], found.v[-1]) == (0, 9, 5, 6)
    assert np.ptp(found.weights["0.weight"], axis=(0, 1)).max() > 0


def test_a_separate_hyper_input_is_the_plane() -> None:
    found = weight_map(net(hyper=2), -1, 1, resolution=3)
    assert found.weights["2.bias"].shape == (3, 3, 1)


def test_paths_have_equal_steps() -> None:
    points = path_between([[0, 0], [3, 0], [3, 1]], 9)
    np.testing.assert_allclose(np.linalg.norm(np.diff(points, axis=0), axis=1), 0.5)
    np.testing.assert_allclose(points[[0, 6, 8]], [[0, 0], [3, 0], [3, 1]])
    with pytest.raises(InvalidArgument, match="same point"):
        path_between([[1, 1], [1, 1]], 5)


def test_a_path_becomes_a_recording(tmp_path: Path) -> None:
    lift = net()
    points = path_between([[0, 0, 0], [9, 5, 1]], 12)
    run = record_path(lift, points, tmp_path / "path")
    wanted = weights_along(lift, points)
    assert run.steps.tolist() == list(range(12))
    for name, value in wanted.items():
        np.testing.assert_array_equal(np.asarray(run[name]), value)
    np.testing.assert_array_equal(run.scalars["x1"], points[:, 1])


def test_the_picture_shows_the_map() -> None:
    found = weight_map(net(), 0, 9, resolution=6)
    figure = draw_map(found, "0.weight")
    images = [a.images[0] for a in figure.axes if a.images]
    assert len(images) == 12
    np.testing.assert_allclose(images[5].get_array(), found.weights["0.weight"][:, :, 1, 2])
    assert len({im.get_clim() for im in images}) == 1
    low, high = images[0].get_clim()
    assert low == -high
    assert len([a for a in draw_map(found, "0.bias").axes if a.images]) == 4
    with pytest.raises(UnknownTensor, match="nearest"):
        draw_map(found, "0.weights")


def test_refusals() -> None:
    with pytest.raises(InvalidArgument, match="axes"):
        weight_map(net(), 0, 1, axes=(0, 3))
    with pytest.raises(InvalidArgument, match="axes"):
        weight_map(net(), 0, 1, axes=(1, 1))

"""What ``align``, ``compare`` and ``canonical`` take beside networks: recordings, their steps, checkpoint files and folders of shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import weightlapse as wl
from tests.oracles_symmetry import State, mlp_wiring, planted, random_state
from tests.test_symmetry_forms import record

W = mlp_wiring([6, 12, 12, 3])


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[State]]:
    """One network after another, as a recording with its wiring; copies of it in another order, as files."""
    folder, rng = tmp_path_factory.mktemp("places"), np.random.default_rng(0)
    states = [random_state(W, rng, np.float32) for _ in range(3)]
    record(folder / "run", states, W)
    moved = {n: torch.from_numpy(np.ascontiguousarray(v)) for n, v in planted(states[2], W, rng)[0].items()}
    save_file(moved, folder / "moved.safetensors")
    torch.save(moved, folder / "moved.pt")
    save_file({n: v.bfloat16() for n, v in moved.items()}, folder / "half.safetensors")
    (folder / "shards").mkdir()
    names = list(moved)
    files = {f"model-0000{i}-of-00002.safetensors": names[i - 1 :: 2] for i in (1, 2)}
    for file, some in files.items():
        save_file({n: moved[n] for n in some}, folder / "shards" / file)
    weight_map = {n: file for file, some in files.items() for n in some}
    (folder / "shards" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder, states


@pytest.mark.parametrize("what", ["moved.safetensors", "moved.pt", "shards"])
@pytest.mark.parametrize("kind", [str, Path])
def test_files_and_folders_of_shards(what: str, kind: Any, places: tuple[Path, list[State]]) -> None:
    folder, states = places
    given = kind(folder / what)
    for a in (kind(folder / "run"), f"{folder / 'run'}@2", wl.load(folder / "run"), states[2]):
        w = W if isinstance(a, dict) else None  # a recording brings its own
        al = wl.align(a, given, w)
        assert al.distance_before > 0.5
        assert al.distance_after == 0
        assert all(np.array_equal(np.asarray(al.state[n]), states[2][n]) for n in states[2])
        assert wl.compare(a, given, w).verdict == "same up to symmetry"
    assert wl.align(given, folder / "run").distance_after == 0
    assert wl.compare(f"{folder / 'run'}@0", given).verdict == "different"
    forms = [wl.canonical(x, W) for x in (given, states[2], wl.load(folder / "run"))]
    assert all(np.array_equal(np.asarray(f[n]), np.asarray(forms[1][n])) for f in forms for n in f)


def test_a_recording_brings_its_wiring_and_a_step(places: tuple[Path, list[State]]) -> None:
    folder, states = places
    for step, state in enumerate(states):
        form = wl.canonical(f"{folder / 'run'}@{step}")
        expected = wl.canonical(state, W)
        assert all(np.array_equal(form[n], expected[n]) for n in form)
    half = wl.align(folder / "run", folder / "half.safetensors")
    assert 0 < half.distance_after < 0.01


def test_what_is_no_network_is_refused(places: tuple[Path, list[State]], tmp_path: Path) -> None:
    folder, _ = places
    (tmp_path / "text.txt").write_text("no weights")
    for verb in (lambda x: wl.align(x, x, W), lambda x: wl.compare(x, x, W), lambda x: wl.canonical(x, W)):
        for bad, error, says in (
            (tmp_path / "nowhere", wl.InvalidArgument, "does not exist"),
            (tmp_path / "text.txt", wl.InvalidArgument, "neither a recording nor a checkpoint"),
            (tmp_path, wl.InvalidArgument, "neither a recording nor a checkpoint"),
            (f"{folder / 'run'}@77", wl.MissingStep, "77"),
            (f"{folder / 'run'}@x", wl.InvalidArgument, "no step"),
            (f"{folder / 'moved.pt'}@1", wl.InvalidArgument, "has no steps"),
        ):
            with pytest.raises(error, match=says):
                verb(bad)
    with pytest.raises(wl.InvalidArgument, match="wiring is missing"):
        wl.canonical(folder / "moved.pt")
    with pytest.raises(wl.InvalidArgument, match="wiring is missing"):
        wl.align(folder / "moved.pt", folder / "moved.safetensors")

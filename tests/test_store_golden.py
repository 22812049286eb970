"""Recordings written by the first version of the format are read for ever, by the reader and by its slow twin."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import oracles_store as oracle
from tests.golden import make_v1
from weightlapse.recording.recording import load
from weightlapse.store.reader import Store

NAMES = ("log", "exact", "film")


def test_the_golden_files_are_all_there_and_unchanged() -> None:
    assert json.loads((make_v1.FOLDER / "SHA256.json").read_text()) == make_v1.digest()
    assert {name.split("/")[0] for name in make_v1.digest()} == set(NAMES)


@pytest.mark.parametrize("name", ["log", "exact"])
def test_exact_recordings_read_bit_for_bit(name: str) -> None:
    store = Store.open(make_v1.FOLDER / name)
    assert store.steps.tolist() == [2 * k for k in range(make_v1.FRAMES)]
    for tensor, truth in make_v1.expected().items():
        assert store.read(tensor, slice(None)).tobytes() == truth.tobytes()
        assert store.read(tensor, slice(None)).dtype == truth.dtype
    assert store.verify() == []
    assert store.closed
    assert store.events == [(4, "an event, größer")]
    assert store.gaps == [(7, 7, "the disk could not keep up")]
    assert store.scalars["loss"].tolist() == (1 / np.arange(1, make_v1.FRAMES + 1)).tolist()
    assert load(make_v1.FOLDER / name).meta == {"golden": 1}


def test_the_bounded_recording_keeps_its_bound_and_its_odd_values() -> None:
    store = Store.open(make_v1.FOLDER / "film")
    truth = make_v1.expected()
    assert store.tolerance == 1e-2
    assert store.verify() == []
    error = np.abs(store.read("w", slice(None)).astype(np.float64) - truth["w"])
    assert 0 < error.max() <= store.bound("w", 0) <= 1e-2 * oracle.deviation(truth["w"].astype(np.float64))
    assert store.read("odd", slice(None)).tobytes() == truth["odd"].tobytes()
    assert store.read("count", slice(None)).tobytes() == truth["count"].tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_a_reader_written_from_the_description_alone_agrees(name: str) -> None:
    steps, layouts, frames = oracle.read_recording(make_v1.FOLDER / name)
    store = Store.open(make_v1.FOLDER / name)
    assert steps == store.steps.tolist()
    for k, (layout, frame) in enumerate(zip(layouts, frames)):
        ours = store.read_frame(k)
        assert [t["name"] for t in layout] == list(ours)
        for tensor, values in ours.items():
            assert values.tobytes() == frame[tensor], (k, tensor)


def test_the_goldens_are_never_rewritten() -> None:
    script = Path(make_v1.__file__)
    run = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=script.parents[2], check=False
    )
    assert run.returncode != 0
    assert "never again" in run.stderr

"""Every stand-in for a recording is a `Run`, and each of its tensors a `TensorHistory`: a type checker looks at each line. Nothing here is run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import weightlapse as wl
from weightlapse.film.pair import Pair, _InStep
from weightlapse.measures.chosen import Chosen, _History
from weightlapse.measures.part import Part
from weightlapse.recording.polar import PolarTrack, _Polar, _PolarSpan
from weightlapse.recording.renamed import RenamedRecording, _RenamedSpan
from weightlapse.recording.run import LayoutSpan, Run, Seen, SeenSpan, TensorHistory
from weightlapse.recording.stretch import LayoutStretch
from weightlapse.recording.track import Track
from weightlapse.view.aligned import AlignedRun, AlignedTrack


def runs(
    recording: wl.Recording,
    pair: Pair,
    step: _InStep,
    part: Part,
    chosen: Chosen,
    named: RenamedRecording,
    polar: _Polar,
    aligned: AlignedRun,
    seen: Seen,
) -> list[Run]:
    return [recording, pair, step, part, chosen, named, polar, aligned, seen]


def spans(stretch: LayoutStretch, named: _RenamedSpan, polar: _PolarSpan, seen: SeenSpan) -> list[LayoutSpan]:
    return [stretch, named, polar, seen]


def histories(
    track: Track, some: _History, part: PolarTrack, aligned: AlignedTrack, array: NDArray[np.float64]
) -> list[TensorHistory]:
    return [track, some, part, aligned, array]


def a_users_own(run: wl.Run, name: str) -> float:
    history: wl.TensorHistory = run[name]
    return float(np.linalg.norm(history[-1] - history[0]))


def takes_a_recording(path: str) -> float:
    return a_users_own(wl.load(path), "w")


class NoRun:
    """Lacks nearly everything."""

    steps = np.arange(3)


def refused() -> float:
    return a_users_own(NoRun(), "w")  # wrong: no steps alone are a recording

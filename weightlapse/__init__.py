"""weightlapse: a time-lapse camera and a workbench for the weights of neural networks.

    errors, progress   what can go wrong; how long it will take
    wiring/            which axes of which weights are the same neurons
    adapters/          a model in any framework as named arrays, and back
    store/             numbers to bytes to files
    capture/           training to store
    recording/         store to weights over time
    measures/          recording to numbers over time, and findings in words
    symmetry/          same function, different weights
    growth/            a bigger network that computes the same
    lift/              networks that write weights
    ensembles/         many networks trained at once
    differences/       what differs between two networks, in words
    picture/           how a tensor becomes a picture: layout, scale, colours
    film/              picture and time to films and figures
    view/              recording to browser
    studies/           five small experiments, answered
    cli/               the same verbs from a shell

Record and look:

    import weightlapse as wl
    rec = wl.watch(model, "run", optimizer=optimizer)     # every optimizer.step() becomes a frame
    ...                                                   # train as ever
    rec.close()
    run = wl.load("run")
    run["fc1.weight"][100:200, 3, :]                      # one unit's weights over a hundred frames
    wl.make_film(run, "film.mp4")

Importing this package loads no framework: every name below is fetched from its module when it is first used.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from typing import Any

__version__ = "0.1.0"

# public name -> module that holds it, below weightlapse
_HOME = {
    "watch": "capture.watch",
    "Recorder": "capture.recorder",
    "every": "capture.schedule",
    "log_spaced": "capture.schedule",
    "at": "capture.schedule",
    "plan": "capture.plan",
    "load": "recording.recording",
    "Recording": "recording.recording",
    "make_film": "film.movie",
    "plot": "film",
    "show": "view.serve",
    "make_page": "view.page_file",
    "measure": "measures.measure",
    "autopsy": "measures.autopsy",
    "diagnose": "measures.doctor",
    "trace": "wiring.trace",
    "Wiring": "wiring.data",
    "permute": "symmetry.apply",
    "align": "symmetry.align",
    "align_all": "symmetry.many",
    "align_runs": "symmetry.runs",
    "follow": "symmetry.follow",
    "compare": "symmetry.compare",
    "canonical": "symmetry.canonical",
    "diff": "differences.diff",
    "Diff": "differences.result",
    "lineage": "differences.lineage",
    "widen": "growth.widen",
    "deepen": "growth.deepen",
    "narrow": "growth.narrow",
    "Lift": "lift.lift",
    "fit_lift": "lift.fit",
    "ensemble": "ensembles.ensemble",
    "polish": "ensembles.polish",
    "WeightlapseError": "errors",
    "NotARecording": "errors",
    "DamagedRecording": "errors",
    "MissingStep": "errors",
    "UnknownTensor": "errors",
    "InvalidArgument": "errors",
    "MissingExtra": "errors",
    "CannotRecord": "errors",
    "CannotTrace": "errors",
    "CannotAlign": "errors",
    "CannotGrow": "errors",
    "VacuousComparison": "errors",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        near = difflib.get_close_matches(name, _HOME, n=1)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        raise AttributeError(f"module 'weightlapse' has no attribute {name!r}{hint}")
    if name == "plot":
        value: Any = importlib.import_module("weightlapse.film.plot")
    else:
        value = getattr(importlib.import_module(f"weightlapse.{_HOME[name]}"), name)
    globals()[name] = value
    if name in ("load", "Recording") and "IPython" in sys.modules:
        importlib.import_module(
            "weightlapse.view.notebook"
        ).register()  # so that a recording shows itself in a notebook
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])

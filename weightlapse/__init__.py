"""weightlapse: a time-lapse camera and a workbench for the weights of neural networks.

    errors, arguments, progress   what can go wrong; what arguments have in common; how long it will take
    wiring/            which axes of which weights are the same neurons
    adapters/          a model in any framework as named arrays, and back
    callbacks/         what a trainer is given so that it records
    store/             numbers to bytes to files
    capture/           training to store
    recording/         store to weights over time
    measures/          recording to numbers over time, and findings in words
    symmetry/          same function, different weights
    growth/            a bigger network that computes the same
    lift/              networks that write weights
    ensembles/         many networks trained at once
    differences/       what differs between two networks, in words
    picture/           how a tensor becomes a picture: arrangement, limit, colours
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
from typing import TYPE_CHECKING, Any

from weightlapse.errors import optional as _optional

__version__ = "0.1.0"

if TYPE_CHECKING:  # what an editor and a type checker see; `_HOME` is what runs, and a test holds both together
    from weightlapse import callbacks as callbacks
    from weightlapse.capture.imports import import_checkpoints as import_checkpoints
    from weightlapse.capture.null import NullRecorder as NullRecorder
    from weightlapse.capture.plan import Plan as Plan
    from weightlapse.capture.plan import plan as plan
    from weightlapse.capture.recorder import Recorder as Recorder
    from weightlapse.capture.schedule import Schedule as Schedule
    from weightlapse.capture.schedule import at as at
    from weightlapse.capture.schedule import every as every
    from weightlapse.capture.schedule import log_spaced as log_spaced
    from weightlapse.capture.watch import watch as watch
    from weightlapse.differences.diff import diff as diff
    from weightlapse.differences.lineage import Lineage as Lineage
    from weightlapse.differences.lineage import lineage as lineage
    from weightlapse.differences.result import Diff as Diff
    from weightlapse.differences.result import TensorDiff as TensorDiff
    from weightlapse.ensembles.ensemble import Ensemble as Ensemble
    from weightlapse.ensembles.ensemble import ensemble as ensemble
    from weightlapse.ensembles.polish import Polished as Polished
    from weightlapse.ensembles.polish import polish as polish
    from weightlapse.errors import CannotAlign as CannotAlign
    from weightlapse.errors import CannotGrow as CannotGrow
    from weightlapse.errors import CannotRecord as CannotRecord
    from weightlapse.errors import CannotTrace as CannotTrace
    from weightlapse.errors import DamagedRecording as DamagedRecording
    from weightlapse.errors import InvalidArgument as InvalidArgument
    from weightlapse.errors import MissingExtra as MissingExtra
    from weightlapse.errors import MissingStep as MissingStep
    from weightlapse.errors import NotARecording as NotARecording
    from weightlapse.errors import RecorderWarning as RecorderWarning
    from weightlapse.errors import RecordingIncomplete as RecordingIncomplete
    from weightlapse.errors import RecordingStopped as RecordingStopped
    from weightlapse.errors import UnknownArgument as UnknownArgument
    from weightlapse.errors import UnknownTensor as UnknownTensor
    from weightlapse.errors import VacuousComparison as VacuousComparison
    from weightlapse.errors import WeightlapseError as WeightlapseError
    from weightlapse.film import plot as plot
    from weightlapse.film.film import Film as Film
    from weightlapse.film.movie import make_film as make_film
    from weightlapse.growth.certificate import Certificate as Certificate
    from weightlapse.growth.deepen import deepen as deepen
    from weightlapse.growth.narrow import narrow as narrow
    from weightlapse.growth.result import Growth as Growth
    from weightlapse.growth.widen import widen as widen
    from weightlapse.lift.fit import fit_lift as fit_lift
    from weightlapse.lift.hypernetwork import HyperNetwork as HyperNetwork
    from weightlapse.lift.hypernetwork import Lift as Lift
    from weightlapse.lift.rules import History as History
    from weightlapse.measures.autopsy import Autopsy as Autopsy
    from weightlapse.measures.autopsy import autopsy as autopsy
    from weightlapse.measures.doctor import diagnose as diagnose
    from weightlapse.measures.finding import Finding as Finding
    from weightlapse.measures.measure import measure as measure
    from weightlapse.recording.recording import Recording as Recording
    from weightlapse.recording.recording import load as load
    from weightlapse.recording.run import LayoutSpan as LayoutSpan
    from weightlapse.recording.run import Run as Run
    from weightlapse.recording.run import TensorHistory as TensorHistory
    from weightlapse.recording.stretch import LayoutStretch as LayoutStretch
    from weightlapse.recording.track import Track as Track
    from weightlapse.symmetry.align import align as align
    from weightlapse.symmetry.align_all import align_all as align_all
    from weightlapse.symmetry.alignment import Alignment as Alignment
    from weightlapse.symmetry.apply import permute as permute
    from weightlapse.symmetry.barrier import Barrier as Barrier
    from weightlapse.symmetry.canonical import canonical as canonical
    from weightlapse.symmetry.compare import compare as compare
    from weightlapse.symmetry.follow import FollowedRun as FollowedRun
    from weightlapse.symmetry.follow import follow as follow
    from weightlapse.symmetry.runs import AlignedRuns as AlignedRuns
    from weightlapse.symmetry.runs import align_runs as align_runs
    from weightlapse.symmetry.verdict import Comparison as Comparison
    from weightlapse.view.page_file import make_page as make_page
    from weightlapse.view.serve import Viewer as Viewer
    from weightlapse.view.serve import show as show
    from weightlapse.wiring.data import Wiring as Wiring
    from weightlapse.wiring.members import Group as Group
    from weightlapse.wiring.members import Member as Member
    from weightlapse.wiring.trace import trace as trace

# public name -> module that holds it, below weightlapse
_HOME = {
    "watch": "capture.watch",
    "Recorder": "capture.recorder",
    "NullRecorder": "capture.null",
    "every": "capture.schedule",
    "log_spaced": "capture.schedule",
    "at": "capture.schedule",
    "Schedule": "capture.schedule",
    "plan": "capture.plan",
    "import_checkpoints": "capture.imports",
    "Plan": "capture.plan",
    "load": "recording.recording",
    "Recording": "recording.recording",
    "LayoutStretch": "recording.stretch",
    "Track": "recording.track",
    "Run": "recording.run",
    "LayoutSpan": "recording.run",
    "TensorHistory": "recording.run",
    "make_film": "film.movie",
    "Film": "film.film",
    "show": "view.serve",
    "Viewer": "view.serve",
    "make_page": "view.page_file",
    "measure": "measures.measure",
    "autopsy": "measures.autopsy",
    "Autopsy": "measures.autopsy",
    "diagnose": "measures.doctor",
    "Finding": "measures.finding",
    "trace": "wiring.trace",
    "Wiring": "wiring.data",
    "Member": "wiring.members",
    "Group": "wiring.members",
    "permute": "symmetry.apply",
    "align": "symmetry.align",
    "Alignment": "symmetry.alignment",
    "align_all": "symmetry.align_all",
    "align_runs": "symmetry.runs",
    "follow": "symmetry.follow",
    "FollowedRun": "symmetry.follow",
    "AlignedRuns": "symmetry.runs",
    "compare": "symmetry.compare",
    "Barrier": "symmetry.barrier",
    "Comparison": "symmetry.verdict",
    "canonical": "symmetry.canonical",
    "diff": "differences.diff",
    "Diff": "differences.result",
    "TensorDiff": "differences.result",
    "lineage": "differences.lineage",
    "Lineage": "differences.lineage",
    "widen": "growth.widen",
    "Certificate": "growth.certificate",
    "Growth": "growth.result",
    "deepen": "growth.deepen",
    "narrow": "growth.narrow",
    "Lift": "lift.hypernetwork",
    "HyperNetwork": "lift.hypernetwork",
    "fit_lift": "lift.fit",
    "History": "lift.rules",
    "ensemble": "ensembles.ensemble",
    "Ensemble": "ensembles.ensemble",
    "polish": "ensembles.polish",
    "Polished": "ensembles.polish",
    "WeightlapseError": "errors",
    "NotARecording": "errors",
    "DamagedRecording": "errors",
    "MissingStep": "errors",
    "UnknownTensor": "errors",
    "InvalidArgument": "errors",
    "UnknownArgument": "errors",
    "MissingExtra": "errors",
    "CannotRecord": "errors",
    "CannotTrace": "errors",
    "CannotAlign": "errors",
    "CannotGrow": "errors",
    "VacuousComparison": "errors",
    "RecordingIncomplete": "errors",
    "RecordingStopped": "errors",
    "RecorderWarning": "errors",
}

# public modules, the same way
_MODULES = {"plot": "film.plot", "callbacks": "callbacks"}

__all__ = sorted([*_HOME, *_MODULES])

# old name -> what it is called now, and the version in which the old one goes
_FORMER = {"Epoch": ("LayoutStretch", "0.3")}


if not TYPE_CHECKING:  # with it, every name would be one to a checker

    def __getattr__(name: str) -> Any:
        if name in _FORMER:
            now, version = _FORMER[name]
            importlib.import_module("weightlapse.arguments").warn_of_former(f"wl.{name}", f"wl.{now}", name, version)
            return getattr(sys.modules[__name__], now)
        if name not in __all__:
            near = difflib.get_close_matches(name, __all__, n=1)
            hint = f". Did you mean {near[0]!r}?" if near else ""
            raise AttributeError(f"module 'weightlapse' has no attribute {name!r}{hint}")
        with _optional(f"wl.{name}"):
            if name in _MODULES:
                value: Any = importlib.import_module(f"weightlapse.{_MODULES[name]}")
            else:
                value = getattr(importlib.import_module(f"weightlapse.{_HOME[name]}"), name)
        globals()[name] = value
        if name in ("load", "Recording") and ("IPython" in sys.modules or "marimo" in sys.modules):
            importlib.import_module(
                "weightlapse.view.notebook"
            ).register()  # so that a recording shows itself in a notebook
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

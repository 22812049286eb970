"""Runs every verb, and touches every public name, where only some of the optional packages can be imported: python verbs.py FOLDER PACKAGE,PACKAGE...

Prints one JSON object: verb or name -> "works", "needs EXTRA", or the raw error. What is not listed cannot be imported, as if it were not installed.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import re
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from weightlapse.errors import OPTIONAL, MissingExtra

folder, allowed = Path(sys.argv[1]), set(sys.argv[2].split(","))


class Hiding:
    """A finder that does not find what is hidden; like one of a machine where it is not installed, it answers None and raises nothing."""

    def __init__(self, finder: Any) -> None:
        self._finder = finder

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        top = fullname.split(".")[0]
        if top in OPTIONAL and OPTIONAL[top][0] not in allowed:
            return None
        return self._finder.find_spec(fullname, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
warnings.simplefilter("ignore")

import numpy as np  # noqa: E402

import weightlapse as wl  # noqa: E402
from weightlapse.cli import VERBS, main  # noqa: E402

rng = np.random.default_rng(0)
weights = {"fc1.weight": rng.normal(size=(8, 4)).astype("f4"), "fc2.weight": rng.normal(size=(2, 8)).astype("f4")}
(folder / "w.txt").write_text(
    "weightlapse wiring 1\ntensor fc1.weight (8, 4)\ntensor fc2.weight (2, 8)\nfixed fc1.weight[1]: input\nfixed fc2.weight[0]: output\n"
    "group fc1: 8 units, permutation\n  fc1.weight[0]: out ^1\n  fc2.weight[1]: in ^-1\n  ops relu\n"
)
for name in ("run", "other"):
    with wl.watch(weights, folder / name) as rec:
        for k in range(12):
            for w in weights.values():
                w += rng.normal(size=w.shape).astype("f4") / 100
            rec.step(weights, loss=1 / (k + 1))
    np.savez(folder / f"{name}-1.npz", **weights)
wl.load(folder / "run").export("safetensors", folder / "states")

RUN, OTHER = str(folder / "run"), str(folder / "other")
CALLS = {
    "demo": [["demo", "--out", str(folder / "demo")]],
    "info": [["info", RUN], ["info", RUN, "--json"]],
    "ls": [["ls", str(folder)], ["ls", str(folder), "--json"]],
    "plan": [["plan", RUN]],
    "plot": [["plot", RUN, "--kind", "lines", "-o", str(folder / "f.png")]],
    "film (mp4)": [["film", RUN, "-o", str(folder / "f.mp4"), "--size", "320x240"]],
    "film (gif)": [["film", RUN, "-o", str(folder / "f.gif"), "--size", "320x240"]],
    "view": [["view", RUN, "--no-browser", "--host", "192.0.2.1"]],  # an address for documentation, which no machine has
    "page": [["page", RUN, "-o", str(folder / "p.html")]],
    "compare": [["compare", RUN, OTHER]],
    "compare (with a wiring)": [["compare", RUN, OTHER, "--wiring", str(folder / "w.txt")]],
    "diff": [["diff", RUN, OTHER]],
    "diff (page)": [["diff", RUN, OTHER, "-o", str(folder / "d.html")]],
    "lineage": [["lineage", RUN, OTHER]],
    "top": [["top", RUN, "update"]],
    "query": [["query", RUN, "select count(*) from frames"]],
    "doctor": [["doctor", RUN]],
    "grow": [["grow", str(folder / "states" / "step-00000000.safetensors"), "--wiring", str(folder / "w.txt"), "--widen", "fc1=12", "-o", str(folder / "g.safetensors")]],
    "verify": [["verify", RUN]],
    "compact": [["compact", RUN]],
    "import": [["import", str(folder / "run-1.npz"), str(folder / "other-1.npz"), "--steps", "1,2", "-o", str(folder / "i")]],
    **{f"export ({kind})": [["export", RUN, "--to", kind, "-o", str(folder / f"e.{kind}")]] for kind in ("npz", "zarr", "safetensors", "parquet", "tensorboard")},
    "completion": [["completion", "bash"], ["completion", "zsh"], ["completion", "fish"]],
    "study": [["study", "neuron", "--quick", "--out", str(folder / "study")]],
}  # fmt: skip
missing = [verb for verb in VERBS if not any(key.split(" (")[0] == verb for key in CALLS)]
assert not missing, f"nothing is said of {missing}"


def outcome(words: list[str]) -> str:
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(words)
    except SystemExit as end:
        told = err.getvalue()
        if words[0] == "view" and "cannot listen on" in told:  # all that comes before was there
            return "works"
        extra = re.search(r"pip install 'weightlapse\[(\w+)\]'", told)
        if extra:
            return f"needs {extra[1]}" if end.code == 1 else f"RAW exit {end.code}"
        return "works" if end.code in (0, 1) and "Error" not in told else f"RAW exit {end.code}: {told[-300:]}"
    except BaseException as error:
        return f"RAW {type(error).__name__}: {error}: {traceback.format_exc()[-600:]}"
    return "RAW no exit"


def named(name: str) -> str:
    try:
        getattr(wl, name)
    except MissingExtra as error:
        extra = re.search(r"weightlapse\[(\w+)\]", str(error))
        return f"needs {extra[1]}" if extra else f"RAW {error}"
    except BaseException as error:
        return f"RAW {type(error).__name__}: {error}"
    return "works"


def called(name: str) -> str:
    """What a public function does with the simplest arguments."""
    try:
        FUNCTIONS[name]()
    except wl.WeightlapseError as error:
        extra = re.search(r"weightlapse\[(\w+)\]", str(error))
        if extra:
            return f"needs {extra[1]}"
        return f"RAW {type(error).__name__}: {error}"
    except BaseException as error:
        return f"RAW {type(error).__name__}: {error}: {traceback.format_exc()[-600:]}"
    return "works"


run, net = wl.load(RUN), (lambda: wl.load(RUN).state())
wiring = wl.Wiring.from_spec((folder / "w.txt").read_text())
try:
    import torch

    x, y = torch.randn(6, 4), torch.randn(6, 2)
except ImportError:
    torch = x = y = None


def module() -> Any:
    """A network of torch where it is; where it is not, the call must say so before it looks at what it was given."""
    return torch and torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


FUNCTIONS = {
    "align": lambda: wl.align(net(), net(), wiring),
    "align_all": lambda: wl.align_all([net(), net()], wiring),
    "align_runs": lambda: wl.align_runs(run, wl.load(OTHER), wiring),
    "autopsy": lambda: wl.autopsy(run),
    "canonical": lambda: wl.canonical(net(), wiring),
    "compare": lambda: wl.compare(net(), net(), wiring),
    "deepen": lambda: wl.deepen(module(), x, after="0"),
    "diagnose": lambda: wl.diagnose(run),
    "diff": lambda: wl.diff(net(), net()),
    "ensemble": lambda: wl.ensemble(module, 2, x, y, steps=2),
    "fit_lift": lambda: wl.fit_lift(wl.Lift(module()), x, y),
    "follow": lambda: wl.follow(run, wiring),
    "import_checkpoints": lambda: wl.import_checkpoints([folder / "run-1.npz"], folder / "imported", steps=[1]),
    "lineage": lambda: wl.lineage(net(), net()),
    "load": lambda: wl.load(RUN),
    "make_film": lambda: wl.make_film(run, folder / "called.mp4", size=(320, 240)),
    "make_page": lambda: wl.make_page(run, folder / "called.html"),
    "measure": lambda: [wl.measure(run, what) for what in ("norm", "update_ratio", "distance")],
    "narrow": lambda: wl.narrow(module(), x),
    "permute": lambda: wl.permute(net(), wiring, "fc1", np.arange(8)[::-1]),
    "plan": lambda: wl.plan(weights),
    "polish": lambda: wl.polish(module(), x, y, steps=2),
    "show": lambda: wl.show(run, block=False, open_browser=False).close(),
    "trace": lambda: wl.trace(module(), x),
    "watch": lambda: wl.watch(weights, folder / "watched").close(),
    "widen": lambda: wl.widen(module(), {"0": 10}, x),
    "log_spaced": lambda: wl.log_spaced(per_decade=5),
    "at": lambda: wl.at([0, 1]),
}  # fmt: skip
found = {key: next((o for o in map(outcome, calls) if o != "works"), "works") for key, calls in CALLS.items()}
for name in wl.__all__:
    told = named(name)
    if told == "works" and inspect.isfunction(getattr(wl, name)):
        assert name in FUNCTIONS, f"nothing calls wl.{name}"
        told = called(name)
    found[f"wl.{name}"] = told
print(json.dumps(found))

"""A user's script with a mistake in every line that says so: a type checker must find each, and nothing else."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

import weightlapse as wl

weights: dict[str, NDArray[np.float64]] = {"w": np.zeros(3)}
rec = wl.watch(weights, "run")
wl.watch(weights, "run", optimiser=None)  # wrong: the name of an argument
wl.watch(weights, "run", overwrite="yes")  # wrong: text for a switch
wl.watch(weights, "run", compact="sometimes")  # wrong: no such choice
rec.logg(loss=1.0)  # wrong: no such method
rec.log("loss")  # wrong: scalars have names
wl.no_such_name()  # wrong: no such function
run = wl.load("run")
net, x = torch.nn.Sequential(), torch.zeros(3)
count: int = wl.measure(run, "norm")  # wrong: a dict of arrays
wl.measure(run, "norm", by="row")  # wrong: no such way
run.stat(step=3)  # wrong: no such method
run.steps = 3  # wrong: read only
run.epochs  # wrong: the old name of an attribute
wl.load(5)  # wrong: no path
wl.make_film(run, "out.mp4", fpss=3)  # wrong: the name of an argument
wl.make_film(run, path="out.mp4")  # wrong: the old name of an argument
run.export("npz", dest="run.npz")  # wrong: the same of a method
wl.measure(run, "norm", frames="all")  # wrong: no frames
wl.compare(weights, weights, agree="nearly")  # wrong: text for a number
wl.plot.linez(run)  # wrong: no such figure
wl.align(weights, weights, wirin=None)  # wrong: the name of an argument
verdict: int = wl.compare(weights, weights, wiring=None).verdict  # wrong: text
wl.widen(weights, {"fc1": "wide"})  # wrong: a size is a number
wl.diff("a", "b").tensorz  # wrong: no such result
wl.callbacks.kerass  # wrong: no such framework
wl.make_film(run, theme="drak")  # wrong: no such theme
wl.make_film(run, scale="frame")  # wrong: no such scale
wl.make_film(run, pace="slow")  # wrong: no such pace
run.top("largest")  # wrong: no such quantity
run.export("hdf5", "run.h5")  # wrong: no such format
wl.widen(net, {"fc1": 3}, x, split="halves")  # wrong: no such split
wl.deepen(net, x, after="0", kind="copy")  # wrong: no such kind
dense: torch.nn.Linear = wl.narrow(net, x).model  # wrong: the network that was given is a Sequential
wl.trace(net, x, verify="never")  # wrong: no such way
wl.fit_lift(wl.Lift(net), x, x, rule="end to end")  # wrong: no such rule
wl.ensemble(lambda: net, 3, x, x, optimizer="adan")  # wrong: no such optimizer
wl.polish(net, x, x, method="newton")  # wrong: no such method

"""Calls as the README and the how-to pages of version 0.1 wrote them, on small networks, and every argument that was renamed since by its old name, once.

Written once: what stood in a page then must go on running as long as `docs/versions.md` promises it.
"""

import numpy as np
import torch
from torch import nn

import weightlapse as wl
from weightlapse.capture.imports import import_checkpoints
from weightlapse.ensembles.batches import imitation
from weightlapse.ensembles.stack import Stack, glorot

# README
model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
x = torch.rand(64, 2)
rec = wl.watch(model, "run", optimizer=optimizer, example=x)
for _ in range(12):
    loss = ((model(x) - x.prod(1, keepdim=True)) ** 2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    rec.log(loss=loss.item())
rec.close()
run = wl.load("run")
assert run["0.weight"][3:7, 3].shape == (4, 2)
run.state(step=5)
wl.make_film(run, "film.mp4", size=(160, 120))
wl.measure(run, "update_ratio")
wl.trace(model, x)

# film.md, plots.md
wl.make_film(run, "part.gif", frames=slice(0, 3), hold=0.5, size=(160, 120))
wl.make_film(run, "still.png", frames=3, size=(160, 120))
wl.make_film(run, path="old.gif", frames=[0, -1], size=(160, 120))
wl.plot.heatmap(run, "0.weight", frame=0)
wl.plot.norms(run)

# measure.md
wl.measure(run, ["update_ratio", "gini"])
wl.measure(run, "mean", tensors="0.bias", groups={"first": [0], "rest": range(1, 16)})
wl.diagnose(run)
wl.autopsy(run)
wl.autopsy(run, broken=9)

# compare.md
a = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
x = torch.randn(50, 4)
w = wl.trace(a, x[:3])
state = a.state_dict()
for group in w.groups:
    state = wl.permute(state, w, group.name, torch.randperm(group.size).numpy())
wl.permute(state=state, w=w, group_name="0", perm=np.arange(8))
b = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
b.load_state_dict(state)
assert wl.compare(a, b, data=x).verdict == "same up to symmetry"
assert wl.compare(a, b, w, data=x, tolerance=1e-4, seed=1).tolerance == 1e-4
assert wl.align(a, b, wiring=w).distance_after == 0
forms = wl.canonical(a, w), wl.canonical(b, w)
assert all(torch.equal(forms[0][n], forms[1][n]) for n in forms[0])
assert wl.align_all([a, b], w).distance_after.max() == 0
wl.align_runs(wl.load("run"), wl.load("run"), mode="each", frames=[0, 1])
wl.follow(wl.load("run"), frames=[0, 2]).moved
assert wl.lineage(a, state, w).verdict == "same up to symmetry"

# grow.md
g = wl.widen(a, {"0": 12}, x, split="equal", seed=0)
assert wl.narrow(g.model, x).model[0].out_features == 8
wl.deepen(a, x, after="0")

# ensembles.md
student = glorot(4, 3, 1, output=nn.Tanh)
teachers = Stack.make(student, 3, seeds=range(1000, 1003))
pairs = wl.ensemble(student, 3, data=imitation(teachers, 10), steps=3, lr=0.05)
inputs = torch.rand(40, 4, dtype=torch.float64) * 2 - 1
wl.polish(pairs, inputs, teachers.to(torch.float64)(inputs), steps=2, tolerance=1e-20)

# import-export.md
for step in (0, 100):
    np.savez(f"model-{step}.npz", w=np.full((2, 3), step), b=np.zeros(3))
import_checkpoints([f"model-{step}.npz" for step in (0, 100)], "imported")
run = wl.load("imported")
run.export("safetensors", "steps")
run.export("npz", dest="run.npz")

# grow.md, pytorch.md
assert [(e.start, e.stop, e.note) for e in run.epochs] == [(0, 2, "")]
assert run.epochs[0]["w"].shape == (2, 2, 3)
assert isinstance(run.epochs[0], wl.Epoch)

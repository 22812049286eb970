"""Real data with planted noise columns: which optimizer leaves the mass on the columns that mean something?"""

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from torch import nn

import weightlapse as wl

x, y = load_breast_cancer(return_X_y=True)
x, noise = (x - x.mean(0)) / x.std(0), 0.01 * np.random.default_rng(0).standard_normal((len(x), 30))
x, y = (torch.tensor(v, dtype=torch.float32) for v in (np.hstack([x, noise]), y[:, None]))

for name, make in {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "SGD, momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "Adam, epsilon 0.1": lambda p: torch.optim.Adam(p, lr=1e-2, eps=0.1),
}.items():
    torch.manual_seed(0)
    model = nn.Linear(60, 1)
    optimizer = make(model.parameters())
    with wl.watch(model, f"run {name}", optimizer=optimizer, every=10):
        for _ in range(500):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model(x), y).backward()
            optimizer.step()
    share = wl.measure(
        wl.load(f"run {name}"), "mass", tensors="weight", groups={"real": range(30), "noise": range(30, 60)}
    )
    print(
        f"{name:18} mass on the noise columns: {share['noise'][0]:.0%} at the start, {share['noise'][-1]:.0%} at the end"
    )

"""Lift on points that it never saw: does a network that writes weights generalise better than a plain network of its size?"""

import numpy as np
import torch
from torch import nn

import weightlapse as wl

grid = np.stack(np.meshgrid(*[np.arange(10.0)] * 3), -1).reshape(-1, 3)
order = [np.random.default_rng(seed).permutation(1000) for seed in range(7)]
x, y = torch.tensor(grid[order]), torch.tensor(grid[order, :1] ** 2 + 2 * grid[order, 1:2] * grid[order, 2:])
(x, x_test), (y, y_test) = x.split([800, 200], dim=1), y.split([800, 200], dim=1)


def lift(seed: int, rule: str) -> torch.Tensor:
    torch.manual_seed(seed)
    net = wl.Lift(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1)), (10,)).double()
    wl.fit_lift(net, x[seed], y[seed], rule=rule, epochs=25)
    return net(x_test[seed]).detach()


plain = lambda: nn.Sequential(nn.Linear(3, 65), nn.ReLU(), nn.Linear(65, 1))  # noqa: E731
trained = wl.ensemble(plain, 7, x, y, epochs=25, batch_size=8, optimizer="rmsprop", lr=3e-3, dtype=torch.float64)
answers = {rule: torch.stack([lift(seed, rule) for seed in range(7)]) for rule in ("target", "end_to_end")}
for name, got in (answers | {"plain, as large": trained(x_test)}).items():
    errors = ((got - y_test) ** 2).mean((1, 2)).detach().numpy()
    print(
        f"{name:15} held-out error {np.median(errors):5.2f} [{errors.min():.2f}, {errors.max():.2f}] over 7 splits of the grid"
    )

"""A network that looks at the input and writes the weights of the network that answers."""

import numpy as np
import torch

import weightlapse as wl

rng = np.random.default_rng(0)
x = rng.integers(0, 10, (10_000, 3)).astype(float)
y = (x[:, :1] ** 2) + 2 * x[:, 1:2] * x[:, 2:]

torch.manual_seed(0)
task = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1))
net = wl.Lift(task, (10,))
history = wl.fit_lift(net, x, y)
print(f"{history.samples_per_second:.0f} samples a second, one weight set each")

test = torch.tensor(rng.integers(0, 10, (1000, 3)).astype(np.float32))
truth = test[:, :1] ** 2 + 2 * test[:, 1:2] * test[:, 2:]
with torch.no_grad():
    print("test error", ((net(test) - truth) ** 2).mean().item(), "variance", truth.var().item())
    print("weights written for two inputs:", net.weights_for(test[:2])["2.weight"].squeeze(1).tolist())

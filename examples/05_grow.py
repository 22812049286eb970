"""A network grows wider in the middle of its training, forgets nothing, and the recording goes on."""

import torch
from sklearn.datasets import load_digits

import weightlapse as wl

images, labels = load_digits(return_X_y=True)
x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 12), torch.nn.ReLU(), torch.nn.Linear(12, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)


def train(steps: int) -> float:
    for _ in range(steps):
        batch = torch.randint(len(x), (64,))
        loss = torch.nn.functional.cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


print("loss before growing", round(train(200), 3))
grown = wl.widen(model, {"0": 20}, x[:64], optimizer=optimizer, seed=0)
print(grown)
before = model(x)
model, optimizer = grown.model, grown.optimizer
print("largest change of the outputs:", (model(x) - before).abs().max().item())
print("children of unit 5:", [u for u, parent in enumerate(grown.lineage["0"]) if parent == 5])
print("loss after training on", round(train(200), 3))

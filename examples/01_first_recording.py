"""Record every step of a training, read it back, and put the network into an earlier state."""

import torch
from sklearn.datasets import load_digits

import weightlapse as wl

images, labels = load_digits(return_X_y=True)
x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

with wl.watch(model, "run", optimizer=optimizer, example=x[:4]) as rec:
    for _ in range(200):
        batch = torch.randint(len(x), (64,))
        loss = torch.nn.functional.cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rec.log(loss=loss.item())

run = wl.load("run")
print(run)
print("one unit's first weights at steps 0, 100, 200:", run["0.weight"][::100, 3, 20:23].tolist())


def accuracy() -> float:
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()


for step in (0, 20, 200):
    run.load_into(model, step=step)
    print(f"step {step:3}: {accuracy():.1%} right")

"""What went wrong, where, and since when: a layer left out of the optimizer and units that die in the middle."""

import torch
from sklearn.datasets import load_digits

import weightlapse as wl

images, labels = load_digits(return_X_y=True)
x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 24), torch.nn.ReLU(), torch.nn.Linear(24, 10)
)
optimizer = torch.optim.SGD([p for name, p in model.named_parameters() if name != "4.bias"], lr=0.1)

with wl.watch(model, "run", optimizer=optimizer, example=x[:4]) as rec:
    for step in range(150):
        if step == 80:
            with torch.no_grad():
                model[0].bias[[3, 7]] = -40.0
        batch = torch.randint(len(x), (64,))
        loss = torch.nn.functional.cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rec.log(loss=loss.item())

run = wl.load("run")
for finding in wl.diagnose(run):
    print(finding, "\n")
numbers = wl.measure(run, ["distance", "gini"], by="layer")
for layer, values in numbers["distance"].items():
    print(f"layer {layer}: moved {values[-1]:.2f}, gini of its weights {numbers['gini'][layer][-1]:.2f}")

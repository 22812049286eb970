"""Are these two networks the same? A shuffled copy is, a network trained apart is not, and one verdict says so."""

import torch
from sklearn.datasets import load_digits

import weightlapse as wl

images, labels = load_digits(return_X_y=True)
x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)


def trained(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(64, 48), torch.nn.Tanh(), torch.nn.Linear(48, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(300):
        batch = torch.randint(len(x), (64,))
        loss = torch.nn.functional.cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


a, b = trained(0), trained(1)
wiring = wl.trace(a, x[:4])
print(wiring)

shuffled = trained(0)
shuffled.load_state_dict(wl.permute(a.state_dict(), wiring, "0", torch.randperm(48).tolist()))
for name, other in (("a shuffled copy of a", shuffled), ("a network trained apart", b)):
    print(f"\na and {name}:")
    print(wl.compare(a, other, wiring=wiring, data=(x, y)).explain())

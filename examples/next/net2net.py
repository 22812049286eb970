"""Net2Net on a small transformer: made wider, what is it worth against a large one from scratch?"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import weightlapse as wl

images, labels = load_digits(return_X_y=True)
x, y = torch.tensor(images / 16, dtype=torch.float32).view(-1, 8, 8), torch.tensor(labels)
torch.manual_seed(0)


def network(hidden: int) -> nn.Module:
    block = nn.TransformerEncoderLayer(16, 2, hidden, 0.0, batch_first=True)
    return nn.Sequential(
        nn.Linear(8, 16), nn.TransformerEncoder(block, 2, enable_nested_tensor=False), nn.Flatten(), nn.Linear(128, 10)
    )


def train(model: nn.Module, steps: int) -> float:
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for i in torch.randint(1400, (steps, 64), generator=torch.Generator().manual_seed(0)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[i]), y[i]).backward()
        optimizer.step()
    return (model(x[1400:]).argmax(1) == y[1400:]).float().mean().item()


teacher = network(16)
print(f"teacher, 16 hidden units a block: {train(teacher, 200):.1%}")
grown = wl.widen(teacher, {f"1.layers.{i}.linear1": 64 for i in range(2)}, x[:4])
print(
    f"widened to 64: {grown.error:.0e} apart, {train(grown.model, 0):.1%} at once, {train(grown.model, 60):.1%} after 60 steps"
)
print(f"64 from scratch: {train(network(64), 60):.1%} after 60 steps, {train(network(64), 260):.1%} after 260")

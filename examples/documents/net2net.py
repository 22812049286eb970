"""Widen a trained network (PyTorch). Lines that end in ``# weightlapse`` were added; epochs of teacher and student from the command line."""

import sys

import numpy as np
import torch
from torch import nn

import weightlapse as wl  # weightlapse

EPOCHS = [int(n) for n in sys.argv[1:3]] or [10, 30]
torch.manual_seed(0)

columns = [np.linspace(a, b, 1000) for a, b in ((-10, 10), (21, 78), (1, 2000), (-1000, 12))]
x = torch.tensor(np.stack(columns, axis=1), dtype=torch.float32)
y = torch.cos(x).mean(1, keepdim=True) + 0.2 * torch.rand(1000, 1)
order = torch.randperm(1000)
train = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x[order[:800]], y[order[:800]]), 32, shuffle=True)
x_test, y_test = x[order[800:]], y[order[800:]]


def network(units):
    return nn.Sequential(nn.Linear(4, units, bias=False), nn.ReLU(), nn.Linear(units, 1, bias=False))


def fit(net, epochs, path):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    rec = wl.watch(net, path, optimizer=optimizer, example=x[:8])  # weightlapse
    for _ in range(epochs):
        for a, b in train:
            loss = nn.functional.mse_loss(net(a), b)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rec.log(loss=loss.item())  # weightlapse
    rec.close()  # weightlapse
    return nn.functional.mse_loss(net(x_test), y_test).item()


teacher, student = network(10), network(20)
print("teacher:", fit(teacher, EPOCHS[0], "teacher"))

# The document's rule: incoming rows divided by the number of copies, the output layer left as it is.
parent = torch.cat([torch.arange(10), torch.randint(10, (10,))])
student[0].weight.data = teacher[0].weight.data[parent] / torch.bincount(parent)[parent][:, None]
print("student:", nn.functional.mse_loss(student(x_test), y_test).item())

try:  # weightlapse
    print(wl.compare(teacher, student, data=x).verdict)  # weightlapse
except wl.VacuousComparison as error:  # weightlapse
    print("refused:", error)  # weightlapse
for finding in wl.diagnose(wl.load("teacher")):  # weightlapse
    print(finding)  # weightlapse
print("after training:", fit(student, EPOCHS[1], "student"))

alive = network(10)
grown = wl.widen(alive, {"0": 20}, x[:64])  # weightlapse
print(grown.certificate)  # weightlapse

"""Sixty-four pairs of teacher and student at once; polished to the end, aligned: does a student learn its teacher's weights?"""

import numpy as np
import torch

import weightlapse as wl
from weightlapse.ensembles.batches import imitation
from weightlapse.ensembles.stack import Stack, glorot

make = glorot(2, 3, 1, output=torch.nn.Tanh)
teachers = Stack.make(make, 64, seeds=range(100, 164))
students = wl.ensemble(make, 64, fresh=imitation(teachers, 128), steps=3000, lr=0.01, schedule="cosine")
print(students)

x = torch.rand(512, 2, dtype=torch.float64) * 2 - 1
exact = teachers.to(torch.float64)
with torch.no_grad():
    polished = wl.polish(students, x, exact(x), steps=300)
zero = polished.losses[-1] < 1e-20
wiring = wl.trace(teachers.member(0), torch.rand(8, 2))
aligned = np.array(
    [wl.align(exact.state(i), polished.state(i), wiring=wiring).distance_after for i in np.flatnonzero(zero)]
)
print(f"{zero.sum()} of 64 students reach zero error")
print(f"of these {np.mean(aligned < 1e-6):.0%} have their teacher's weights, up to order and sign of hidden units")

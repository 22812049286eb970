"""How many students find their teacher's weights, when the units are ReLU, the teacher deeper, the student wider, the budget longer?"""

from itertools import pairwise

import torch
from torch import nn

import weightlapse as wl


def network(*sizes: int, act: type[nn.Module] = nn.Tanh):
    pairs = list(pairwise(sizes))
    return lambda: nn.Sequential(*[m for p in pairs[:-1] for m in (nn.Linear(*p), act())], nn.Linear(*pairs[-1]))


def finders(teacher, student, budget: int, n: int = 8) -> str:
    exact = wl.ensemble(teacher, n, x, x[:, :1], steps=1, lr=0.0, seeds=range(100, 100 + n), dtype=torch.float64)
    start = wl.ensemble(student, n, x, exact(x).detach(), steps=600, lr=0.02, schedule="cosine")
    done = wl.polish(start, x, exact(x).detach(), steps=budget)
    wiring, own = (wl.trace(m, x[:8].float()) for m in (teacher(), student()))
    apart = [wl.align(exact.state(i), done.state(i), wiring, wiring_b=own, merge=1e-3).distance_after for i in range(n)]
    return f"{sum(d < 0.01 for d in apart)} of {n} hold the teacher's weights ({str(done).split(': ')[1]})"


x = torch.rand(150, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
small, deep = network(3, 4, 1), network(3, 4, 4, 1)
for budget in (20, 100, 500):
    print(f"tanh 3-4-1, {budget:3} polishing steps:", finders(small, small, budget))
for wide in (6, 8):
    print(f"student 3-{wide}-1, folded, 500:       ", finders(small, network(3, wide, 1), 500))
print("deeper, 3-4-4-1, 500:             ", finders(deep, deep, 500))
print("ReLU 3-4-1, 500:                  ", finders(*[network(3, 4, 1, act=nn.ReLU)] * 2, 500))

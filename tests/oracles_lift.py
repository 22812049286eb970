"""Slow, obvious twins for the lift and ensembles tests: one sample, one network, one line of algebra at a time."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn
from torch.func import functional_call


def rms_step(weight, gradient, moment, lr, rho=0.9, eps=1e-7, inside=False):
    """New weight and new second moment after one RMSprop step."""
    moment = rho * moment + (1 - rho) * gradient * gradient
    root = np.sqrt(moment + eps) if inside else np.sqrt(moment) + eps
    return weight - lr * gradient / root, moment


def lift_twin(
    generator,
    task,
    x,
    y,
    *,
    rule="target",
    inside=False,
    inner_steps=1,
    task_optimizer="rmsprop",
    start=None,
    lr=1e-3,
    task_lr=1e-3,
):
    """The online Lift with autograd, one sample at a time. Returns a trained copy of ``generator`` and the task losses."""
    generator = copy.deepcopy(generator).double()
    task = copy.deepcopy(task).double()
    names = [n for n, _ in task.named_parameters()]
    shapes = [p.shape for p in task.parameters()]
    splits = [p.numel() for p in task.parameters()]
    moments = [np.zeros(p.shape) for p in generator.parameters()]
    task_moment = np.zeros(sum(splits))
    losses = []

    def loss_of(flat, i):
        parts = {n: t.reshape(s) for n, t, s in zip(names, flat.split(splits), shapes)}
        return ((functional_call(task, parts, (x[i],)) - y[i]) ** 2).mean()

    for i in range(len(x)):
        written = generator(x[i])
        losses.append(float(loss_of(written.detach(), i)))
        if rule == "end_to_end":
            objective = loss_of(written, i)
        else:
            weights = written.detach() if rule == "target" else start
            for _ in range(inner_steps):
                weights = weights.detach().requires_grad_()
                (g,) = torch.autograd.grad(loss_of(weights, i), weights)
                if task_optimizer == "sgd":
                    weights = weights.detach() - task_lr * g
                else:
                    new, task_moment = rms_step(
                        weights.detach().numpy(), g.numpy(), task_moment, task_lr, inside=inside
                    )
                    weights = torch.from_numpy(new)
            objective = ((written - weights.detach()) ** 2).mean()
        gradients = torch.autograd.grad(objective, list(generator.parameters()))
        with torch.no_grad():
            for k, (p, g) in enumerate(zip(generator.parameters(), gradients)):
                new, moments[k] = rms_step(p.numpy(), g.numpy(), moments[k], lr, inside=inside)
                p.copy_(torch.from_numpy(new))
    return generator, np.array(losses)


def study_data(rows, seed=0, low=0, high=10):
    """Integer inputs of the lift study and x^2 + 2 y z."""
    import random

    random.seed(seed)
    x = torch.tensor([[random.randrange(low, high) for _ in range(3)] for _ in range(rows)], dtype=torch.float64)
    return x, (x[:, 0] ** 2 + 2 * x[:, 1] * x[:, 2])[:, None]


def keras_start(module, seed):
    """Glorot-uniform kernels and zero biases, from ``seed``; written apart from the package's own."""
    generator = torch.Generator().manual_seed(seed)
    for m in module.modules():
        if isinstance(m, nn.Linear):
            limit = (6 / (m.in_features + m.out_features)) ** 0.5
            with torch.no_grad():
                m.weight.copy_((torch.rand(m.weight.shape, generator=generator) * 2 - 1) * limit)
                m.bias.zero_()
    return module

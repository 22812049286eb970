"""The tracer on small networks whose answer is known by heart."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

import weightlapse as wl
from weightlapse.errors import CannotTrace, InvalidArgument


def mlp(act: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), act or nn.ReLU(), nn.Linear(8, 6), act or nn.ReLU(), nn.Linear(6, 3))


def test_an_mlp() -> None:
    w = wl.trace(mlp(), torch.randn(5, 4))
    assert [(g.name, g.size) for g in w.groups] == [("0", 8), ("2", 6)]
    assert [(m.tensor, m.axis, m.role) for m in w.group("0").members] == [
        ("0.weight", 0, "out"),
        ("0.bias", 0, "add"),
        ("2.weight", 1, "in"),
    ]
    assert "input" in w.explain("0.weight", 1)
    assert "output" in w.explain("4.weight", 0)


def test_the_first_call_does_not_import_dynamo() -> None:
    code = (
        "import sys, torch, weightlapse as wl\n"
        "wl.trace(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)), torch.randn(4, 2))\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "example, complaint", [((torch.randn(2, 9),), "does not run on the example"), ((), "at least one example")]
)
def test_examples_that_do_not_fit(example: tuple, complaint: str) -> None:
    with pytest.raises((CannotTrace, InvalidArgument), match=complaint):
        wl.trace(mlp(), *example)


def test_no_weights() -> None:
    with pytest.raises(CannotTrace, match="no weights"):
        wl.trace(nn.ReLU(), torch.randn(2, 2))

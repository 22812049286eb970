"""Sizes and strides of all tensors, asked at once: nothing that changes them is missed, with torch's guards and without."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import pytest
import torch

from weightlapse.adapters.torch_same import SameShapes

CHANGES: dict[str, Callable[[torch.nn.Parameter], object]] = {
    "turned": lambda p: setattr(p, "data", p.data.t()),
    "cut": lambda p: setattr(p, "data", p.data[:2]),
    "in another form": lambda p: setattr(p, "data", p.data.reshape(2, 8)),
    "flat": lambda p: setattr(p, "data", p.data.reshape(-1)),
    "with an axis more": lambda p: setattr(p, "data", p.data[:, None]),
    "every other": lambda p: setattr(p, "data", p.data[:, ::2]),
}


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_view_of_the_same_memory_is_seen(change: str, guarded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not guarded:
        real = importlib.import_module
        monkeypatch.setattr(
            "weightlapse.adapters.torch_same.importlib.import_module",
            lambda name: real("weightlapse.no_such" if name.endswith("guards") else name),
        )
    tensors = [torch.nn.Parameter(torch.randn(4, 4)) for _ in range(3)]
    for changed in tensors:
        same = SameShapes(tensors)
        assert (same._guard is not None) is guarded
        assert same()
        CHANGES[change](changed)
        assert not same()
        assert not same()


def test_what_else_changes_is_no_change() -> None:
    tensors = [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(4, 4).t())]
    same = SameShapes(tensors)
    for k in range(20):  # more often than a guard is made anew
        tensors[0].requires_grad_(k % 2 == 0)
        tensors[1].data += 1
        assert same()
    with torch.no_grad(), torch.inference_mode():
        assert same()
    tensors[1].data = tensors[1].data.t()
    assert not same()
    assert SameShapes([])()

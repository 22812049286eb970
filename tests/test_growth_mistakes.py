"""What everybody got wrong, made on purpose: the certificate's comparison must see every one of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tests.nets_growth as nets
import weightlapse as wl
from weightlapse.errors import CannotGrow
from weightlapse.growth.certificate import Trial

Mistake = Callable[[Any, Any, Any], None]  # the old network, the grown one (spoilt in place), the growth


def counts(parents: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(np.bincount(parents)[parents], dtype=torch.float32)


def divide_incoming(old: Any, new: Any, g: Any) -> None:
    p = torch.as_tensor(g.lineage["0"])
    new[0].weight.copy_(old[0].weight[p] / counts(g.lineage["0"])[:, None])
    new[2].weight.copy_(old[2].weight[:, p])


def forget_the_bias(old: Any, new: Any, g: Any) -> None:
    new[0].bias[6:] = 0


def divide_the_bias(old: Any, new: Any, g: Any) -> None:
    new[0].bias /= counts(g.lineage["0"])


def draw_twice(old: Any, new: Any, g: Any) -> None:
    other = np.concatenate([np.arange(6), (g.lineage["0"][6:] + 1) % 6])
    new[2].weight.copy_(old[2].weight[:, torch.as_tensor(other)] / counts(other))


def divide_new_columns_only(old: Any, new: Any, g: Any) -> None:
    new[2].weight[:, :6] = old[2].weight


def copy_noisily(old: Any, new: Any, g: Any) -> None:
    new[0].weight[6:] += 1e-6


def forget_a_later_reader(old: Any, new: Any, g: Any) -> None:
    new.layer1[1].conv1.weight.copy_(old.layer1[1].conv1.weight[:, torch.as_tensor(g.lineage["conv"])])


def last_statistics_only(old: Any, new: Any, g: Any) -> None:
    new.bn.running_mean[6:] = new.bn.running_mean[5].clone()
    new.bn.running_var[6:] = new.bn.running_var[5].clone()


def fresh_statistics(old: Any, new: Any, g: Any) -> None:
    new.layer1[0].bn2.running_var[6:] = 1.0


def fresh_gains(old: Any, new: Any, g: Any) -> None:
    new.layer1[1].bn2.weight[6:] = 1.0


WIDE_MLP: list[Mistake] = [
    divide_incoming, forget_the_bias, divide_the_bias, draw_twice, divide_new_columns_only, copy_noisily,
]  # fmt: skip
WIDE_STREAM: list[Mistake] = [forget_a_later_reader, last_statistics_only, fresh_statistics, fresh_gains]


def seen(old: nn.Module, new: nn.Module, x: torch.Tensor) -> float:
    """The largest difference that the certificate's rounds find with the network's own weights."""
    return max(c.error for c in Trial.of(old, [x]).checks(copy.deepcopy, new, own_only=True))


@pytest.mark.parametrize("mistake", [*WIDE_MLP, *WIDE_STREAM], ids=lambda m: m.__name__)
def test_a_wrong_rule_of_widening_is_seen(mistake: Mistake) -> None:
    mlp = mistake in WIDE_MLP
    old = nets.trained_a_little(nets.mlp() if mlp else nets.Resnet())
    x = nets.vectors() if mlp else nets.images()
    g = wl.widen(old, {"0": 11} if mlp else {"conv": 9}, x, seed=0)
    assert seen(old, g.model, x) <= 1e-12
    with torch.no_grad():
        mistake(old, g.model, g)
    assert seen(old, g.model, x) > 1e-9


def test_a_uneven_stream_under_a_norm_would_be_seen() -> None:
    # The check behind the refusal: forced through without the blocker, the uneven stream differs.
    from weightlapse.wiring.data import Wiring

    old, x = nets.trained_a_little(nets.Gpt()), nets.tokens()
    spec = wl.trace(old, x).to_spec()
    bare = "\n".join(line for line in spec.splitlines() if not line.strip().startswith(("blocked", "ops")))
    with pytest.raises(CannotGrow, match="would change the function: the outputs would differ by"):
        wl.widen(old, {"tokens": 11}, x, wiring=Wiring.from_spec(bare))


def test_more_query_dims_would_be_seen() -> None:
    from weightlapse.wiring.data import Wiring

    old, x = nets.trained_a_little(nets.Gpt()), nets.tokens()
    spec = wl.trace(old, x).to_spec()
    bare = "\n".join(line for line in spec.splitlines() if not line.strip().startswith(("blocked", "ops")))
    with pytest.raises(CannotGrow, match="would change the function"):
        wl.widen(old, {"blocks.0.q[0]": 8}, x, wiring=Wiring.from_spec(bare))


def test_a_wiring_that_misses_a_reader_is_caught() -> None:
    from weightlapse.wiring.data import Wiring

    old, x = nets.trained_a_little(nets.mlp()), nets.vectors()
    spec = wl.trace(old, x).to_spec()
    wrong = "\n".join(line for line in spec.splitlines() if "0.bias" not in line or line.startswith("tensor"))
    with pytest.raises(CannotGrow, match="does not run"):
        wl.widen(old, {"0": 9}, x, wiring=Wiring.from_spec(wrong))

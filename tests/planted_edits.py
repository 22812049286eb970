"""Edits of known kind, planted into networks of several kinds: what `wl.diff` must name.

A case is (name, A, B, the tensor, kind, rank); ``rank`` is None where it is not asked for. A and B are mappings of arrays, or modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.zoo import ZOO
from tests.zoo import language as language  # registers the transformers


@dataclass(frozen=True)
class Edit:
    name: str
    a: Any
    b: Any
    tensor: str
    kind: str
    rank: int | None = None
    status: str = "changed"

    def __str__(self) -> str:
        return self.name


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )


def transformer() -> nn.Module:
    return ZOO["hf_llama"].make()


# network -> (module, its matrices to edit)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "mlp": (mlp, ("0.weight", "2.weight", "4.weight")),
    "cnn": (cnn, ("0.weight", "3.weight", "6.weight")),
    "transformer": (
        transformer,
        ("model.layers.0.mlp.down_proj.weight", "model.layers.1.self_attn.q_proj.weight", "model.embed_tokens.weight"),
    ),
}


def state_of(network: str, seed: int = 0) -> dict[str, np.ndarray]:
    torch.manual_seed(seed)
    module = NETWORKS[network][0]()
    return {n: v.detach().numpy().copy() for n, v in module.state_dict().items()}


def with_tensor(state: dict[str, np.ndarray], name: str, value: np.ndarray) -> dict[str, np.ndarray]:
    return state | {name: np.ascontiguousarray(value.astype(state[name].dtype))}


def low_rank(w: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    flat = w.reshape(len(w), -1)
    d = rng.standard_normal((flat.shape[0], k)) @ rng.standard_normal((k, flat.shape[1]))
    d *= 0.05 * np.linalg.norm(flat) / np.linalg.norm(d)
    return (flat + d.astype(np.float32)).reshape(w.shape)


def bf16(w: np.ndarray) -> np.ndarray:
    return torch.from_numpy(w.copy()).to(torch.bfloat16).float().numpy()


def f16(w: np.ndarray) -> np.ndarray:
    return w.astype(np.float16).astype(np.float32)


def per_tensor(w: np.ndarray, steps: int = 127) -> np.ndarray:
    s = np.float32(np.abs(w).max() / steps)
    return np.rint(w / s).astype(np.float32) * s


def per_row(w: np.ndarray, steps: int = 7) -> np.ndarray:
    s = (np.abs(w).reshape(len(w), -1).max(axis=1) / steps).astype(np.float32).reshape(-1, *[1] * (w.ndim - 1))
    return np.rint(w / s).astype(np.float32) * s


def eight_bit_floats(w: np.ndarray, kind: str, largest: float = 0) -> np.ndarray:
    """Rounded to float8; with a ``largest`` number the tensor is scaled to reach it, as is usual."""
    scale = np.float32(np.abs(w).max() / largest if largest else 1)
    return torch.from_numpy(w / scale).to(getattr(torch, kind)).float().numpy() * scale


def with_zero_points(w: np.ndarray, width: int) -> np.ndarray:
    """``width`` bits between the smallest and the largest of each row."""
    flat = w.reshape(len(w), -1)
    low, high = flat.min(axis=1, keepdims=True), flat.max(axis=1, keepdims=True)
    step = ((high - low) / (2**width - 1)).astype(np.float32)
    zero = np.rint(-low / step).astype(np.float32)
    return ((np.clip(np.rint(flat / step) + zero, 0, 2**width - 1) - zero) * step).reshape(w.shape)


def pruned(w: np.ndarray, share: float) -> np.ndarray:
    return np.where(np.abs(w) <= np.quantile(np.abs(w), share), np.float32(0), w)


def bit(w: np.ndarray, at: int, place: int) -> np.ndarray:
    out = w.copy()
    out.reshape(-1).view(np.uint32)[at] ^= np.uint32(1 << place)
    return out


def one_value(w: np.ndarray, at: int) -> np.ndarray:
    out = w.copy()
    out.reshape(-1)[at] += np.float32(0.1234)
    return out


def signs(w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return w * rng.choice(np.array([-1, 1], np.float32), w.shape)


def noisy(w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return w + (0.1 * w.std() * rng.standard_normal(w.shape)).astype(np.float32)


def rows_only(w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    out = w.copy()
    out[[1, 4]] += rng.standard_normal(out[[1, 4]].shape).astype(np.float32)
    return out


def edits() -> Iterator[Edit]:
    for network, (_, names) in NETWORKS.items():
        state = state_of(network)
        for i, name in enumerate(names):
            rng = np.random.default_rng(i)
            w = state[name]

            def case(
                what: str,
                value: np.ndarray,
                kind: str,
                rank: int | None = None,
                status: str = "changed",
                network=network,
                state=state,
                name=name,
            ) -> Edit:
                return Edit(
                    f"{network} {name} {what}", state, with_tensor(state, name, value), name, kind, rank, status
                )

            side = min(len(w), w.size // len(w))
            ranks = (1, 2) if side >= 10 else (1,)
            yield from (case(f"rank {k}", low_rank(w, k, rng), "low rank", k) for k in ranks)
            yield case("times 1.7", w * np.float32(1.7), "scale")
            yield case(
                "rows rescaled", w * rng.uniform(0.5, 2, (len(w), *[1] * (w.ndim - 1))).astype(np.float32), "scale"
            )
            yield case("bf16 and back", bf16(w), "rounding")
            yield case("f16 and back", f16(w), "rounding")
            yield case("pruned", pruned(w, 0.5), "pruned")
            yield case("8 bits", per_tensor(w), "quantised")
            yield case("4 bits a row", per_row(w), "quantised")
            yield case("8 bits a row", per_row(w, 127), "quantised")
            yield case("8 bits a row from its least", with_zero_points(w, 8), "quantised")
            yield case("4 bits a row from its least", with_zero_points(w, 4), "quantised")
            yield case("8 bits a column", np.moveaxis(per_row(np.moveaxis(w, -1, 0), 127), 0, -1), "quantised")
            yield case("float8 e4m3", eight_bit_floats(w, "float8_e4m3fn"), "rounding")
            yield case("float8 e5m2", eight_bit_floats(w, "float8_e5m2"), "rounding")
            yield case("float8 e4m3, scaled", eight_bit_floats(w, "float8_e4m3fn", 448), "quantised")
            yield case("float8 e5m2, scaled", eight_bit_floats(w, "float8_e5m2", 57344), "quantised")
            yield case("one bit", bit(w, 7 * i + 3, (30, 12, 31)[i]), "single bit")
            yield case("one value", one_value(w, 5), "single value")
            yield case("signs", signs(w, rng), "signs")
            yield case("rows in another order", w[rng.permutation(len(w))], "permutation")
            yield case("columns in another order", w[:, rng.permutation(w.shape[1])], "permutation")
            yield case("rows", rows_only(w, rng), "rows")
            if w.size >= 256:
                yield case("noise", noisy(w, rng), "noise")
        first = names[0]
        yield Edit(
            f"{network} renamed",
            state,
            {("other." + n if n == first else n): v for n, v in state.items()},
            "other." + first,
            "renamed",
            status="renamed",
        )
        yield Edit(
            f"{network} removed", state, {n: v for n, v in state.items() if n != first}, first, "", status="removed"
        )
        yield Edit(f"{network} added", {n: v for n, v in state.items() if n != first}, state, first, "", status="added")
        yield Edit(
            f"{network} flat", state, state | {first: state[first].reshape(-1)}, first, "reshaped", status="reshaped"
        )
        if state[first].ndim == 2:
            yield Edit(
                f"{network} transposed",
                state,
                state | {first: state[first].T.copy()},
                first,
                "transposed",
                status="reshaped",
            )
    yield from _tied()


def _tied() -> Iterator[Edit]:
    state = state_of("transformer")
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    apart = state | {head: np.random.default_rng(5).standard_normal(state[head].shape).astype(np.float32)}
    together = state | {head: state[embedding]}
    yield Edit("transformer head tied", apart, together, head, "tied")
    yield Edit("transformer head untied", together, apart, head, "tied")

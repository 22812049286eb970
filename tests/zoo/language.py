"""Hugging Face models from small configurations; nothing is downloaded."""

from __future__ import annotations

import importlib.util

import torch

from tests.zoo import add

IDS = {"input_ids": torch.arange(12).reshape(2, 6) % 50}


def ids():
    return (dict(IDS),)


def long_ids():
    return ({"input_ids": torch.arange(24).reshape(2, 12) % 50, "use_cache": False},)


def seq2seq():
    return ({"input_ids": torch.arange(12).reshape(2, 6) + 3, "decoder_input_ids": torch.arange(10).reshape(2, 5) + 3},)


def picture():
    return ({"pixel_values": torch.randn(2, 3, 16, 16)},)


def picture_32():
    return ({"pixel_values": torch.randn(2, 3, 32, 32)},)


def _hf(name: str, config: str, **settings):
    def build():
        import transformers

        cfg = getattr(transformers, config)(**settings)
        cfg._attn_implementation = settings.get("attn_implementation", "sdpa")
        return getattr(transformers, name)(cfg)

    return build


if importlib.util.find_spec("transformers") is not None:
    # stream 12; per layer 3 heads (4 query-key and 4 value dims each) and the feed-forward layer
    _bert = {
        "vocab_size": 50,
        "hidden_size": 12,
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
        "intermediate_size": 20,
        "max_position_embeddings": 16,
    }
    add("hf_bert_masked_lm", ids, sizes=(12, 3, 3, 20, 20), nested=12)(_hf("BertForMaskedLM", "BertConfig", **_bert))
    add("hf_bert", ids, sizes=(3, 3, 20, 20), nested=12)(_hf("BertModel", "BertConfig", **_bert))
    _gpt2 = {
        "vocab_size": 50,
        "n_embd": 12,
        "n_head": 3,
        "n_layer": 2,
        "n_positions": 16,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    add("hf_gpt2", ids, sizes=(12, 3, 3, 48, 48), nested=12)(_hf("GPT2LMHeadModel", "GPT2Config", **_gpt2))
    # 2 key-value heads with 2 query heads each; rotary positions fix the query-key dims, the 4 value dims stay free
    _llama = {
        "vocab_size": 50,
        "hidden_size": 16,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 2,
        "intermediate_size": 20,
    }
    add("hf_llama", ids, sizes=(16, 2, 2, 20, 20), nested=8)(
        _hf("LlamaForCausalLM", "LlamaConfig", **_llama, max_position_embeddings=32, bos_token_id=0, eos_token_id=0)
    )
    add("hf_t5", lambda: ({**IDS, "decoder_input_ids": IDS["input_ids"][:, :4]},), sizes=(12, 3, 3, 3, 20, 20), nested=18)(
        _hf("T5ForConditionalGeneration", "T5Config", vocab_size=50, d_model=12, d_kv=4, d_ff=20, num_layers=1, num_decoder_layers=1, num_heads=3,
            decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
    )  # fmt: skip
    add("hf_gpt_neox", ids, sizes=(12, 3, 20), nested=3)(
        _hf("GPTNeoXForCausalLM", "GPTNeoXConfig", vocab_size=50, hidden_size=12, num_attention_heads=3, num_hidden_layers=1, intermediate_size=20,
            max_position_embeddings=16, rotary_pct=1.0, bos_token_id=0, eos_token_id=0)
    )  # fmt: skip
    add("hf_vit", lambda: ({"pixel_values": torch.randn(2, 3, 16, 16)},), sizes=(12, 3, 20), nested=6)(
        _hf("ViTForImageClassification", "ViTConfig", hidden_size=12, num_attention_heads=3, num_hidden_layers=1, intermediate_size=20,
            image_size=16, patch_size=4)
    )  # fmt: skip
    # experts by loops and by fused products: a mixture's hidden units are in another order for every expert
    _moe = {
        "vocab_size": 50,
        "hidden_size": 16,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 1,
        "intermediate_size": 24,
        "num_local_experts": 3,
        "num_experts_per_tok": 2,
    }

    def _experts(kind):
        def build():
            import transformers

            config = transformers.MixtralConfig(**_moe)
            config._experts_implementation = kind
            return transformers.MixtralForCausalLM(config)

        return build

    for _kind in ("eager", "batched_mm", "grouped_mm"):
        add(f"hf_mixtral_{_kind}", long_ids, sizes=(16, 2, 24, 24, 24), nested=4)(_experts(_kind))
    # hidden states are collected by hooks that the model installs when it first runs
    add("hf_bert_hidden_states", ids, sizes=(12, 3, 20), nested=6)(
        _hf("BertForMaskedLM", "BertConfig", **(_bert | {"num_hidden_layers": 1, "output_hidden_states": True}))
    )
    add("hf_bart", seq2seq, sizes=(12, 3, 3, 3, 20, 20), nested=18)(
        _hf(
            "BartForConditionalGeneration",
            "BartConfig",
            vocab_size=50,
            d_model=12,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=3,
            decoder_attention_heads=3,
            encoder_ffn_dim=20,
            decoder_ffn_dim=20,
            max_position_embeddings=16,
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=2,
            decoder_start_token_id=2,
            forced_eos_token_id=2,
        )
    )
    add("hf_segformer", picture, sizes=(8, 8, 12, 2, 2, 16, 24), nested=8)(
        _hf(
            "SegformerForImageClassification",
            "SegformerConfig",
            num_encoder_blocks=2,
            depths=[1, 1],
            sr_ratios=[2, 1],
            hidden_sizes=[8, 12],
            patch_sizes=[3, 3],
            strides=[2, 2],
            num_attention_heads=[2, 2],
            mlp_ratios=[2, 2],
            decoder_hidden_size=10,
        )
    )
    # patches, three streams, heads of five attentions (two of them shrink the image), hidden layers of five perceptrons
    add(
        "hf_levit",
        picture_32,
        sizes=(2, 4, 8, 16, 24, 32, 2, 4, 2, 6, 2, 32, 48, 48, 64, 64),
        nested=32,
    )(
        _hf(
            "LevitForImageClassification",
            "LevitConfig",
            image_size=32,
            hidden_sizes=[16, 24, 32],
            num_attention_heads=[2, 2, 2],
            depths=[1, 1, 1],
            key_dim=[4, 4, 4],
            mlp_ratio=[2, 2, 2],
            attention_ratio=[2, 2, 2],
            attn_implementation="eager",
        )
    )

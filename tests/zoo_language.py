"""Tiny transformers of the families that people prune, with inputs. Transformers is imported when one is built."""

from __future__ import annotations

import torch


def _tokens(length=6, vocabulary=32):
    return {"input_ids": torch.randint(vocabulary, (2, length))}


def _language(kind, **sizes):
    import transformers

    config = getattr(transformers, f"{kind}Config")(vocab_size=32, **sizes)
    return config, transformers


_LLAMA = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
_LLAMA |= {"num_key_value_heads": 2, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1}


_END = {"bos_token_id": 1, "eos_token_id": 1}


def llama(**more):
    config, t = _language("Llama", **_LLAMA, tie_word_embeddings=True, **more)
    return t.LlamaForCausalLM(config), _tokens()


def qwen3():
    config, t = _language("Qwen3", **_LLAMA, head_dim=4)
    return t.Qwen3ForCausalLM(config), _tokens()


def gemma3():
    config, t = _language(
        "Gemma3Text", **_LLAMA, head_dim=4, sliding_window=4, layer_types=["sliding_attention", "full_attention"]
    )
    return t.Gemma3ForCausalLM(config), _tokens()


def mistral():
    config, t = _language("Mistral", **_LLAMA, sliding_window=4)
    return t.MistralForCausalLM(config), _tokens()


def phi():
    config, t = _language("Phi", **_LLAMA)
    return t.PhiForCausalLM(config), _tokens()


def mixture(kind, **more):
    """Experts by batched products, since grouped ones are not for float64."""
    config, t = _language(kind, **_LLAMA, num_experts_per_tok=2, **more)
    config._experts_implementation = "batched_mm"
    return getattr(t, f"{kind}ForCausalLM")(config), _tokens()


def mixtral():
    return mixture("Mixtral", num_local_experts=5)


def qwen3moe():
    return mixture("Qwen3Moe", num_experts=5, moe_intermediate_size=12, head_dim=4)


def gpt2():
    config, t = _language(
        "GPT2",
        n_embd=16,
        n_layer=2,
        n_head=4,
        n_positions=32,
        n_inner=24,
        **_END,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
    )
    return t.GPT2LMHeadModel(config), _tokens()


def opt():
    config, t = _language(
        "OPT",
        hidden_size=16,
        ffn_dim=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        word_embed_proj_dim=16,
        max_position_embeddings=32,
        dropout=0.0,
    )
    return t.OPTForCausalLM(config), _tokens()


def bert():
    sizes = {k: _LLAMA[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")}
    config, t = _language(
        "Bert", **sizes, max_position_embeddings=32, hidden_dropout_prob=0, attention_probs_dropout_prob=0
    )
    return t.BertForSequenceClassification(config), _tokens()


def vit():
    import transformers as t

    sizes = {k: _LLAMA[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")}
    config = t.ViTConfig(**sizes, image_size=8, patch_size=4, num_channels=3)
    return t.ViTForImageClassification(config), {"pixel_values": torch.randn(2, 3, 8, 8)}


def t5():
    config, t = _language(
        "T5", d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, dropout_rate=0.0, decoder_start_token_id=0
    )
    return t.T5ForConditionalGeneration(config), {**_tokens(), "decoder_input_ids": torch.randint(32, (2, 5))}


# ---- fused projections, of as many parts as there are architectures --------------------------------------------------


_SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4} | _END


def phi3():
    """Queries, keys and values are slices between bounds that the config computes."""
    config, t = _language("Phi3", **_LLAMA, eos_token_id=1)
    return t.Phi3ForCausalLM(config), _tokens()


def falcon(**more):
    """The last two of the fused heads are the key and the value of all."""
    config, t = _language("Falcon", **_SMALL, ffn_hidden_size=24, **more)
    return t.FalconForCausalLM(config), _tokens()


def falcon_groups():
    """Runs of queries, each with its key and value."""
    return falcon(new_decoder_architecture=True, num_kv_heads=2)


def bloom():
    """The slopes of the heads are constants, so that heads stay."""
    config, t = _language("Bloom", hidden_size=16, n_layer=2, n_head=4, hidden_dropout=0, attention_dropout=0, **_END)
    return t.BloomForCausalLM(config), _tokens()


def neox():
    config, t = _language("GPTNeoX", **_SMALL, intermediate_size=24)
    return t.GPTNeoXForCausalLM(config), _tokens()


# ---- sounds and pictures ---------------------------------------------------------------------------------------------


def whisper():
    sizes = {f"{side}_{key}": n for side in ("encoder", "decoder") for key, n in _SIDES.items()}
    ends = {"bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 1, "pad_token_id": 0}
    config, t = _language(
        "Whisper", d_model=16, num_mel_bins=4, max_source_positions=8, max_target_positions=16, **sizes, **ends
    )
    inputs = {"input_features": torch.randn(2, 4, 16), "decoder_input_ids": torch.randint(32, (2, 5))}
    return t.WhisperForConditionalGeneration(config), inputs


_SIDES = {"layers": 2, "attention_heads": 4, "ffn_dim": 24}


def convnext():
    import transformers as t

    config = t.ConvNextConfig(hidden_sizes=[8, 12], depths=[1, 1], num_stages=2, patch_size=2)
    return t.ConvNextForImageClassification(config), {"pixel_values": torch.randn(2, 3, 16, 16)}


_DECODERS = (llama, qwen3, gemma3, mixtral, qwen3moe, gpt2, opt, phi3, falcon, falcon_groups, bloom, neox)
WALKED = {f.__name__: f for f in (mistral, phi)}  # for walks alone: they are cut as llama is
LANGUAGE = {f.__name__: f for f in (*_DECODERS, bert, vit, t5, whisper, convnext)}

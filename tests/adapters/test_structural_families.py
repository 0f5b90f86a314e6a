"""Transformers that have been cut are transformers: they print, save, load, generate with a cache, and train on."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
import zoo
from torch.func import functional_call

import masklib as ml
from masklib.adapters.structural import shrink, shrink_optimizer, structure

pytest.importorskip("transformers")
HEADS = {"num_attention_heads", "num_key_value_heads"}


@cache
def found(name):
    model, inputs = zoo.build(name)
    return model, inputs, structure(model, inputs)


def masks_of(model, sets, layerwise=True):
    """Random, as in the other tests; at least one unit of each set stays."""
    noise, params = torch.Generator().manual_seed(1), dict(model.named_parameters())
    scores = {n: torch.rand(params[n].shape, generator=noise) for n in sets.names}
    return ml.compute_mask(
        scores, sparsity=0.4, groups=sets.groups(layerwise=layerwise), least=None if layerwise else 1
    )


def logits(model, inputs, **more):
    return model(**inputs, **more).logits


def anything(s):
    return True


def no_width(s):
    return s.units != 16


def neurons(s):
    return s.units == 24


# Which sets a config can hold, equal in all layers, and the keys that say so.
LOADED = {
    "llama": (anything, HEADS | {"hidden_size", "rms_norm_eps", "intermediate_size"}),
    "qwen3": (no_width, HEADS | {"intermediate_size"}),  # norms of heads have the same epsilon
    "gemma3": (no_width, HEADS | {"intermediate_size"}),  # so here, and embeddings are scaled by the width
    "mixtral": (no_width, HEADS | {"intermediate_size", "head_dim"}),
    "qwen3moe": (no_width, HEADS | {"moe_intermediate_size"}),
    "phi3": (no_width, HEADS | {"intermediate_size", "head_dim"}),  # a key that its code reads if it is there
    "t5": (anything, {"num_heads", "d_ff"}),
    "gpt2": (neurons, {"n_inner"}),  # heads are of hidden_size / heads in these
    "opt": (neurons, {"ffn_dim"}),
    "falcon": (neurons, {"ffn_hidden_size"}),
    "falcon_groups": (neurons, {"ffn_hidden_size"}),
    "neox": (neurons, {"intermediate_size"}),
    "bert": (neurons, {"intermediate_size"}),
    "vit": (neurons, {"intermediate_size"}),
    "whisper": (neurons, {"encoder_ffn_dim", "decoder_ffn_dim"}),
}
NEVER = {"bloom", "convnext"}  # neurons are four times the width in these


def test_every_family_is_here():
    assert {*LOADED, *NEVER} == set(zoo.LANGUAGE)


@pytest.mark.filterwarnings("error:the config of")
@pytest.mark.parametrize("name", LOADED)
def test_configs_follow_so_that_what_is_saved_loads(name, tmp_path):
    """Other keys stay, and all layers share one config as before."""
    model, inputs, sets = found(name)
    which, keys = LOADED[name]
    sets = sets.select(which)
    small = shrink(model, masks_of(model, sets), sets)
    before, after = model.config.to_dict(), small.config.to_dict()
    assert {k for k in after if before.get(k) != after[k]} == keys
    shared = [id(m.config) == id(model.config) for m in model.modules() if hasattr(m, "config")]
    assert [id(m.config) == id(small.config) for m in small.modules() if hasattr(m, "config")] == shared
    small.save_pretrained(tmp_path)
    loaded = type(small).from_pretrained(tmp_path, dtype=torch.float64).eval()
    if hasattr(loaded.config, "_experts_implementation"):
        loaded.set_experts_implementation("batched_mm")
    assert repr(loaded) == repr(small)
    with torch.no_grad():
        assert torch.allclose(logits(small, inputs), logits(loaded, inputs), rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("default:the config of")
@pytest.mark.parametrize("name", sorted(NEVER))
def test_configs_that_cannot_follow_are_said(name):
    model, _, sets = found(name)
    with pytest.warns(UserWarning, match="cannot hold these sizes"):
        shrink(model, masks_of(model, sets), sets)


GENERATE = ["llama", "qwen3", "gemma3", "mixtral", "phi3", "gpt2", "opt", "falcon", "falcon_groups", "bloom", "neox"]


@pytest.mark.filterwarnings("ignore:the config of")
@pytest.mark.parametrize("name", [*GENERATE, "t5"])
def test_a_cache_changes_nothing_of_what_is_generated(name):
    """Also where each layer has sizes of its own."""
    model, inputs, sets = found(name)
    small = shrink(model, masks_of(model, sets, layerwise=False), sets)
    given = {"input_ids": inputs["input_ids"], "attention_mask": torch.ones_like(inputs["input_ids"])}
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    lines = [small.generate(**given, **options, use_cache=cached) for cached in (True, False)]
    assert torch.equal(*lines)
    assert lines[0].shape[1] >= 6


@pytest.mark.filterwarnings("ignore:the config of")
@pytest.mark.parametrize("name", ["llama", "phi3", "mixtral", "falcon", "whisper"])
def test_training_goes_on_as_with_masks(name):
    """With the state of Adam; widths of folded norms aside, whose gradients are scaled."""
    model, inputs, sets = found(name)
    model, sets = copy.deepcopy(model), sets.select(no_width)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    off = {"use_cache": False}

    def step(optimizer, run):
        optimizer.zero_grad()
        run().square().mean().backward()
        optimizer.step()

    step(optimizer, lambda: logits(model, inputs, **off))
    masks, params = masks_of(model, sets), dict(model.named_parameters())
    small = shrink(model, masks, sets)
    theirs = shrink_optimizer(optimizer, model, small, masks=masks, structure=sets)
    with torch.no_grad():
        for n, mask in masks.items():
            for value in (params[n], *optimizer.state[params[n]].values()):
                value.mul_(mask if value.shape == mask.shape else 1)
    for _ in range(2):
        step(theirs, lambda: logits(small, inputs, **off))
        step(optimizer, lambda: functional_call(model, ml.apply(params, masks), (), inputs | off).logits)
    again = shrink(model, masks, sets)
    assert torch.allclose(logits(again, inputs, **off), logits(small, inputs, **off), rtol=1e-5, atol=1e-5)

"""A checkpoint pruned a block at a time: to the bit what the model in memory becomes, wherever it is interrupted."""

from __future__ import annotations

import json
import os
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import masklib as ml
from masklib.adapters import oneshot
from masklib.adapters.files import load_masks, open_checkpoint

transformers = pytest.importorskip("transformers")
accelerate = pytest.importorskip("accelerate")
zoo_language = pytest.importorskip("zoo_language")

LLAMA = zoo_language._LLAMA


def extra(kind, **sizes):
    config, t = zoo_language._language(kind, **sizes)
    return getattr(t, f"{kind}ForCausalLM")(config), zoo_language._tokens()


MODELS = {n: f for n, f in zoo_language.LANGUAGE.items() if n not in ("t5", "vit")} | {
    "mistral": partial(extra, "Mistral", **LLAMA, sliding_window=4),
    "phi": partial(extra, "Phi", **LLAMA),
    "bloom": partial(extra, "Bloom", hidden_size=16, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=1),
}


def saved(name, folder, dtype=torch.float32, **options):
    """A folder as people have theirs, and batches."""
    torch.manual_seed(0)
    model, first = MODELS[name]()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3) if p.dim() > 1 else None
    model.to(dtype).save_pretrained(folder, **options)
    return [first] + [{n: t.roll(1 + i, -1) + 0 for n, t in first.items()} for i in range(2)]


def in_memory(folder, kind=transformers.AutoModelForCausalLM):
    return kind.from_pretrained(folder, dtype="auto").eval()


def empty(folder, kind=transformers.AutoModelForCausalLM):
    config = transformers.AutoConfig.from_pretrained(folder)
    with accelerate.init_empty_weights():
        model = kind.from_config(config, dtype=config.dtype)
    model.tie_weights()
    return model.eval()


def kind_of(name):
    auto = transformers.AutoModelForSequenceClassification, transformers.AutoModelForCausalLM
    return auto[name != "bert"]


def bits(folder):
    return {n: t.view(torch.uint8) for path in sorted(Path(folder).glob("*.safetensors")) for n, t in load_file(path).items()}


RULES = {"wanda": oneshot.wanda(), "admm": oneshot.admm()}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "4KB"}], ids=["one file", "shards"])
def test_streamed_is_in_memory(name, shards, tmp_path):
    source, target, reference = (tmp_path / n for n in ("source", "target", "reference"))
    batches = saved(name, source, **shards)
    (source / "tokenizer.json").write_text("{}")
    model = in_memory(source, kind_of(name))
    expected = oneshot.prune(model, batches, oneshot.admm(), sparsity=0.5)
    model.save_pretrained(reference, **shards)
    skeleton = empty(source, kind_of(name))
    found = oneshot.prune_checkpoint(
        source, target, skeleton, batches, oneshot.admm(), sparsity=0.5, mask_file=tmp_path / "masks"
    )
    before, after, wanted = bits(source), bits(target), bits(reference)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[n], wanted[n]) for n in wanted)
    assert {p.name for p in target.iterdir()} == {p.name for p in source.iterdir()}
    assert all(
        torch.equal(a, b) for a, b in zip(in_memory(target, kind_of(name)).state_dict().values(), model.state_dict().values())
    )
    masks = load_masks(tmp_path / "masks").masks
    assert masks.keys() == expected.masks.keys()
    assert all(torch.equal(masks[n], m) for n, m in expected.masks.items())
    assert (found.layers, found.left_out, found.masks) == (expected.layers, expected.left_out, {})
    assert all(p.is_meta for p in skeleton.parameters())
    assert {p.name for p in tmp_path.iterdir()} == {"source", "target", "reference", "masks"}

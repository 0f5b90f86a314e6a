"""Tiny transformers as people store them: folders of `save_pretrained`, and models without values."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

transformers = pytest.importorskip("transformers")
accelerate = pytest.importorskip("accelerate")
zoo_language = pytest.importorskip("zoo_language")

OTHERS = ("t5", "vit", "whisper", "convnext")  # no language models of one stack
MODELS = {n: f for n, f in (zoo_language.LANGUAGE | zoo_language.WALKED).items() if n not in OTHERS}


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
    return {
        n: t.view(torch.uint8)
        for path in sorted(Path(folder).glob("*.safetensors"))
        for n, t in load_file(path).items()
    }

"""Models that a walk through blocks prunes, and batches for each."""

from __future__ import annotations

import torch
import zoo_language
from torch import nn

OTHERS = ("t5", "convnext")  # two stacks, and convolutions: by themselves
MODELS = {n: f for n, f in (zoo_language.LANGUAGE | zoo_language.WALKED).items() if n not in OTHERS}


def model_and_batches(name):
    torch.manual_seed(0)
    model, first = MODELS[name]()
    batches = [first] + [{n: t.roll(1 + i, -1) + 0 for n, t in first.items()} for i in range(3)]
    for p in model.parameters():
        nn.init.normal_(p, std=0.3) if p.dim() > 1 else None
    model = model.double().eval()
    wide = [{n: t.double() if t.is_floating_point() else t for n, t in b.items()} for b in batches]
    return model, wide


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)), [torch.randn(20, 4)]

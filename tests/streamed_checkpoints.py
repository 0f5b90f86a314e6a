"""A checkpoint of a small model, and methods that prune it as a stream."""

from __future__ import annotations

from functools import partial

import torch

import masklib as ml
from masklib import _streaming
from masklib.selection import _items, _loop, _pieces

HALF = partial(ml.l1_unstructured, sparsity=0.5)
magnitude = ml.scores.magnitude


def model(seed=0):
    """What a small language model has, in several dtypes."""
    g = torch.Generator().manual_seed(seed)
    normal = partial(torch.randn, generator=g)
    tensors = {"model.embed_tokens.weight": normal(40, 8), "model.norm.weight": normal(8)}
    for i, dtype in enumerate((torch.float32, torch.bfloat16, torch.float16)):
        tensors |= {f"model.layers.{i}.q.weight": normal(8, 8).to(dtype), f"model.layers.{i}.q.bias": normal(8)}
        tensors |= {f"model.layers.{i}.mlp.weight": (normal(24, 8) * 3).round().to(dtype)}
    return {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone(), "steps": torch.arange(3)}


def tiny(monkeypatch, size=7):
    monkeypatch.setattr(_pieces, "CHUNK", size)
    monkeypatch.setattr(_loop, "DIRECT", 4)
    for room in (_items, _streaming):
        monkeypatch.setattr(room, "REDUCED", 24)


METHODS = {
    "l1": HALF,
    "random": partial(ml.random_unstructured, key=3, sparsity=0.5),
    "2:4": lambda s, m=None: ml.n_of_m(magnitude(s), m, keep=2, of=4),
    "rows": partial(ml.compute_mask, sparsity=0.5, groups=ml.rows()),
    "columns": partial(ml.compute_mask, sparsity=0.5, groups=ml.rows(1)),
    "channels": partial(ml.ln_structured, n=2, dim=0, amount=0.3),
    "random channels": partial(ml.random_structured, dim=1, key=1, amount=0.3),
    "blocks": partial(ml.compute_mask, amount=0.5, groups=ml.blocks((4, 4), p=1)),
    "erk": lambda s, m=None: ml.layerwise(ml.l1_unstructured)(s, m, sparsity=ml.budgets.erk(s, 0.5)),
    "kept": lambda s, m=None: ml.layerwise(ml.l1_unstructured)(
        s, m, keep=ml.budgets.kept(s, ml.budgets.uniform(s, 0.7))
    ),
    "history": [HALF, partial(ml.ln_structured, n=1, dim=0, amount=0.2), partial(ml.l1_unstructured, amount=0.5)],
}

"""Which weights hold attention heads, and how they lie in them."""

from __future__ import annotations

from typing import Any

from torch import nn

import masklib as ml

_INTO = ("q_proj", "k_proj", "v_proj", "query", "key", "value")  # (heads * size, in)
_OUT_OF = ("o_proj", "out_proj")  # (out, heads * size)


def heads_in(model: nn.Module) -> dict[str, Any]:
    """Groups by weight: of torch's attention, and of transformers' where projections and `head_dim` are named so."""
    found: dict[str, Any] = {}
    for prefix, owner in model.named_modules():
        of = _of_torch(owner) if isinstance(owner, nn.MultiheadAttention) else _of_transformers(owner)
        found |= {f"{prefix}.{name}" if prefix else name: groups for name, groups in of.items()}
    return found


def _of_torch(owner: nn.MultiheadAttention) -> dict[str, Any]:
    number = owner.num_heads
    alone = {f"{part}_proj_weight": ml.heads(number) for part in "qkv"}
    return {**alone, "in_proj_weight": ml.heads(number, parts=(1, 1, 1)), "out_proj.weight": ml.heads(number, dim=1)}


def _of_transformers(owner: nn.Module) -> dict[str, Any]:
    size = getattr(owner, "head_dim", None) or getattr(owner, "attention_head_size", None)
    if not isinstance(size, int):
        return {}
    linear = {n: part for n, part in owner.named_children() if isinstance(part, nn.Linear)}
    into = {f"{n}.weight": ml.heads(linear[n].out_features // size) for n in _INTO if n in linear}
    return into | {f"{n}.weight": ml.heads(linear[n].in_features // size, dim=1) for n in _OUT_OF if n in linear}

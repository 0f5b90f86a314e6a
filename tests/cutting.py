"""Models of the zoo with their structures, found once, and what they return."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import zoo
from torch.func import functional_call
from torch.utils import _pytree as pytree

from masklib.adapters.structural import structure

NAMES = [*zoo.PLAIN, *zoo.LANGUAGE]


@cache
def found(name):
    if name in zoo.LANGUAGE:
        pytest.importorskip("transformers")
    model, inputs = zoo.build(name)
    return model, inputs, structure(model, inputs)


def arguments(inputs):
    return ((), inputs) if isinstance(inputs, dict) else (inputs, {})


def outputs(model, inputs, params=None):
    args, kwargs = arguments(inputs)
    kwargs = kwargs | ({"use_cache": False} if hasattr(model, "generation_config") else {})
    out = model(*args, **kwargs) if params is None else functional_call(model, params, args, kwargs)
    leaves = [x for leaf in pytree.tree_leaves(out) for x in (leaf.values() if isinstance(leaf, dict) else [leaf])]
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]


def close(a, b, tolerance=1e-6):
    """Language models go by way of float32 in their norms, whatever their dtype."""
    pairs = [(x.detach(), y.detach()) for x, y in zip(a, b)]
    return all(
        x.shape == y.shape and float((x - y).abs().max()) <= tolerance * float(1 + x.abs().max()) for x, y in pairs
    )

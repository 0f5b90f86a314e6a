"""A global call on a model looks at each module a fixed number of times, however many parameters it prunes."""

from __future__ import annotations

from functools import partial

import pytest
from torch import nn

import masklib as ml
import masklib.adapters.prune as prune
from masklib.adapters import parametrize

CALLS = {
    "the model": lambda m: prune.global_unstructured(m, prune.L1Unstructured, amount=0.5),
    "names": lambda m: prune.global_unstructured(
        m, prune.L1Unstructured, names=[n for n, _ in m.named_parameters()], amount=0.5
    ),
    "a root": lambda m: prune.global_unstructured(
        [(layer, "weight") for layer in m], prune.L1Unstructured, root=m, amount=0.5
    ),
    "parametrize": lambda m: parametrize.prune(m, partial(ml.l1_unstructured, amount=0.5)),
    "masks": lambda m: prune.masks(m),
    "bake": lambda m: prune.bake(pruned(m)),
    "bake, parametrize": lambda m: parametrize.bake(parametrize.prune(m, partial(ml.l1_unstructured, amount=0.5))),
}


def pruned(model):
    prune.global_unstructured(model, prune.L1Unstructured, amount=0.5)
    return model


def visits(call, layers, monkeypatch):
    """How many modules the call meets on all its walks through the model."""
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(layers)))
    met, walk = [], nn.Module.named_modules

    def counted(self, *args, **kwargs):
        for entry in walk(self, *args, **kwargs):
            met.append(entry)
            yield entry

    with monkeypatch.context() as patch:
        patch.setattr(nn.Module, "named_modules", counted)
        call(model)
    return len(met)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_walks_are_linear_in_the_layers(call, monkeypatch):
    few, many = (visits(call, layers, monkeypatch) for layers in (20, 200))
    assert 20 <= few <= 60 * 20
    assert many <= 11 * few

"""Chance: as the original draws by default, alike on all ranks with a generator."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.utils.prune as theirs
from torch import nn

import masklib as ml
import masklib.adapters.prune as prune

CALLS = {
    "random_unstructured": lambda m, g: prune.random_unstructured(m, "weight", 0.5, generator=g),
    "random_structured": lambda m, g: prune.random_structured(m, "weight", 3, dim=0, generator=g),
    "global": lambda m, g: prune.global_unstructured(
        [(m, "weight"), (m, "bias")], prune.RandomUnstructured, amount=0.5, generator=g
    ),
    "RandomStructured.apply": lambda m, g: prune.RandomStructured.apply(m, "weight", 3, 1, generator=g),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def layer():
    torch.manual_seed(0)
    return nn.Linear(8, 6)


@every_call
def test_equal_generators_draw_alike_whatever_the_global_state(call):
    ranks = []
    for rank in range(3):
        module, generator = layer(), torch.Generator().manual_seed(5)
        torch.manual_seed(rank)
        before = torch.get_rng_state()
        for _ in range(2):
            call(module, generator)
        assert torch.equal(torch.get_rng_state(), before)
        ranks.append(prune.masks(module))
    assert all(torch.equal(ranks[0][n], mask) for each in ranks for n, mask in each.items())
    others = [layer() for _ in range(8)]
    for seed, other in enumerate(others):
        call(other, torch.Generator().manual_seed(seed))
    assert len({str(prune.masks(other)) for other in others}) > 1


BY_KEY = {
    "random_unstructured": lambda m, key: prune.random_unstructured(m, "weight", 0.5, key=key),
    "random_structured": lambda m, key: prune.random_structured(m, "weight", 2, dim=0, key=key),
    "global": lambda m, key: prune.global_unstructured(
        [(m, "weight"), (m, "bias")], prune.RandomUnstructured, amount=0.5, key=key
    ),
    "RandomStructured.apply": lambda m, key: prune.RandomStructured.apply(m, "weight", 2, 1, key=key),
}


@pytest.mark.parametrize("call", BY_KEY.values(), ids=BY_KEY)
def test_equal_keys_draw_alike_and_touch_no_generator(call):
    found = []
    for seed, key in ((0, 7), (1, 7), (0, 8)):
        module = layer()
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        call(module, key)
        assert torch.equal(torch.get_rng_state(), before)
        call(module, key + 1)  # goes on from what is alive
        found.append(prune.masks(module)["weight"])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_key_is_the_cores():
    module = prune.random_unstructured(layer(), "weight", 0.5, key=3)
    prune.random_structured(module, "weight", 0.5, dim=1, key=4)
    first = ml.random_unstructured(module.weight_orig, amount=0.5, key=3)
    mask = prune.masks(module)["weight"]
    assert torch.equal(mask, ml.random_structured(module.weight_orig, first, amount=0.5, dim=1, key=4))
    hook = next(iter(module._forward_pre_hooks.values()))
    assert torch.equal(ml.fold(hook.history(), torch.zeros(6, 8)), mask)


@every_call
def test_no_generator_means_the_originals_draws(call):
    ours, original = layer(), layer()
    torch.manual_seed(3)
    call(ours, None)
    torch.manual_seed(3)
    code = {
        "random_unstructured": lambda m: theirs.random_unstructured(m, "weight", 0.5),
        "random_structured": lambda m: theirs.random_structured(m, "weight", 3, dim=0),
        "global": lambda m: theirs.global_unstructured(
            [(m, "weight"), (m, "bias")], theirs.RandomUnstructured, amount=0.5
        ),
        "RandomStructured.apply": lambda m: theirs.RandomStructured.apply(m, "weight", 3, 1),
    }
    code[next(n for n, c in CALLS.items() if c is call)](original)
    assert torch.equal(ours.weight_mask, original.weight_mask)


@every_call
def test_the_generator_is_not_kept(call):
    module = layer()
    for _ in range(2):
        call(module, torch.Generator().manual_seed(5))
    copy.deepcopy(module)
    pickle.loads(pickle.dumps(module))
    hook = next(iter(module._forward_pre_hooks.values()))
    assert all(getattr(method, "generator", None) is None for method in hook)


@every_call
def test_a_call_that_fails_puts_the_generator_back(call, monkeypatch):
    from masklib.adapters._module import state

    module, generator = layer(), torch.Generator().manual_seed(5)
    before = generator.get_state()

    def fail(*_):
        raise RuntimeError("injected")

    monkeypatch.setattr(state, "enter", fail)
    with pytest.raises(RuntimeError, match="injected"):
        call(module, generator)
    assert torch.equal(generator.get_state(), before)


def test_a_generator_must_be_one():
    with pytest.raises(TypeError, match=r"`generator` must be a torch.Generator, got 5. For example"):
        prune.random_unstructured(layer(), "weight", 1, generator=5)

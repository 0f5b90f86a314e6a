"""Histories: what the hook tells is what the module holds, also when others have changed the mask."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from prunings import hook_of
from torch import nn

import masklib as ml
import masklib.adapters.prune as prune


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def assert_history_gives_the_mask(module):
    assert torch.equal(ml.fold(hook_of(module).history(), module.weight_orig), module.weight_mask != 0)


def test_steps_that_the_core_has_are_the_cores():
    module = nn.Linear(4, 3)
    prune.identity(module, "weight")
    prune.l1_unstructured(module, "weight", amount=0.25)
    prune.ln_structured(module, "weight", amount=1, n=2, dim=0)
    first, second, third = hook_of(module).history()
    assert first is ml.identity
    assert (second.func, second.keywords) == (ml.l1_unstructured, {"amount": 0.25})
    assert isinstance(third, partial)
    assert_history_gives_the_mask(module)


LOADED = {
    "a mask with more dead": (lambda m: prune.identity(m, "weight"), lambda m: prune.l1_unstructured(m, "weight", 3)),
    "a mask with fewer dead": (lambda m: prune.l1_unstructured(m, "weight", 4), lambda m: prune.identity(m, "weight")),
    "another mask": (
        lambda m: prune.l1_unstructured(m, "weight", 4),
        lambda m: prune.random_unstructured(m, "weight", 4),
    ),
}


@pytest.mark.parametrize("step", ["l1_unstructured", "random_unstructured"])
@pytest.mark.parametrize(("here", "there"), LOADED.values(), ids=LOADED)
def test_a_loaded_mask_enters_the_history_with_the_next_step(here, there, step):
    module, other = nn.Linear(4, 3), nn.Linear(4, 3)
    here(module)
    there(other)
    module.load_state_dict(other.state_dict())
    dead = int((other.weight_mask == 0).sum())
    getattr(prune, step)(module, "weight", 2)
    assert (module.weight_mask == 0).sum() == dead + 2
    assert_history_gives_the_mask(module)
    prune.l1_unstructured(module, "weight", 0.5)
    assert_history_gives_the_mask(module)


@pytest.mark.parametrize("steps", [255, 256, 300, 600])
def test_any_number_of_steps_fits_in_one_byte_a_weight(steps):
    module = nn.Linear(40, 20)
    for i in range(steps):
        (prune.random_unstructured if i % 3 else prune.l1_unstructured)(module, "weight", 1)
    hook = hook_of(module)
    assert hook._record.died.dtype == torch.uint8
    assert len(hook) == len(hook.history()) == steps
    assert_history_gives_the_mask(module)
    counts = [int(ml.count(m)) for m in ml.scan(hook.history(), module.weight_orig)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 800
    assert counts[-1] == 800 - steps


def test_each_copy_has_a_history_of_its_own():
    module = prune.l1_unstructured(nn.Linear(4, 3), "weight", 2)
    twin = copy.deepcopy(module)
    prune.random_unstructured(twin, "weight", 3)
    assert_history_gives_the_mask(module)
    assert_history_gives_the_mask(twin)
    assert len(hook_of(module).history()) == 1


def test_histories_of_inference_mode_go_on_outside():
    module = nn.Linear(4, 3)
    with torch.inference_mode():
        prune.l1_unstructured(module, "weight", 2)
        prune.random_unstructured(module, "weight", 2)
    prune.random_unstructured(module, "weight", 2)
    assert not hook_of(module)._record.died.is_inference()
    assert_history_gives_the_mask(module)


def test_hooks_hold_no_masks_but_the_record():
    model = nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 30))
    for _ in range(3):
        prune.global_unstructured(model, prune.RandomUnstructured, amount=0.1)
        prune.custom_from_mask(model[0], "weight", torch.rand(30, 30) > 0.1)
    for module in model:
        hook = hook_of(module)
        held = [v for part in (hook, *hook) for v in vars(part).values() if isinstance(v, torch.Tensor)]
        assert held == []
        assert all(getattr(part, "_record", hook._record) is hook._record for part in hook)
        assert hook._record.died.untyped_storage().nbytes() == 900
        assert hook[-1].mask.dtype == torch.bool
        assert torch.equal(hook[-1].mask, module.weight_mask != 0)


def test_the_history_is_not_in_the_state_dict():
    module = prune.random_unstructured(nn.Linear(4, 3), "weight", 2)
    assert sorted(module.state_dict()) == ["bias", "weight_mask", "weight_orig"]

"""Masked entries and every optimizer state of their shape stay at exactly zero."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn

import masklib as ml
import masklib.adapters.prune as prune
from masklib.adapters import parametrize
from masklib.adapters.optimizer import keep_zero

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    "AdamW amsgrad foreach": lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True, foreach=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, weight_decay=0.1),
}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def steps(model, optimizer, n=3):
    for _ in range(n):
        optimizer.zero_grad()
        model(torch.randn(8, 6)).square().mean().backward()
        optimizer.step()


def dead_values(param, dead, optimizer):
    state = [v for v in optimizer.state[param].values() if torch.is_tensor(v) and v.shape == param.shape]
    assert len(state) >= 1
    return [v[dead] for v in (param.detach(), *state)]


@every_optimizer
def test_dead_entries_and_their_state_stay_zero_through_training_and_remove(make):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = make(model.parameters())
    steps(model, optimizer)  # momentum from before pruning
    prune.global_unstructured(model, prune.L1Unstructured, amount=0.5)
    keep_zero(optimizer, model)
    steps(model, optimizer)
    prune.l1_unstructured(model[0], "weight", 5)
    steps(model, optimizer)
    dead = [m.weight_mask == 0 for m in (model[0], model[2])]
    for module in (model[0], model[2]):
        prune.remove(module, "weight")
    steps(model, optimizer)
    assert sum(int(d.sum()) for d in dead) == 37
    for module, d in zip((model[0], model[2]), dead):
        for values in dead_values(module.weight, d, optimizer):
            assert torch.equal(values, torch.zeros_like(values))
        assert module.weight[~d].abs().min() > 0


@every_optimizer
def test_without_it_remove_and_a_step_revive_them(make):
    torch.manual_seed(0)
    model = prune.l1_unstructured(nn.Linear(6, 2), "weight", 6)
    optimizer = make(model.parameters())
    steps(model, optimizer)
    dead = model.weight_mask == 0
    prune.remove(model, "weight")
    steps(model, optimizer)
    assert model.weight[dead].abs().sum() > 0


def test_the_last_mask_before_remove_counts():
    """Also if no step was taken under it."""
    model = prune.l1_unstructured(nn.Linear(6, 2), "weight", 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    keep_zero(optimizer, model)
    prune.l1_unstructured(model, "weight", 5)
    prune.remove(model, "weight")
    steps(model, optimizer)
    assert int((model.weight == 0).sum()) == 8
    prune.random_unstructured(model, "weight", 10)
    prune.remove(model, "weight")
    dead = model.weight == 0
    steps(model, optimizer)
    assert torch.equal(model.weight == 0, dead)
    assert int(dead.sum()) >= 10


def test_undo_sets_free():
    model = prune.l1_unstructured(nn.Linear(6, 2), "weight", 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keep_zero(optimizer, model)
    prune.l1_unstructured(model, "weight", 3)
    prune.undo(model, "weight")
    steps(model, optimizer)
    assert model.weight.abs().min() > 0


def test_a_removed_layer_may_change_afterwards():
    """What is held is the parameter, not its place."""
    model = prune.l1_unstructured(nn.Linear(6, 2), "weight", 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keep_zero(optimizer, model)
    prune.remove(model, "weight")
    dead = model.weight == 0
    weight = nn.utils.parametrizations.spectral_norm(model).parametrizations.weight.original
    steps(model, optimizer)
    assert not weight[dead].any()
    del model.parametrizations
    optimizer.step()


def test_it_begins_anew():
    model = prune.l1_unstructured(nn.Linear(6, 2), "weight", 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = keep_zero(optimizer, model)
    prune.remove(model, "weight")
    handle.remove()
    steps(model, optimizer)
    prune.l1_unstructured(model, "bias", 1)
    keep_zero(optimizer, model)
    steps(model, optimizer)
    assert model.weight.abs().min() > 0


def test_masks_of_parametrized_modules():
    model = parametrize.prune(nn.Linear(6, 2), partial(ml.l1_unstructured, amount=3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    keep_zero(optimizer, model, parametrize.masks(model))
    steps(model, optimizer)
    assert int((model.parametrizations.weight.original == 0).sum()) == 3


def test_what_is_pruned_later_is_held_as_well():
    model = nn.Sequential(prune.l1_unstructured(nn.Linear(6, 4), "weight", 3), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    keep_zero(optimizer, model)
    prune.l1_unstructured(model[1], "weight", 3)
    steps(model, optimizer)
    assert int((model[1].weight_orig == 0).sum()) == 3


def test_the_step_counter_of_a_scalar_parameter_is_no_momentum():
    model = nn.Module()
    model.gain = nn.Parameter(torch.tensor(2.0))
    prune.custom_from_mask(model, "gain", torch.tensor(0))
    optimizer = torch.optim.AdamW(model.parameters())
    keep_zero(optimizer, model)
    for _ in range(3):
        (model.gain * 3).backward()
        optimizer.step()
    assert optimizer.state[model.gain_orig]["step"] == 3
    assert model.gain_orig == 0


def test_masks_may_be_given_and_the_handle_ends_it():
    model = nn.Linear(6, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = keep_zero(optimizer, model, {"weight": torch.zeros(2, 6)})
    steps(model, optimizer)
    assert not model.weight.any()
    handle.remove()
    steps(model, optimizer)
    assert model.weight.any()


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("no pruned parameter", lambda m, o: keep_zero(o, m)),
        ("`masks` must be parameters, got \\['nope'\\]", lambda m, o: keep_zero(o, m, {"nope": torch.ones(2, 6)})),
        ("0 and 1 only", lambda m, o: keep_zero(o, m, {"weight": torch.full((2, 6), 0.5)})),
        ("must be a torch.Tensor", lambda m, o: keep_zero(o, m, {"weight": [[1] * 6] * 2})),
        ("must have its shape", lambda m, o: keep_zero(o, m, {"weight": torch.ones(3)})),
        ("does not hold \\['weight'\\]", lambda m, o: keep_zero(o, nn.Linear(6, 2), {"weight": torch.ones(2, 6)})),
    ],
)
def test_bad_calls(message, call):
    model = nn.Linear(6, 2)
    with pytest.raises((ValueError, TypeError), match=message):
        call(model, torch.optim.SGD(model.parameters()))


# ---- several, copies, conversions -----------------------------------------------------------------------------------


def test_several_work_side_by_side():
    model = prune.l1_unstructured(nn.Linear(6, 2), "weight", 3)
    first = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    handle = keep_zero(first, model)
    second = torch.optim.AdamW(model.parameters(), lr=0.1)
    other = keep_zero(second, model)
    prune.l1_unstructured(model, "weight", 2)
    prune.remove(model, "weight")
    dead = model.weight == 0
    assert int(dead.sum()) == 5
    for optimizer in (first, second, first):
        steps(model, optimizer)
        assert not model.weight[dead].any()
    other.remove()
    steps(model, first)
    assert not model.weight[dead].any()
    steps(model, second)
    assert model.weight[dead].any()
    steps(model, first)
    assert not model.weight[dead].any()
    handle.remove()
    steps(model, first)
    assert model.weight[dead].all()
    assert not [n for m in model.modules() for n in vars(m) if "masklib" in n]


def test_each_optimizer_holds_its_own():
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))
    prune.global_unstructured(model, prune.L1Unstructured, amount=10)
    before = model[1].weight_orig.detach().clone()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1, weight_decay=0.1)
    keep_zero(optimizer, model)
    steps(model, optimizer)
    assert not model[0].weight_orig[model[0].weight_mask == 0].any()
    assert torch.equal(model[1].weight_orig, before)
    with pytest.raises(ValueError, match=r"does not hold \['0.weight', '1.weight'\]"):
        keep_zero(torch.optim.SGD([model[0].bias]), model)


def test_what_parametrize_prunes_is_held_and_after_remove_too():
    model = parametrize.prune(nn.Linear(6, 2), partial(ml.l1_unstructured, amount=3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    keep_zero(optimizer, model)
    parametrize.prune(model, partial(ml.l1_unstructured, amount=2))
    steps(model, optimizer)
    original = model.parametrizations.weight.original
    assert int((original == 0).sum()) == 5
    assert int((optimizer.state[original]["momentum_buffer"] == 0).sum()) == 5
    parametrize.remove(model)
    dead = model.weight == 0
    steps(model, optimizer)
    assert not model.weight[dead].any()
    assert model.weight[~dead].all()


def test_undo_sets_free_what_parametrize_pruned():
    model = parametrize.prune(nn.Linear(6, 2), partial(ml.l1_unstructured, amount=3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keep_zero(optimizer, model)
    parametrize.undo(model)
    steps(model, optimizer)
    assert model.weight.all()


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("removed", [False, True])
def test_modules_can_be_converted_and_loaded_by_swapping(ended, removed):
    model = prune.l1_unstructured(nn.Linear(6, 2), "weight", 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = keep_zero(optimizer, model)
    steps(model, optimizer, 1)
    optimizer.zero_grad()
    if removed:
        prune.remove(model, "weight")
    if ended:
        handle.remove()
    state = {n: v.clone() for n, v in model.state_dict().items()}
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model.double()
        model.load_state_dict(state)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert model.weight.dtype == torch.float64
    for _ in range(2):
        model(torch.randn(8, 6).double()).square().mean().backward()
        optimizer.step()
    param = model.weight if removed else model.weight_orig
    assert bool((param[state["weight" if removed else "weight_orig"] == 0] == 0).all()) is not ended or not removed


def test_copies_and_pickles_have_no_watchers():
    model = prune.l1_unstructured(nn.Linear(6, 2), "weight", 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keep_zero(optimizer, model)
    twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    prune.remove(model, "weight")
    twins += [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    for twin in twins:
        assert not any(vars(twin).get("_masklib_held", {}))
        if prune.is_pruned(twin):
            prune.remove(twin, "weight")
        steps(twin, torch.optim.SGD(twin.parameters(), lr=0.1))
        assert twin.weight.all()
    steps(model, optimizer)
    assert int((model.weight == 0).sum()) == 3


def test_a_remove_that_fails_notes_nothing(monkeypatch):
    from masklib.adapters._module import state

    model = prune.l1_unstructured(nn.Linear(6, 2), "weight", 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keep_zero(optimizer, model)

    def fail(*_):
        raise RuntimeError("injected")

    monkeypatch.setattr(state, "leave", fail)
    with pytest.raises(RuntimeError, match="injected"):
        prune.remove(model, "weight")
    monkeypatch.undo()
    prune.undo(model, "weight")
    steps(model, optimizer)
    assert model.weight.all()


def test_a_handle_in_a_with_statement():
    model = prune.l1_unstructured(nn.Linear(6, 2), "weight", 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with keep_zero(optimizer, model):
        prune.remove(model, "weight")
        steps(model, optimizer)
        assert int((model.weight == 0).sum()) == 3
    steps(model, optimizer)
    assert model.weight.all()

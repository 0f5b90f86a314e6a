"""Zeros of the dead: who keeps them, what is written into them, and gradients that are masked early."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo.testing
from torch import nn
from training_tasks import EVERY, OPTIMIZERS, STEPS, UPDATES, assert_zero, batch, loss_of, net, train

import masklib as ml
from masklib import schedules, updates
from masklib.adapters._module.probing import keeps_zeros
from masklib.adapters.training import attach

# ---- a pass that is saved -------------------------------------------------------------------------------------------

LEAVES = {"Adafactor": True, "Rprop": False, "Adagrad": True, "SGD plain": True, "AdamW": True, "Adam fused": True}


@pytest.mark.parametrize("name", LEAVES)
def test_optimizers_that_leave_zeros_alone_are_found_out(name):
    params = dict(net().named_parameters())
    assert keeps_zeros(EVERY[name](params.values()), params) is LEAVES[name]


def test_optimizers_that_do_not_are_found_out_too():
    params = {"w": nn.Parameter(torch.randn(4, 4))}
    assert not keeps_zeros(torch.optim.LBFGS(params.values()), params)

    class Mixing(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    p.data.add_(p.grad.mean())

    assert not keeps_zeros(Mixing(params.values(), lr=0.1), params)
    if hasattr(torch.optim, "Muon"):
        assert not keeps_zeros(torch.optim.Muon(params.values()), params)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="an optimizer of torch 2.9 and later")
def test_muon():
    model = nn.Sequential(nn.Linear(8, 12, bias=False), nn.Tanh(), nn.Linear(12, 4, bias=False))
    optimizer = torch.optim.Muon(model.parameters(), lr=0.02)
    pruning = attach(optimizer, model, UPDATES["rigl"])
    train(model, optimizer, range(STEPS), after=lambda _: assert_zero(pruning, optimizer))


WRITES = {
    "a state dict": lambda model, optimizer: model.load_state_dict(net(1).state_dict()),
    "a vector": lambda model, optimizer: nn.utils.vector_to_parameters(torch.ones(184), model.parameters()),
    "a state": lambda model, optimizer: optimizer.load_state_dict(dense_state()),
}


def dense_state():
    model = net(1)
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    train(model, optimizer, range(2))
    return optimizer.state_dict()


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_what_others_write_into_dead_entries_is_zero_after_the_next_step(write):
    model = net()
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    pruning = attach(optimizer, model, UPDATES["static"])
    train(model, optimizer, range(3))
    passes = []
    hide = pruning._hide
    pruning._hide = lambda: passes.append(hide())
    train(model, optimizer, range(2))
    assert not passes  # AdamW leaves zeros alone: nothing to do
    write(model, optimizer)
    train(model, optimizer, range(1))
    assert len(passes) == 1
    assert_zero(pruning, optimizer)


def test_gradients_that_are_changed_after_they_were_masked_move_nothing_dead():
    model = net()
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    pruning = attach(optimizer, model, UPDATES["static"])

    def noise():
        pruning.mask_grads()
        for p in model.parameters():
            p.grad.add_(1.0)

    train(model, optimizer, range(4), before=noise, after=lambda _: assert_zero(pruning, optimizer))


def test_sparse_gradients():
    model = nn.Sequential(nn.Embedding(10, 8, sparse=True), nn.Linear(8, 4))
    for optimizer in (torch.optim.SparseAdam([model[0].weight]), torch.optim.SGD([model[0].weight], lr=0.1)):
        pruning = attach(optimizer, model, updates.gradual(ml.l1_unstructured, schedules.linear(0.5, stop=4)))
        for _ in range(6):
            model.zero_grad()
            loss_of(model(torch.arange(10))).backward()
            optimizer.step()
            assert_zero(pruning, optimizer)
        pruning.remove()


# ---- gradients that are masked early, in several parts --------------------------------------------------------------

SEEING = ["rigl", "movement", "taylor", "sr-ste"]


@pytest.mark.parametrize("name", SEEING)
def test_masking_each_micro_batch_is_refused_where_an_update_would_see_a_part(name):
    model = net()
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    pruning = attach(optimizer, model, UPDATES[name])
    loss_of(model(batch(0))).backward()
    pruning.mask_grads()
    loss_of(model(batch(1))).backward()
    before = model[0].weight.grad.clone()
    with pytest.raises(ValueError, match=r"called twice before a step, on the gradients of \['0.weight', '3.weight'\]"):
        pruning.mask_grads()
    assert torch.equal(model[0].weight.grad, before)
    optimizer.zero_grad()  # as after a step that a GradScaler skipped
    loss_of(model(batch(2))).backward()
    pruning.mask_grads()
    optimizer.step()
    assert pruning.step == 1
    for step in range(3):  # the same tensors of gradients, step after step
        optimizer.zero_grad(set_to_none=False)
        loss_of(model(batch(step))).backward()
        pruning.mask_grads()
        optimizer.step()


@pytest.mark.parametrize("name", ["gradual", "straight through"])
def test_masking_each_micro_batch_changes_no_number_where_no_update_sees_gradients(name):
    results = []
    for early in (False, True):
        model = net()
        optimizer = OPTIMIZERS["AdamW"](model.parameters())
        pruning = attach(optimizer, model, UPDATES[name])
        for step in range(STEPS):
            optimizer.zero_grad()
            for part in range(3):
                loss_of(model(batch(3 * step + part))).backward()
                pruning.mask_grads() if early else None
            optimizer.step()
        results.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(results[0].values(), results[1].values()))


@pytest.mark.parametrize("name", ["rigl", "movement", "taylor"])
def test_gradients_that_come_after_they_were_masked_are_told(name):
    model = net()
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    pruning = attach(optimizer, model, UPDATES[name])
    train(model, optimizer, range(2 if name == "rigl" else 7), before=pruning.mask_grads)
    loss_of(model(batch(2))).backward()
    pruning.mask_grads()
    nn.utils.clip_grad_norm_(model.parameters(), 0.01)  # is no such gradient
    loss_of(model(batch(3))).backward()
    with pytest.warns(UserWarning, match="gradients of dead entries came after mask_grads"):
        optimizer.step()

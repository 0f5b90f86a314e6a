"""Which steps count, and where gradients are complete: scalers, closures, wrappers, torch's fake step."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from training_tasks import OPTIMIZERS, STEPS, UPDATES, batch, loss_of, net, train

import masklib as ml
from masklib import updates
from masklib.adapters.optimizer import keep_zero
from masklib.adapters.training import attach

# ---- GradScaler -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", ["gradual", "rigl", "movement", "sr-ste", "taylor"])
def test_skipped_steps_are_no_steps_in_both_ways_of_a_scaler(name, fused, unscale):
    """A run with overflows ends as one in which those batches never came; scales are powers of two."""
    results = []
    for overflow in (False, True):
        model = net()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=100)
        pruning = attach(optimizer, model, UPDATES[name])
        for step in range(STEPS):
            for factor in (float("inf"), 1.0) if overflow and step in (0, 2, 5) else (1.0,):
                optimizer.zero_grad()
                buffers = {n: b.clone() for n, b in model.named_buffers()}
                scaler.scale(loss_of(model(batch(step))) * factor).backward()
                if unscale:
                    scaler.unscale_(optimizer)
                    pruning.mask_grads()
                    nn.utils.clip_grad_norm_(model.parameters(), 100.0)
                scaler.step(optimizer)
                scaler.update(2.0**10)
                if factor != 1.0:
                    model.load_state_dict(buffers, strict=False)
        assert pruning.step == STEPS
        results.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(results[0].values(), results[1].values()))


def test_gradients_reach_the_update_without_the_scale():
    seen = {}
    for fused in (False, True):

        def record(step, params, masks, grads, fused=fused):
            seen[fused] = grads["0.weight"].clone()
            return masks

        model = net()
        optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
        attach(optimizer, model, updates.Update(record, lambda step: step == 1, needs_grads=True))
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        scaler.scale(loss_of(model(batch(0)))).backward()
        expected = model[0].weight.grad / 2.0**10
        scaler.step(optimizer)
        assert torch.equal(seen[fused], expected)


# ---- closures -------------------------------------------------------------------------------------------------------


def with_closure(model, optimizer, steps):
    for step in steps:

        def closure(step=step):
            optimizer.zero_grad()
            loss = loss_of(model(batch(step)))
            loss.backward()
            return loss

        optimizer.step(closure)


@pytest.mark.parametrize("keyword", [False, True])
@pytest.mark.parametrize("name", ["gradual", "rigl", "movement", "sr-ste", "taylor", "lottery"])
def test_a_closure_gives_the_same_run(name, keyword):
    results = []
    for closure in (False, True):
        model = net()
        optimizer = OPTIMIZERS["AdamW"](model.parameters())
        attach(optimizer, model, UPDATES[name])
        if keyword:
            optimizer.register_step_pre_hook(lambda o, args, kwargs: ((o,), {"closure": (*args, None)[1], **kwargs}))
        (with_closure if closure else train)(model, optimizer, range(STEPS))
        results.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(results[0].values(), results[1].values()))


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
@pytest.mark.parametrize("name", ["static", "gradual", "rigl"])
def test_lbfgs_moves_only_what_lives(name, search):
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 4))
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.3, max_iter=4, line_search_fn=search)
    pruning = attach(optimizer, model, UPDATES[name])
    at_evaluation = []

    def closure():
        optimizer.zero_grad()
        at_evaluation.append(max(float(p.detach()[~pruning.masks[n]].abs().sum()) for n, p in params(pruning)))
        loss = loss_of(model(batch(0)))
        loss.backward()
        return loss

    first = closure().item()
    for _ in range(STEPS):
        last = optimizer.step(closure).item()
    assert last < first
    assert pruning.step == STEPS
    assert max(at_evaluation[: 4 if name == "gradual" else None]) == 0  # directions keep to what lives
    assert not any(p[~pruning.masks[n]].any() for n, p in params(pruning))


def params(pruning):
    return [(n, p) for n, p in pruning.model.named_parameters() if n in pruning.masks]


# ---- wrappers, and a step that is none ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [*OPTIMIZERS.values(), lambda p: torch.optim.SGD(p, lr=0.1)], ids=[*OPTIMIZERS, "plain"]
)
@pytest.mark.filterwarnings("ignore:torch.distributed is")
def test_the_fake_step_of_a_distributed_checkpoint_counts_for_nothing(make):
    model = net()
    optimizer = make(model.parameters())
    pruning = attach(optimizer, model, updates.gradual(ml.l1_unstructured, ml.schedules.linear(0.5, stop=4)))
    get_optimizer_state_dict(model, optimizer)
    assert pruning.step == 0
    train(model, optimizer, range(2))
    get_optimizer_state_dict(model, optimizer)
    assert pruning.step == 2


def test_a_first_step_of_a_warm_up_counts():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 4)
    pruning = attach(optimizer, model, UPDATES["gradual"])
    train(model, optimizer, range(STEPS), after=lambda _: warm_up.step())
    assert pruning.step == STEPS


def test_accelerate_is_looked_through():
    accelerate = pytest.importorskip("accelerate")
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    wrapped_model, wrapped = accelerator.prepare(model, optimizer)
    pruning = attach(wrapped, wrapped_model, UPDATES["gradual"])
    for step in range(2 * STEPS):
        with accelerator.accumulate(wrapped_model):
            accelerator.backward(loss_of(wrapped_model(batch(step))))
            wrapped.step()
            wrapped.zero_grad()
    assert pruning.step == STEPS
    assert ml.sparsity(pruning.masks) == 0.75
    handle = keep_zero(wrapped, model, pruning.masks)
    handle.remove()

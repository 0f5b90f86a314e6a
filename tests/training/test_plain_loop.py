"""Masks through a plain loop: what holds after every step, for every update and every optimizer."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch._dynamo.testing
from torch import nn
from training_tasks import EVERY, OPTIMIZERS, STEPS, UPDATES, assert_zero, batch, loss_of, net, state_of, train

import masklib as ml
from masklib import schedules, updates
from masklib.adapters.training import attach, freeze

ZEROING = {name: update for name, update in UPDATES.items() if not update.straight_through}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES)
def test_dead_entries_and_their_state_are_zero_after_every_step(update, make):
    model = net()
    optimizer = make(model.parameters())
    pruning = attach(optimizer, model, update)

    def check(step):
        assert pruning.step == step + 1
        assert_zero(pruning, optimizer, with_state=not update.straight_through)

    before = {n: p.clone() for n, p in model.named_parameters()}
    train(model, optimizer, range(STEPS), after=check)
    assert ml.sparsity(pruning.masks) >= 0.4
    assert all(not torch.equal(p, before[n]) for n, p in model.named_parameters())


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("name", ["gradual", "rigl"])
def test_every_optimizer(make, name):
    model = net()
    optimizer = make(model.parameters())
    pruning = attach(optimizer, model, UPDATES[name])
    train(model, optimizer, range(STEPS), after=lambda _: assert_zero(pruning, optimizer))
    assert pruning.step == STEPS
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("every", [1, 2, 3, 5, 7])
def test_the_last_update_is_exactly_final(every):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = schedules.cubic(0.9, stop=STEPS - 1, every=every)
    pruning = attach(optimizer, model, updates.gradual(ml.l1_unstructured, schedule))
    train(model, optimizer, range(STEPS))
    assert int(ml.count(pruning.masks)) == 144 - round(0.9 * 144)


def test_the_update_sees_the_step_the_masked_weights_and_dense_gradients():
    calls = []

    def record(step, params, masks, grads):
        calls.append((step, {n: p.clone() for n, p in params.items()}, masks, grads))
        return ml.l1_unstructured(params, masks, amount=10)

    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    update = updates.Update(record, schedules.linear(0.9, start=2, stop=5).due, needs_grads=True)
    attach(optimizer, model, update)
    dense = []
    train(model, optimizer, range(6), before=lambda: dense.append(model[0].weight.grad.clone()))
    assert [step for step, *_ in calls] == [2, 3, 4, 5]
    for step, params, masks, grads in calls:
        assert torch.equal(grads["0.weight"], dense[step - 1])
        assert all(not params[n][~mask].any() for n, mask in masks.items())
    assert (dense[4][~calls[2][2]["0.weight"]] != 0).any()  # gradients of the dead too
    assert list(calls[0][1]) == ["0.weight", "3.weight"]


def test_what_grows_starts_from_zero_and_zero_state():
    model = net()
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    pruning = attach(optimizer, model, UPDATES["rigl"])
    params = dict(model.named_parameters())
    old = first = dict(pruning.masks)

    def check(step):
        nonlocal old
        for name, mask in pruning.masks.items():
            new = mask & ~old[name]
            grown_here = [params[name], *state_of(optimizer, params[name])]
            assert all(not tensor[new].any() for tensor in grown_here)
        old = dict(pruning.masks)

    train(model, optimizer, range(4), after=check)
    assert int(ml.count(ml.difference(pruning.masks, first))) > 0


def params_of(pruning):
    params = dict(pruning.model.named_parameters())
    return {n: params[n].detach() for n in pruning.masks}


# ---- the model stays what it was ------------------------------------------------------------------------------------


def test_the_model_and_the_optimizer_gain_nothing():
    model = net()
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    names, keys = [n for n, _ in model.named_parameters()], set(model.state_dict())
    attach(optimizer, model, UPDATES["gradual"])
    train(model, optimizer, range(STEPS))
    assert [n for n, _ in model.named_parameters()] == names
    assert set(model.state_dict()) == keys
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert {k for s in optimizer.state.values() for k in s} == {"step", "exp_avg", "exp_avg_sq"}


def test_the_step_sees_gradients_of_the_masked_model():
    """To the bit what gradients of `apply(params, masks)` give, though `grad` is dense before the step."""
    results = []
    for masked in (False, True):
        model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))
        torch.manual_seed(3)
        for p in model.parameters():
            nn.init.normal_(p, std=0.3)
        optimizer = torch.optim.Adafactor(model.parameters(), lr=0.02)  # whose entries see one another
        mask = attach(optimizer, model, updates.static(ml.l1_unstructured, amount=0.5)).masks

        def before(model=model, mask=mask, masked=masked):
            for name, p in model.named_parameters():
                if masked and name in mask:
                    p.grad.masked_fill_(~mask[name], 0)

        train(model, optimizer, range(5), before=before)
        results.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(results[0].values(), results[1].values()))


def test_clipping_counts_dead_entries_unless_gradients_are_masked_first():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruning = attach(optimizer, model, UPDATES["static"])
    loss_of(model(batch(0))).backward()
    dense = nn.utils.get_total_norm(p.grad for p in model.parameters())
    pruning.mask_grads()
    assert all(not p[~pruning.masks[n]].any() for n, p in grads_of(model) if n in pruning.masks)
    sparse = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    assert sparse < dense
    optimizer.step()
    assert pruning.step == 1


def grads_of(model):
    return [(n, p.grad) for n, p in model.named_parameters()]


@pytest.mark.parametrize("name", ["rigl", "movement", "sr-ste", "taylor"])
def test_masking_gradients_early_changes_no_number(name):
    results = []
    for early in (False, True):
        model = net()
        optimizer = OPTIMIZERS["AdamW"](model.parameters())
        pruning = attach(optimizer, model, UPDATES[name])
        train(model, optimizer, range(STEPS), before=pruning.mask_grads if early else lambda: None)
        results.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(results[0].values(), results[1].values()))


def test_accumulation_is_one_step():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruning = attach(optimizer, model, UPDATES["gradual"])
    for step in range(4):
        loss_of(model(batch(step))).backward()
    optimizer.step()
    assert pruning.step == 1


def test_tied_frozen_and_unused_parameters():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(10, 8), nn.Linear(8, 10, bias=False)
            self.head.weight = self.embedding.weight
            self.frozen, self.unused = nn.Linear(8, 8), nn.Linear(8, 8)
            self.frozen.requires_grad_(False)

        def forward(self, x):
            return self.head(self.frozen(self.embedding(x)))

    torch.manual_seed(0)
    model = Tied()
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    pruning = attach(optimizer, model, updates.rigl(sparsity=0.5, every=2, stop=6))
    assert list(pruning.masks) == ["embedding.weight", "frozen.weight", "unused.weight"]
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.arange(10)).square().mean().backward()
        optimizer.step()
        assert_zero(pruning, optimizer)
    assert model.head.weight is model.embedding.weight
    assert pruning.report().left_out["frozen.bias"] == "a bias"


def test_parameter_groups_and_several_attached():
    model = net()
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[3].parameters(), "lr": 0.0}]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    first = attach(optimizer, model, UPDATES["gradual"], names=["0.weight"])
    second = attach(optimizer, model, UPDATES["rigl"], names=lambda name, p: name == "3.weight")
    train(model, optimizer, range(STEPS))
    assert (list(first.masks), list(second.masks)) == (["0.weight"], ["3.weight"])
    assert int(ml.count(first.masks)) == 24
    assert int(ml.count(second.masks)) == 24
    assert_zero(first, optimizer)
    assert_zero(second, optimizer)


def test_a_second_on_the_same_parameters_is_refused_while_the_first_lives():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruning = attach(optimizer, model, UPDATES["static"])
    with pytest.raises(ValueError, match=r"another update is attached to \['0.weight', '3.weight'\]"):
        attach(torch.optim.SGD(model.parameters(), lr=0.1), model, UPDATES["gradual"])
    pruning.remove()
    with attach(optimizer, model, UPDATES["gradual"]):
        pass
    attach(optimizer, model, UPDATES["gradual"])
    del optimizer  # a loop that begins anew
    attach(torch.optim.SGD(model.parameters(), lr=0.1), model, UPDATES["static"])


def test_remove_lets_go():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruning = attach(optimizer, model, UPDATES["static"])
    train(model, optimizer, range(2))
    pruning.remove()
    assert_zero(pruning, optimizer)
    train(model, optimizer, range(2))
    assert model[0].weight[~pruning.masks["0.weight"]].any()
    assert pruning.step == 2


def test_freeze_holds_the_values_entries_died_with():
    model = net()
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    pruning = attach(optimizer, model, UPDATES["gradual"], hold=freeze)
    held = {}

    def check(_):
        for name, param in params_of(pruning).items():
            value, mask = held.setdefault(name, (param.clone(), pruning.masks[name].clone()))
            assert torch.equal(param[~mask], value[~mask])
            held[name] = param.clone(), pruning.masks[name].clone()

    train(model, optimizer, range(STEPS), after=check)
    dead = {n: p[~pruning.masks[n]] for n, p in params_of(pruning).items()}
    assert all(values.numel() > 20 and values.all() for values in dead.values())
    assert all(not s[~pruning.masks["0.weight"]].any() for s in state_of(optimizer, model[0].weight))


def test_straight_through_is_the_estimator():
    """Plain descent on dense weights with the gradient at the masked ones, and SR-STE's pull of the dead."""
    model = nn.Linear(8, 4)
    dense = model.weight.detach().clone()
    bias = model.bias.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruning = attach(optimizer, model, updates.sr_ste(keep=2, of=4, decay=0.3))
    for step in range(6):
        optimizer.zero_grad()
        loss_of(model(batch(step))).backward()
        optimizer.step()
        mask = ml.n_of_m(dense.abs(), keep=2, of=4)
        masked = ml.apply({"w": dense}, {"w": mask})["w"].requires_grad_()
        bias.requires_grad_()
        loss = loss_of(nn.functional.linear(batch(step), masked, bias))
        w_grad, b_grad = torch.autograd.grad(loss, (masked, bias))
        dense = dense - 0.1 * (w_grad + 0.3 * ~mask * dense)
        bias = (bias - 0.1 * b_grad).detach()
        after = ml.n_of_m(dense.abs(), keep=2, of=4)
        assert torch.equal(pruning.masks["weight"], after)
        torch.testing.assert_close(model.weight.detach(), dense * after)


def test_the_lottery_rewinds_all_but_the_masks():
    model = net()
    start = copy.deepcopy(model.state_dict())
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    pruning = attach(optimizer, model, UPDATES["lottery"])
    train(model, optimizer, range(4))
    assert ml.sparsity(pruning.masks) == pytest.approx(0.4, abs=0.01)
    assert not optimizer.state
    for name, value in model.state_dict().items():
        kept = pruning.masks.get(name, torch.tensor(True))
        assert torch.equal(value, torch.where(kept, start[name], 0))


# ---- copies, averages, compilers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("name", ["gradual", "rigl", "movement", "sr-ste", "late lottery"])
def test_a_copy_with_its_optimizer_goes_on_alike(copied, name):
    model = net()
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    pruning = attach(optimizer, model, UPDATES[name])
    train(model, optimizer, range(5))
    model2, optimizer2, pruning2 = copied((model, optimizer, pruning))
    assert pruning2.model is model2
    train(model, optimizer, range(5, STEPS))
    train(model2, optimizer2, range(5, STEPS))
    assert pruning2.step == STEPS
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), model2.state_dict().values()))


def test_a_copy_without_its_optimizer_says_so():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    alone = copy.deepcopy(attach(optimizer, model, UPDATES["gradual"]))
    with pytest.raises(ValueError, match="the optimizer of this pruning is gone"):
        alone.optimizer  # noqa: B018


@pytest.mark.parametrize("make", ["ema", "swa"])
def test_averages_are_as_sparse_as_the_newest_mask_once_it_is_imposed(make):
    model = net()
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    pruning = attach(optimizer, model, UPDATES["gradual"])
    decay = torch.optim.swa_utils.get_ema_multi_avg_fn(0.9) if make == "ema" else None
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=decay)
    train(model, optimizer, range(STEPS), after=lambda _: average.update_parameters(model))
    dead = ~pruning.masks["0.weight"]
    assert average.module[0].weight[dead].any()  # what died while it was averaged
    assert pruning.impose(average.module) is average.module
    for step in range(3):
        train(model, optimizer, [step])
        average.update_parameters(model)
        assert not average.module[0].weight[dead].any()
    assert average.module[0].weight[~dead].all()


@pytest.mark.parametrize("name", ["gradual", "rigl", "sr-ste"])
def test_masks_change_and_compiled_models_are_not_compiled_again(name):
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    results = []
    for compiled in (False, True):
        model = net()
        run = torch.compile(model, backend=counter, fullgraph=True) if compiled else model
        optimizer = OPTIMIZERS["SGD"](run.parameters())
        pruning = attach(optimizer, run, UPDATES[name])
        assert list(pruning.masks) == ["0.weight", "3.weight"]
        train(run, optimizer, range(STEPS))
        results.append(model.state_dict())
    assert counter.frame_count == 1
    assert all(torch.equal(a, b) for a, b in zip(results[0].values(), results[1].values()))


def test_report_counts_and_names_what_has_no_mask():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruning = attach(optimizer, model, UPDATES["static"], names=["0.weight"])
    report = pruning.report()
    assert (report.step, report.sparsity, report.kept) == (0, 0.5, {"0.weight": (48, 96)})
    assert report.left_out["3.weight"] == "not chosen"
    assert str(report).splitlines()[:2] == ["step 0: 50.00% of 96 weights are dead", "  0.weight: 48 of 96 live"]

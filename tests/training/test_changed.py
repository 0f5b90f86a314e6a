"""What people do to a model or an optimizer after `attach`: it goes on right, or a sentence says what to do."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from training_tasks import OPTIMIZERS, STEPS, UPDATES, batch, loss_of, net, train

import masklib as ml
from masklib import schedules, updates
from masklib.adapters.training import attach


def begin(name="gradual", kind="SGD"):
    model = net()
    optimizer = OPTIMIZERS[kind](model.parameters())
    return model, optimizer, attach(optimizer, model, UPDATES[name])


def assert_sparse(model, pruning):
    for name, mask in pruning.masks.items():
        assert not model.get_parameter(name)[~mask].any()


# ---- parameters that are no longer the model's ----------------------------------------------------------------------


def other_parameter(model):
    model[0].weight = nn.Parameter(torch.randn(12, 8))


def other_layer(model):
    model[3] = nn.Linear(12, 4)


def assigned(model):
    model.load_state_dict(net(1).state_dict(), assign=True)


def overwritten(model):
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        model.double().float()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


@pytest.mark.parametrize("name", ["static", "gradual"])
@pytest.mark.parametrize("change", [other_parameter, other_layer, assigned, overwritten])
def test_a_replaced_parameter_is_told_before_the_step(change, name):
    model, optimizer, pruning = begin(name)
    train(model, optimizer, range(4))
    change(model)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    with pytest.raises(ValueError, match=r"`model` has another parameter at '[03].weight' than when it was attached"):
        train(model, optimizer, range(4, 5))
    assert pruning.step == 4
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_and_what_is_told_works():
    whole = begin()
    train(*whole[:2], range(STEPS))
    model, optimizer, pruning = begin()
    train(model, optimizer, range(4))
    model.load_state_dict({n: t.clone() for n, t in model.state_dict().items()}, assign=True)
    pruning.remove()
    again = OPTIMIZERS["SGD"](model.parameters())
    again.load_state_dict(optimizer.state_dict())
    attach(again, model, UPDATES["gradual"], state=pruning.state_dict())
    train(model, again, range(4, STEPS))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), whole[0].parameters()))


def test_a_cut_layer_is_told():
    model, optimizer, _ = begin()
    model[3].weight.data, model[3].bias.data = model[3].weight.data[:2].clone(), model[3].bias.data[:2].clone()
    with pytest.raises(ValueError, match=r"'3.weight' has the shape \(2, 12\), but had \(4, 12\)"):
        train(model, optimizer, range(1))


def another_place(model):
    model.insert(0, nn.Identity())


def parametrized(model):
    nn.utils.parametrize.register_parametrization(model[0], "weight", nn.Hardtanh())


def another_dtype(model):
    model.double().float()


@pytest.mark.parametrize("change", [another_place, parametrized, another_dtype])
@pytest.mark.parametrize("name", ["gradual", "rigl", "sr-ste"])
def test_parameters_that_moved_elsewhere_are_still_the_models(change, name):
    model, optimizer, pruning = begin(name)
    change(model)
    train(model, optimizer, range(STEPS))
    assert pruning.step == STEPS
    assert not any(p[~pruning.masks[name]].any() for name, p in pruning._params.items())


# ---- models and optimizers of other kinds ---------------------------------------------------------------------------


def test_another_optimizer_is_told_by_the_report():
    model, optimizer, pruning = begin()
    assert pruning.report().ended == ""
    del optimizer
    assert "ended: its optimizer is gone, attach to the new one" in str(pruning.report())
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    pruning = attach(optimizer, model, UPDATES["gradual"], state=pruning.state_dict())
    train(model, optimizer, range(STEPS))
    assert_sparse(model, pruning)
    pruning.remove()
    assert pruning.report().ended == "removed"


def test_a_model_without_values_is_refused():
    with torch.device("meta"):
        model = net()
    with pytest.raises(ValueError, match=r"\['0.weight', '3.weight'\] are on the meta device. Call model.to_empty"):
        attach(OPTIMIZERS["SGD"](model.parameters()), model, UPDATES["gradual"])


def test_flat_pieces_are_refused():
    class FullyShardedDataParallel(nn.Sequential):
        """Looks as the one that is refused, without a process group."""

    model = FullyShardedDataParallel(net())
    with pytest.raises(ValueError, match=r"Shard it with torch\.distributed\.fsdp\.fully_shard"):
        attach(OPTIMIZERS["SGD"](model.parameters()), model, UPDATES["gradual"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["gradual", "sr-ste"])
def test_a_compiled_step_is_the_plain_one(name):
    torch._dynamo.reset()
    plain, compiled = begin(name), begin(name)
    train(*plain[:2], range(STEPS))
    model, optimizer, pruning = compiled
    step = torch.compile(lambda: optimizer.step(), backend="eager")
    for number in range(STEPS):
        optimizer.zero_grad()
        loss_of(model(batch(number))).backward()
        step()
    assert pruning.step == STEPS
    assert_sparse(model, pruning)
    assert all(torch.equal(mask, plain[2].masks[name]) for name, mask in pruning.masks.items())
    for a, b in zip(model.parameters(), plain[0].parameters()):
        torch.testing.assert_close(a, b)


def head(model):
    model.add_module("head", nn.Linear(4, 4))


def cache(model):
    model[1].register_buffer("cache", torch.zeros(3), persistent=False)


@pytest.mark.parametrize(("change", "name"), [(head, "head.weight"), (cache, "1.cache")])
def test_a_model_that_grew_is_not_rewound(change, name):
    model, optimizer, pruning = begin("lottery")
    change(model)
    with pytest.raises(ValueError, match=rf"`model` cannot be rewound: .*'{name}'"):
        train(model, optimizer, range(STEPS))
    assert float(ml.sparsity(pruning.masks)) == 0


def test_rounds_that_end_before_the_rewind_are_refused():
    with pytest.raises(ValueError, match="`rewind` must be before the schedule's stop=8, or no round ends, got 8"):
        updates.lottery(ml.l1_unstructured, schedules.exponential(0.4, every=4, stop=8), rewind=8)


# ---- loops of all kinds ---------------------------------------------------------------------------------------------


def test_one_optimizer_a_parameter_that_steps_in_the_backward():
    model = net()
    optimizers = {p: OPTIMIZERS["SGD"]([p]) for p in model.parameters()}
    prunings = [attach(optimizers[layer.weight], model, UPDATES["rigl"]) for layer in (model[0], model[3])]

    def step(param):
        optimizers[param].step()
        optimizers[param].zero_grad()

    for param in model.parameters():
        param.register_post_accumulate_grad_hook(step)
    for number in range(STEPS):
        loss_of(model(batch(number))).backward()
    for pruning in prunings:
        assert pruning.step == STEPS
        assert_sparse(model, pruning)


@pytest.mark.parametrize("name", ["gradual", "rigl", "sr-ste", "lottery"])
def test_frozen_then_not(name):
    model = net()
    model[0].weight.requires_grad_(False)
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    pruning = attach(optimizer, model, UPDATES[name])
    train(model, optimizer, range(5))
    model[0].weight.requires_grad_(True)
    train(model, optimizer, range(5, STEPS))
    assert_sparse(model, pruning)


def test_a_closure_that_raises_leaves_the_masked_model():
    model, optimizer, pruning = begin("sr-ste")
    whole = begin("sr-ste")
    train(*whole[:2], range(STEPS))
    train(model, optimizer, range(3))

    def closure():
        raise RuntimeError("no batch")

    with pytest.raises(RuntimeError, match="no batch"):
        optimizer.step(closure)
    assert_sparse(model, pruning)
    assert pruning.step == 3
    train(model, optimizer, range(3, STEPS))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), whole[0].parameters()))

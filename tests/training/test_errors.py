"""Bad calls of `attach` in one table: what is wrong is said before anything is changed."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch
from torch import nn
from training_tasks import CUBIC, UPDATES, batch, loss_of, net

import masklib as ml
from masklib import schedules, updates
from masklib.adapters.training import attach, freeze

G = UPDATES["gradual"]
STATIC = UPDATES["static"]


def bad_update(result):
    return updates.Update(lambda step, params, masks, grads: result(masks))


BAD = [
    (TypeError, "`optimizer` must be a torch.optim.Optimizer, got Sequential", lambda m, o: attach(m, o, G)),
    (TypeError, "`optimizer` must be a torch.optim.Optimizer, got StepLR", lambda m, o: attach(scheduler(o), m, G)),
    (TypeError, "`model` must be an nn.Module, got dict", lambda m, o: attach(o, dict(m.named_parameters()), G)),
    (TypeError, "`update` must be a masklib.updates.Update, got Polynomial", lambda m, o: attach(o, m, CUBIC)),
    (TypeError, "updates.Update(function, due=schedule.due)", lambda m, o: attach(o, m, lambda *_: None)),
    (TypeError, "`names` must be several names", lambda m, o: attach(o, m, G, names="0.weight")),
    (ValueError, "`names` must be parameters of `model`, got ['w']", lambda m, o: attach(o, m, G, names=["w"])),
    (ValueError, "`names` is empty", lambda m, o: attach(o, m, G, names=[])),
    (ValueError, "False for every parameter", lambda m, o: attach(o, m, G, names=lambda n, p: False)),
    (ValueError, "does not hold ['0.weight']", lambda m, o: attach(o, net(), G, names=["0.weight"])),
    (ValueError, "does not hold any weight of `model`", lambda m, o: attach(o, net(), G)),
    (ValueError, "has no weights", lambda m, o: attach(o, nn.ReLU(), G)),
    (TypeError, "`hold` must be callable, got 0", lambda m, o: attach(o, m, G, hold=0)),
    (ValueError, "`hold` must be zero with", lambda m, o: attach(o, m, UPDATES["sr-ste"], hold=freeze)),
    (TypeError, "`state` must be what state_dict() gave", lambda m, o: attach(o, m, G, state=[1])),
    (TypeError, "`grads` must be", lambda m, o: attach(o, m, updates.static(ml.compute_mask, score=ml.scores.taylor))),
    (ValueError, "when `observe` has seen nothing. Begin it later", lambda m, o: attach(o, m, seen_too_early())),
    (ValueError, "`amount` must be", lambda m, o: attach(o, m, updates.static(ml.l1_unstructured, amount=2.0))),
    (TypeError, "`update(...)` of '0.weight' must be bool", lambda m, o: attach(o, m, bad_update(floats))),
    (ValueError, "missing ['3.weight']", lambda m, o: attach(o, m, bad_update(lambda masks: first(masks)))),
    (ValueError, "must have the shape", lambda m, o: attach(o, m, bad_update(lambda masks: cut(masks)))),
]


def seen_too_early():
    observed = {"observe": ml.scores.add_movement, "score": lambda params, state: ml.scores.movement(state)}
    return updates.gradual(ml.compute_mask, schedules.linear(0.5, stop=4), **observed)


def scheduler(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, 1)


def floats(masks):
    return {name: mask.float() for name, mask in masks.items()}


def first(masks):
    return {"0.weight": masks["0.weight"]}


def cut(masks):
    return {name: mask[:1] for name, mask in masks.items()}


def other_net():
    return nn.Sequential(nn.Linear(3, 3), nn.Identity(), nn.Identity(), nn.Linear(3, 3))


@pytest.mark.parametrize(("kind", "message", "call"), BAD, ids=[message[:50] for _, message, _ in BAD])
def test_a_bad_call_is_told_what_is_wrong_and_changes_nothing(kind, message, call):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {n: p.clone() for n, p in model.named_parameters()}
    with pytest.raises(kind) as caught:
        call(model, optimizer)
    assert message in str(caught.value)
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())
    attach(optimizer, model, STATIC)  # nothing is left of it


@pytest.mark.parametrize(
    ("message", "module"),
    [
        ("`masks` has names that `module` lacks", nn.Linear(2, 2)),
        ("mask of '0.weight' must have the shape", other_net()),
    ],
)
def test_another_module_must_fit(message, module):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=message):
        attach(optimizer, model, STATIC).impose(module)


def test_one_parameter_under_two_names():
    model = net()
    model.add_module("again", model[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"'0.weight' and 'again.weight', which are one parameter"):
        attach(optimizer, model, STATIC, names=["0.weight", "again.weight"])


def test_nan_in_a_weight_is_told_at_the_update_by_name():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(optimizer, model, G)
    for step in range(2):
        optimizer.zero_grad()
        loss_of(model(batch(step))).backward()
        if step == 1:
            model[3].weight.grad[0, 0] = float("nan")
            with pytest.raises(ValueError, match=r"1 NaN in .*3\.weight"):
                optimizer.step()
        else:
            optimizer.step()


def test_a_weight_that_a_norm_computes_is_named():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="leaves out {'0.weight'"):
        pruning = attach(optimizer, model, STATIC)
    assert "computed by" in pruning.report().left_out["0.weight"]


@pytest.mark.parametrize("name", ["lightning", "transformers"])
def test_a_trainer_that_is_not_installed_is_one_clear_sentence(name, monkeypatch):
    for module in (name, f"{name}.pytorch"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"masklib.adapters.training.{name}", raising=False)
    with pytest.raises(ImportError, match=rf"training.{name} needs {name}: pip install 'masklib\[{name}\]'"):
        importlib.import_module(f"masklib.adapters.training.{name}")

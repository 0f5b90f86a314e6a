"""The drop-in against a model of it, at random; and drop-ins that are wrong, which the model catches."""

from __future__ import annotations

from types import SimpleNamespace

import pruning_machine
import pytest
import torch
from hypothesis import Phase, settings
from hypothesis.stateful import (
    run_state_machine_as_test,
)
from torch import nn

import masklib.adapters.prune as prune


def test_the_drop_in_is_its_model():
    run_state_machine_as_test(pruning_machine.Pruning, settings=settings(stateful_step_count=40))


# ---- a machine that cannot fail is no test --------------------------------------------------------------------------


def without_root(function):
    return lambda *args, root=None, **kwargs: function(*args, **kwargs)


def counting_the_dead(module, name, amount, importance_scores=None, **root):
    alive = getattr(module, f"{name}_mask", torch.ones_like(getattr(module, name)))
    number = round(amount * alive.numel()) if isinstance(amount, float) else amount
    return prune.l1_unstructured(module, name, min(number, int(alive.sum())), importance_scores, **root)


def without_scores(module, name, amount, importance_scores=None, **root):
    return prune.l1_unstructured(module, name, amount, **root)


def of_the_other_dim(module, name, amount, n, dim, **root):
    return prune.ln_structured(module, name, amount, n, 1 - dim % 2, **root)


def of_less(module, name, amount, **root):
    return prune.random_unstructured(module, name, amount * 0.8 if isinstance(amount, float) else amount, **root)


def at_once(module, name, **root):
    return prune.l1_unstructured(module, name, 0.3, **root)


def another_parameter(module, name, **root):
    prune.remove(module, name, **root)
    module._parameters[name] = nn.Parameter(module._parameters[name].detach().clone())


WRONG = {
    "tied sites forgotten by pruning": {"l1_unstructured": without_root(prune.l1_unstructured)},
    "tied sites forgotten by remove": {"remove": without_root(prune.remove)},
    "dead entries counted": {"l1_unstructured": counting_the_dead},
    "scores ignored": {"l1_unstructured": without_scores},
    "the other dim": {"ln_structured": of_the_other_dim},
    "fewer than asked for": {"random_unstructured": of_less},
    "identity that prunes": {"identity": at_once},
    "remove that takes back": {"remove": prune.undo},
    "undo that makes permanent": {"undo": prune.remove},
    "another parameter after remove": {"remove": another_parameter},
    "never pruned": {"is_pruned": lambda module: False},
}


FIND = settings(stateful_step_count=40, max_examples=500, phases=[Phase.generate])  # up to the first that fails


@pytest.mark.parametrize("changed", WRONG.values(), ids=WRONG)
def test_the_machine_catches_a_wrong_adapter(monkeypatch, changed):
    monkeypatch.setattr(pruning_machine, "prune", SimpleNamespace(**{**vars(prune), **changed}))
    with pytest.raises((AssertionError, ValueError, pytest.fail.Exception)):
        run_state_machine_as_test(pruning_machine.Pruning, settings=FIND)

"""What layers with the same inputs share is what each of them would have alone, to the bit."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn
from walked_models import MODELS, model_and_batches

import masklib as ml
from masklib.adapters import oneshot
from masklib.surgery import _admm, _sparsegpt

PENALTY = (0.5, 1, 0.5)
RULES = {
    "sparsegpt": (oneshot.sparsegpt(damping=0.02), partial(ml.sparsegpt, damping=0.02)),
    "admm": (oneshot.admm(penalty=PENALTY), partial(ml.admm, penalty=PENALTY)),
}
over_rules = pytest.mark.parametrize(("rule", "alone"), RULES.values(), ids=RULES)


def counting(rule):
    """The rule, and how often it prepared a state."""
    calls = []
    return rule._replace(prepare=lambda state: calls.append(state) or rule.prepare(state)), calls


def in_place(x):
    x[..., 0] *= 3
    return x


BETWEEN = {  # what becomes of the inputs after the first of three layers, and how many states are then shared
    "nothing": (lambda x: x, 1),
    "a view": (lambda x: x.view(x.shape), 1),
    "a copy": (lambda x: x.clone(), 1),
    "in place": (in_place, 1),
    "in place, and back": (lambda x: x.neg_().neg_(), 1),
    "the last feature first": (lambda x: x.flip(-1), 1),
}


class Three(nn.Module):
    """Three layers that read one tensor, the first of them twice; between them something may happen to it."""

    def __init__(self, between):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 4)
        self.between = between

    def forward(self, x):
        x = x + 0
        queries = self.q(x)
        x = self.between(x)
        return queries + torch.cat([self.k(x), self.v(x)], -1)


def inputs_of(block, batches):
    """What came into each layer, batch by batch, as it was then."""
    seen = {name: [] for name, _ in block.named_children()}
    handles = [
        layer.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0].detach().clone()))
        for name, layer in block.named_children()
    ]
    with torch.no_grad():
        for batch in batches:
            block(batch)
    for handle in handles:
        handle.remove()
    return seen


def gathered(parts):
    state = None
    for part in parts:
        state = ml.scores.add_hessian(state, part)
    return state


@over_rules
@pytest.mark.parametrize(("between", "shared"), BETWEEN.values(), ids=BETWEEN)
def test_inputs_are_the_same_only_if_they_are(rule, alone, between, shared):
    torch.manual_seed(0)
    block, batches = Three(between), [torch.randn(2, 16, 8) for _ in range(3)]
    expected = {
        name: alone(block.get_submodule(name).weight, gathered(parts), None, sparsity=0.5)
        for name, parts in inputs_of(block, batches).items()
    }
    counted, calls = counting(rule)
    pruned = oneshot.prune(nn.Sequential(block), batches, counted, sparsity=0.5)
    for name, (weight, mask) in expected.items():
        assert torch.equal(block.get_submodule(name).weight, weight), name
        assert torch.equal(pruned.masks[f"0.{name}.weight"], mask)
    assert len(calls) == shared


def test_a_hook_that_changes_what_one_layer_reads():
    torch.manual_seed(0)
    block, batches = Three(lambda x: x), [torch.randn(2, 16, 8) for _ in range(3)]
    block.k.register_forward_pre_hook(lambda _, args: (args[0].abs(),))
    seen = inputs_of(block, batches)
    expected = {n: ml.admm(block.get_submodule(n).weight, gathered(x), sparsity=0.5)[0] for n, x in seen.items()}
    counted, calls = counting(oneshot.admm())
    oneshot.prune(nn.Sequential(block), batches, counted, sparsity=0.5)
    assert all(torch.equal(block.get_submodule(n).weight, w) for n, w in expected.items())
    assert len(calls) == 1  # of q and v


def test_numbers_and_masks_are_each_layers_own():
    torch.manual_seed(0)
    model, batches = nn.Sequential(Three(lambda x: x)), [torch.randn(2, 16, 8)]
    twin, number = copy.deepcopy(model), {"0.q.weight": 0.25, "0.k.weight": 0.75, "0.v.weight": 0.5}
    dead = {"0.v.weight": torch.rand(4, 8) < 0.7}
    pruned = oneshot.prune(model, batches, oneshot.admm(), sparsity=number, default_masks=dead)
    oneshot.prune(twin, batches, oneshot.admm()._replace(prepare=None), sparsity=number, default_masks=dead)
    assert {n: float(ml.sparsity(m)) for n, m in pruned.masks.items()} == number
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters()))


@over_rules
@pytest.mark.parametrize("name", MODELS)
def test_what_is_prepared_makes_no_difference(name, rule, alone):
    model, batches = model_and_batches(name)
    twin = copy.deepcopy(model)
    counted, calls = counting(rule)
    pruned = oneshot.prune(model, batches, counted, amount=0.5)
    plain = oneshot.prune(twin, batches, rule._replace(prepare=None), amount=0.5)
    assert len(calls) < len(pruned.masks)
    assert all(torch.equal(mask, plain.masks[n]) for n, mask in pruned.masks.items())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters()))


def test_a_factor_serves_queries_keys_and_values():
    model, batches = model_and_batches("llama")
    counted, calls = counting(oneshot.admm())
    oneshot.prune(model, batches, counted, amount=0.5)
    assert len(calls) == 2 * 2  # in each of two blocks one of q, k and v, and one of gate and up


def test_what_a_rule_of_ones_own_prepares_is_given_to_its_solver():
    model, batches = model_and_batches("llama")
    given = {}

    def solve(weight, state, default_mask, **number):
        given.setdefault(state, []).append(tuple(weight.shape))
        return weight, weight == weight

    states = iter(range(100))
    rule = oneshot.Rule(
        lambda state, x: next(states) if state is None else state, solve, lambda state: f"prepared {state}"
    )
    oneshot.prune(model, batches, rule, amount=0.5)
    assert sorted(len(shapes) for state, shapes in given.items() if str(state).startswith("prepared")) == [2, 2, 3, 3]
    assert sorted(len(shapes) for state, shapes in given.items() if not str(state).startswith("prepared")) == [1] * 4


@pytest.mark.parametrize("strict", [True, False])
def test_what_cannot_be_prepared_names_each_layer(strict):
    model, batches = model_and_batches("llama")

    def prepare(state):
        raise ValueError("no factor.")

    rule = oneshot.wanda()._replace(prepare=prepare)
    if strict:
        with pytest.raises(ValueError, match=r"'.*q_proj.weight' cannot be pruned: no factor"):
            oneshot.prune(model, batches, rule, amount=0.5)
        return
    pruned = oneshot.prune(model, batches, rule, amount=0.5, strict=False)
    left = [n.split(".")[-2] for n, why in pruned.left_out.items() if why == "no factor."]
    assert sorted(left) == sorted(2 * ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"])


@pytest.mark.parametrize("weight", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("total", [torch.float32, torch.float64], ids=str)
def test_prepared_statistics_are_statistics(weight, total):
    """In every pair of dtypes, and with options other than those they were prepared with."""
    w, h = torch.randn(6, 12).to(weight), ml.scores.add_hessian(None, torch.randn(64, 12).to(total))
    for solve, prepared in ((ml.admm, _admm.prepared(h)), (ml.sparsegpt, _sparsegpt.prepared(h))):
        for options in ({}, {"damping": 0.3}):
            got, expected = (solve(w, s, sparsity=0.5, **options) for s in (prepared, h))
            assert all(torch.equal(a, b) for a, b in zip(got, expected))
    assert torch.equal(
        ml.admm(w, _admm.prepared(h), keep=20, relaxation=1.0)[0], ml.admm(w, h, keep=20, relaxation=1.0)[0]
    )

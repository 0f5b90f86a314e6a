"""Tied weights, global calls, and histories."""

from __future__ import annotations

import pickle
from functools import partial

import pytest
import torch
from prunings import METHODS, hook_of
from torch import nn

import masklib as ml
import masklib.adapters.prune as prune
from masklib.adapters import weights


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# ---- tied weights ---------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embedding.weight


def test_a_tied_weight_is_one_weight():
    model = Tied()
    parameter = model.head.weight
    prune.l1_unstructured(model.head, "weight", 5, root=model)
    prune.l1_unstructured(model.embedding, "weight", 4, root=model)
    for module in (model.head, model.embedding):
        assert (module.weight == 0).sum() == 9
        assert module.weight_orig is parameter
    assert model.head.weight_mask.data_ptr() != model.embedding.weight_mask.data_ptr()
    prune.global_unstructured([(model.head, "weight"), (model.embedding, "weight")], prune.L1Unstructured, amount=2)
    prune.global_unstructured([(model.head, "weight")] * 2, prune.L1Unstructured, amount=1, root=model)
    assert (model.embedding.weight == 0).sum() == 12
    prune.remove(model.head, "weight", root=model)
    assert model.embedding.weight is model.head.weight is parameter
    assert not prune.is_pruned(model)


# ---- global calls ---------------------------------------------------------------------------------------------------


def test_global_calls_take_a_module_names_or_a_filter():
    def net():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))

    a, b, c, d = net(), net(), net(), net()
    prune.global_unstructured(a, prune.L1Unstructured, amount=0.5)
    prune.global_unstructured(b, prune.L1Unstructured, names=["0.weight", "2.weight"], amount=0.5)
    prune.global_unstructured(c, prune.L1Unstructured, names=lambda name, p: p.dim() > 1, amount=0.5)
    prune.global_unstructured([(d[0], "weight"), (d[2], "weight")], prune.L1Unstructured, amount=0.5)
    assert str(a.state_dict()) == str(b.state_dict()) == str(c.state_dict()) == str(d.state_dict())
    prune.global_unstructured(a, prune.L1Unstructured, amount=0.5)
    assert sum(int((m.weight_mask == 0).sum()) for m in (a[0], a[2])) == 48


def test_a_global_call_equals_the_core_on_a_mapping():
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 2))
    expected = ml.l1_unstructured({str(i): m.weight.detach() for i, m in enumerate(model)}, amount=0.4)
    prune.global_unstructured(model, prune.L1Unstructured, amount=0.4)
    assert all(torch.equal(m.weight_mask != 0, expected[str(i)]) for i, m in enumerate(model))


def test_weights_are_the_matrices_people_mean():
    model = nn.Sequential(
        nn.Embedding(5, 4), nn.LSTM(4, 3), nn.MultiheadAttention(4, 2), nn.LayerNorm(4), nn.Conv2d(1, 2, 3), Tied()
    )
    assert list(weights(model)) == [
        "0.weight",
        "1.weight_ih_l0",
        "1.weight_hh_l0",
        "2.in_proj_weight",
        "2.out_proj.weight",
        "4.weight",
        "5.embedding.weight",
    ]
    before = {n: id(p) for n, p in weights(model).items()}
    prune.global_unstructured(model, prune.L1Unstructured, amount=0.5)
    assert {n: id(p) for n, p in weights(model).items()} == before


# ---- histories ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_folding_the_history_gives_the_mask(seed):
    import random

    rng, module = random.Random(seed), nn.Linear(6, 5)
    for _ in range(rng.randint(1, 6)):
        METHODS[rng.choice(list(METHODS))](module, "weight")
        hook = hook_of(module)
        assert torch.equal(ml.fold(hook.history(), module.weight_orig), module.weight_mask != 0)
    again = pickle.loads(pickle.dumps(module))
    assert torch.equal(ml.fold(hook_of(again).history(), again.weight_orig), module.weight_mask != 0)


def test_a_record_of_more_than_255_steps():
    module = nn.Linear(30, 20)
    for _ in range(300):
        prune.random_unstructured(module, "weight", 1)
    hook = hook_of(module)
    assert len(hook) == len(hook.history()) == 300
    assert torch.equal(ml.fold(hook.history(), module.weight_orig), module.weight_mask != 0)
    counts = [int(ml.count(m)) for m in ml.scan(hook.history(), module.weight_orig)]
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (600, 300)
    assert hook._record.died.dtype == torch.uint8


def test_a_layout_aware_method_of_ones_own():
    class TwoOfFour(prune.BasePruningMethod):
        PRUNING_TYPE = "global"

        def compute_mask(self, t, default_mask):
            return ml.n_of_m(t.abs(), default_mask != 0, keep=2, of=4).to(t.dtype)

    module = nn.Linear(8, 4)
    prune.l1_unstructured(module, "weight", 0.25)
    TwoOfFour.apply(module, "weight")
    assert (module.weight_mask.view(4, 2, 4).sum(-1) <= 2).all()


def test_whatever_a_method_returns_can_only_remove():
    class Revive(prune.BasePruningMethod):
        PRUNING_TYPE = "global"

        def compute_mask(self, t, default_mask):
            return torch.ones_like(t)

    module = prune.l1_unstructured(nn.Linear(4, 3), "weight", 5)
    before = module.weight_mask.clone()
    Revive.apply(module, "weight")
    assert torch.equal(module.weight_mask, before)


RETURNS = {
    "must have its shape": lambda mask: mask.new_zeros(1),
    "0 and 1 only": lambda mask: mask * 0.5,
    "must be a torch.Tensor, got list": lambda mask: mask.tolist(),
}


@pytest.mark.parametrize("times", ["first", "later", "global"])
@pytest.mark.parametrize("message", RETURNS)
def test_what_a_method_returns_is_checked(message, times):
    """No broadcasting, no soft masks, in any kind of call."""

    class Wrong(prune.BasePruningMethod):
        PRUNING_TYPE = "unstructured"

        def compute_mask(self, t, default_mask):
            return RETURNS[message](default_mask)

    module = nn.Linear(4, 3)
    if times == "later":
        prune.l1_unstructured(module, "weight", 5)
    before = {n: t.clone() for n, t in module.state_dict().items()}
    prune_all, prune_one = partial(prune.global_unstructured, module, Wrong), partial(Wrong.apply, module, "weight")
    call = prune_all if times == "global" else prune_one
    with pytest.raises((TypeError, ValueError), match=message):
        call()
    assert list(module.state_dict()) == list(before)
    assert all(torch.equal(before[n], t) for n, t in module.state_dict().items())


def test_a_module_is_its_own_root():
    """The tied site of a weight that the call finds by itself is pruned too."""
    model = nn.Module()
    model.embedding, model.head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
    model.head.weight = model.embedding.weight
    prune.global_unstructured(model, prune.L1Unstructured, amount=7)
    assert torch.equal(model.embedding.weight, model.head.weight)
    assert int((model.head.weight == 0).sum()) == 7


def test_parameters_without_numbers_are_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight[0, 1] = float("nan")
    with pytest.raises(ValueError, match=r"1 \(parameter 'weight' of Linear\)"):
        prune.global_unstructured(model, prune.L1Unstructured, amount=1)
    with pytest.raises(ValueError, match=r"parameter 'weight' of Linear"):
        prune.l1_unstructured(model[1], "weight", amount=1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64])
def test_other_dtypes(dtype):
    module = nn.Linear(4, 3, dtype=dtype)
    step = partial(prune.l1_unstructured, module, "weight", 5)
    step()
    assert module.weight_mask.dtype == dtype
    assert (module.weight == 0).sum() == 5
    prune.remove(module, "weight")
    assert (module.weight == 0).sum() == 5

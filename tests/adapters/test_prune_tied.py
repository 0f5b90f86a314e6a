"""Tied weights: one parameter at several sites, pruned alike whatever was done at each before."""

from __future__ import annotations

import pytest
import torch
from prunings import hook_of
from torch import nn

import masklib as ml
import masklib.adapters.prune as prune
from masklib.adapters.checkpoint import to_dense


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embedding.weight

    @property
    def sites(self):
        return [(self.embedding, "weight"), (self.head, "weight")]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Tied()


AT_ALL_SITES = {
    "from the pruned site": lambda m: prune.l1_unstructured(m.head, "weight", 4, root=m),
    "from the dense site": lambda m: prune.l1_unstructured(m.embedding, "weight", 4, root=m),
    "global over both": lambda m: prune.global_unstructured(m.sites, prune.L1Unstructured, amount=4),
    "global by names": lambda m: prune.global_unstructured(
        m, prune.L1Unstructured, names=["head.weight", "embedding.weight"], amount=4
    ),
    "global with a root": lambda m: prune.global_unstructured(m.sites[:1], prune.RandomUnstructured, root=m, amount=4),
}


@pytest.mark.parametrize("call", AT_ALL_SITES.values(), ids=AT_ALL_SITES)
def test_what_died_at_one_site_alone_is_dead_at_all(model, call):
    prune.l1_unstructured(model.head, "weight", 5)
    earlier = model.head.weight_mask.clone()
    call(model)
    assert torch.equal(model.head.weight_mask, model.embedding.weight_mask)
    assert (model.head.weight_mask <= earlier).all()
    assert (model.head.weight_mask == 0).sum() == 9
    for module, _ in model.sites:
        assert torch.equal(ml.fold(hook_of(module).history(), module.weight_orig), module.weight_mask != 0)


def test_sites_pruned_apart_meet_in_the_intersection(model):
    prune.random_unstructured(model.head, "weight", 8)
    prune.random_unstructured(model.embedding, "weight", 8)
    both = (model.head.weight_mask * model.embedding.weight_mask) != 0
    prune.identity(model.head, "weight", root=model)
    for module, _ in model.sites:
        assert torch.equal(module.weight_mask != 0, both)
        assert torch.equal(ml.fold(hook_of(module).history(), module.weight_orig), both)


@pytest.mark.parametrize("end", [prune.remove, prune.undo])
def test_ending_at_all_sites_passes_over_those_that_are_dense(model, end):
    prune.l1_unstructured(model.head, "weight", 5)
    end(model.head, "weight", root=model)
    assert model.head.weight is model.embedding.weight
    assert not prune.is_pruned(model)


def test_two_names_in_one_module():
    module = nn.Module()
    module.first = nn.Parameter(torch.randn(4))
    module.second = module.first
    prune.l1_unstructured(module, "first", 2, root=module)
    assert torch.equal(module.first, module.second)
    prune.remove(module, "second", root=module)
    assert module.first is module.second
    assert list(module._parameters) == ["first", "second"]


def test_modules_that_are_not_initialized_yet_do_not_disturb(model):
    whole = nn.Sequential(model, nn.LazyLinear(3))
    prune.l1_unstructured(model.head, "weight", 5, root=whole)
    assert (model.embedding.weight == 0).sum() == 5
    prune.global_unstructured(whole, prune.L1Unstructured, names=lambda name, _: name == "0.head.weight", amount=2)
    assert (model.head.weight == 0).sum() == 7


def test_a_root_that_does_not_hold_the_module_is_refused(model):
    with pytest.raises(ValueError, match="`root` must contain Linear"):
        prune.l1_unstructured(model.head, "weight", 5, root=nn.Linear(2, 2))
    assert not prune.is_pruned(model)


def test_scores_for_one_site_serve_all_and_two_contradict(model):
    embedding, head = model.sites
    scores = torch.arange(24.0).view(6, 4)
    with pytest.raises(ValueError, match="several scores for the tied"):
        prune.global_unstructured(
            model.sites, prune.L1Unstructured, {head: scores, embedding: scores.clone()}, amount=3
        )
    prune.global_unstructured(model.sites, prune.L1Unstructured, {head: scores}, amount=3)
    assert model.embedding.weight_mask[0].tolist() == [0, 0, 0, 1]


def test_random_noise_is_drawn_once_for_one_weight(model):
    prune.random_unstructured(model.head, "weight", 5, root=model)
    drawn = torch.get_rng_state()
    torch.manual_seed(0)
    other = Tied()
    prune.random_unstructured(other.head, "weight", 5)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert torch.equal(model.embedding.weight_mask, other.head.weight_mask)


# ---- pruned at one site only ----------------------------------------------------------------------------------------


def tied_net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))
    model[2].weight = model[0].weight
    return model


APART = {
    "one site": lambda m: prune.l1_unstructured(m[0], "weight", 8),
    "the other site": lambda m: prune.l1_unstructured(m[2], "weight", 8),
    "both, differently": lambda m: (
        prune.l1_unstructured(m[0], "weight", 8),
        prune.random_unstructured(m[2], "weight", 8),
    ),
}


@pytest.mark.parametrize("apart", APART.values(), ids=APART)
def test_bake_computes_the_same_when_tied_sites_are_pruned_apart(apart):
    model, x = tied_net(), torch.randn(3, 4)
    apart(model)
    expected, state = model(x), {n: v.clone() for n, v in model.state_dict().items()}
    baked = prune.bake(model)
    assert torch.equal(baked(x), expected)
    assert torch.equal(model(x), expected)
    assert all(torch.equal(v, state[n]) for n, v in model.state_dict().items())
    assert baked[0].weight is not baked[2].weight
    again = tied_net()
    again[2].weight = nn.Parameter(torch.zeros(4, 4))
    again.load_state_dict(baked.state_dict())
    assert torch.equal(again(x), expected)


@pytest.mark.parametrize("apart", APART.values(), ids=APART)
def test_to_dense_refuses_what_a_dense_state_dict_cannot_hold(apart, tmp_path):
    model = tied_net()
    apart(model)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    for state in (model.state_dict(), torch.load(tmp_path / "state.pt")):
        with pytest.raises(ValueError, match=r"\(tied weights\), pruned differently.*root=model"):
            to_dense(state)


def test_tied_sites_pruned_alike_stay_tied():
    model, x = tied_net(), torch.randn(3, 4)
    prune.l1_unstructured(model[0], "weight", 8, root=model)
    baked = prune.bake(model)
    assert baked[0].weight is baked[2].weight
    assert torch.equal(baked(x), model(x))
    again = tied_net()
    again.load_state_dict(to_dense(model.state_dict()))
    assert torch.equal(again(x), model(x))

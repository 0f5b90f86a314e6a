"""Pruning on torch.nn.utils.parametrize, and its agreement with the core and with the drop-in."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn

import masklib as ml
import masklib.adapters.prune as drop_in
from masklib.adapters import parametrize

HALF = partial(ml.l1_unstructured, amount=0.5)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))


def test_it_agrees_with_the_core_and_with_the_drop_in():
    model, other = net(), net()
    weights = {n: p.detach().clone() for n, p in model.named_parameters() if p.dim() > 1}
    for _ in range(2):
        parametrize.prune(model, HALF)
        drop_in.global_unstructured(other, drop_in.L1Unstructured, amount=0.5)
    expected = ml.fold([HALF, HALF], weights)
    got = parametrize.masks(model)
    assert all(torch.equal(got[n], expected[n]) for n in expected)
    assert torch.equal(got["0.weight"], other[0].weight_mask != 0)
    assert torch.equal(model(torch.ones(1, 6)), other(torch.ones(1, 6)))


class Dense(nn.Module):
    """No class that the drop-in prunes: Dynamo of torch 2.6 does not read the attributes of those."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(8, 6)), nn.Parameter(torch.randn(8))

    def forward(self, x):
        return nn.functional.linear(x, self.weight, self.bias)


def test_compile():
    model, x = parametrize.prune(nn.Sequential(Dense(), nn.ReLU()), HALF, ["0.weight"]), torch.randn(3, 6)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x))


def test_training_state_dict_and_copy():
    model = parametrize.prune(net(), HALF)
    model(torch.randn(4, 6)).square().mean().backward()
    mask = parametrize.masks(model)["0.weight"]
    assert model[0].parametrizations.weight.original.grad[~mask].abs().sum() == 0
    other = parametrize.prune(net(), ml.identity)
    other.load_state_dict(model.state_dict())
    twin, x = copy.deepcopy(model), torch.randn(3, 6)
    assert torch.equal(other(x), model(x))
    assert torch.equal(twin(x), model(x))


def test_remove_restores_names_order_and_identity():
    model = net()
    parameters, names = list(model.parameters()), [n for n, _ in model.named_parameters()]
    parametrize.prune(model, HALF)
    parametrize.prune(model, HALF, ["0.bias"])
    expected = model(torch.ones(1, 6))
    parametrize.remove(model)
    assert [n for n, _ in model.named_parameters()] == names
    assert all(p is q for p, q in zip(model.parameters(), parameters))
    assert torch.equal(model(torch.ones(1, 6)), expected)
    assert type(model[0]) is nn.Linear


def test_assigning_keeps_the_mask():
    model = parametrize.prune(nn.Linear(4, 2), HALF)
    with torch.no_grad():
        model.weight = torch.ones(2, 4)
    assert model.weight.sum() == 4


def test_a_failing_method_changes_nothing():
    model = net()
    for bad in (partial(ml.l1_unstructured, amount=1000), lambda s, m: {"x": 1}, lambda s, m: s):
        with pytest.raises((ValueError, TypeError)):
            parametrize.prune(model, bad)
        assert list(model.state_dict()) == list(net().state_dict())
    with pytest.raises(ValueError, match="must be pruned parameters"):
        parametrize.remove(model, ["0.weight"])


@pytest.mark.parametrize(
    ("error", "message", "names"),
    [
        (ValueError, "`names` must be parameters, got \\['nope'\\]", ["0.weight", "nope"]),
        (TypeError, "For example \\['0.weight'\\]", "0.weight"),
        (ValueError, "must be parameters, got \\['2.table'\\]", ["0.weight", "2.table"]),
    ],
)
def test_names_that_are_no_parameters(error, message, names):
    model = net()
    model[2].register_buffer("table", torch.zeros(2, dtype=torch.int64))
    before = list(model.state_dict())
    with pytest.raises(error, match=message):
        parametrize.prune(model, HALF, names)
    assert list(model.state_dict()) == before


@pytest.mark.parametrize("first", ["weight", "bias"])
def test_remove_restores_the_order_in_whatever_order_it_was_pruned(first):
    layer = nn.Linear(3, 2)
    parametrize.prune(layer, HALF, [first])
    parametrize.prune(layer, HALF, ["weight" if first == "bias" else "bias"])
    parametrize.remove(layer)
    assert [n for n, _ in layer.named_parameters()] == ["weight", "bias"]


def test_tied_weights_are_one_weight():
    model = nn.Module()
    model.embedding, model.head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
    model.head.weight = weight = model.embedding.weight
    for _ in range(2):
        parametrize.prune(model, partial(ml.l1_unstructured, amount=6))
    assert torch.equal(model.embedding.weight, model.head.weight)
    assert int((model.head.weight == 0).sum()) == 12
    assert list(parametrize.masks(model)) == ["embedding.weight", "head.weight"]
    parametrize.remove(model)
    assert model.embedding.weight is model.head.weight is weight
    assert int((weight == 0).sum()) == 12


def test_rnns_run_on_their_pruned_weights():
    model, x = nn.LSTM(4, 4), torch.randn(3, 2, 4)
    before = model(x)[0]
    parametrize.prune(model, HALF)
    assert not torch.equal(model(x)[0], before)
    expected = nn.LSTM(4, 4)
    expected.load_state_dict({n: getattr(model, n).detach() for n in model._flat_weights_names})
    assert torch.equal(model(x)[0], expected(x)[0])


def test_remove_leaves_other_parametrizations_alone():
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
    parametrize.prune(layer, HALF, ["weight"])
    before = list(layer.state_dict())
    with pytest.raises(ValueError, match="torch removes all or none"):
        parametrize.remove(layer)
    assert list(layer.state_dict()) == before


@pytest.mark.parametrize(
    ("pruned", "names"), [("bias", None), ("bias", ["0.weight", "2.weight"]), ("weight", None), ("weight", ["2.bias"])]
)
def test_modules_that_the_drop_in_prunes_are_refused_before_anything_changes(pruned, names):
    model = net()
    drop_in.l1_unstructured(model[2], pruned, 1)
    before = list(model.state_dict())
    with pytest.raises(ValueError, match=r"Linear is pruned by adapters\.prune"):
        parametrize.prune(model, HALF, names)
    assert list(model.state_dict()) == before


@pytest.mark.parametrize("whole", [False, True])
def test_the_drop_in_prunes_a_tied_weight_behind_a_parametrization_too(whole):
    model = nn.Module()
    model.a, model.b = nn.Linear(4, 4), nn.Linear(4, 4)
    model.b.weight = weight = model.a.weight
    parametrize.prune(model.b, HALF)
    before = list(model.state_dict())
    if whole:
        drop_in.global_unstructured(model, drop_in.L1Unstructured, amount=5)
    else:
        drop_in.l1_unstructured(model.a, "weight", 5, root=model)
    assert int((model.a.weight == 0).sum()) == 5
    assert not model.b.weight[model.a.weight == 0].any()
    drop_in.remove(model.a, "weight", root=model)
    assert list(model.state_dict()) == before
    assert model.a.weight is model.b.parametrizations.weight.original is weight


def test_the_drop_in_passes_by_normed_layers():
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), nn.Linear(4, 4))
    with pytest.warns(UserWarning, match=r"leaves out \{'0.weight': 'computed by _SpectralNorm'\}"):
        drop_in.global_unstructured(model, drop_in.L1Unstructured, amount=5)
    assert int((model[1].weight == 0).sum()) == 5
    before = model[0].parametrizations.weight[0]._u.clone()
    with pytest.raises(TypeError, match="'weight' of ParametrizedLinear is parametrized"):
        drop_in.l1_unstructured(model[0], "weight", 3)
    assert torch.equal(model[0].parametrizations.weight[0]._u, before)


def test_a_method_that_draws_writes_and_fails_changes_nothing():
    def bad(scores, masks):
        torch.rand(3)
        for tensor in (*scores.values(), *masks.values()):
            tensor.zero_()
        raise KeyError

    model = parametrize.prune(net(), HALF, ["0.weight"])
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with pytest.raises(KeyError):
        parametrize.prune(model, bad)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_remove_computes_everything_first():
    model = parametrize.prune(net(), HALF)
    model[2].parametrizations.weight[0].mask = torch.ones(3, dtype=torch.bool)
    before = list(model.state_dict())
    with pytest.raises(ValueError, match="shape"):
        parametrize.remove(model)
    assert list(model.state_dict()) == before


def test_a_parameter_that_came_later_goes_last():
    layer = parametrize.prune(nn.Linear(3, 2), HALF)
    layer.scale = nn.Parameter(torch.ones(2))
    parametrize.prune(layer, HALF, ["scale"])
    parametrize.remove(layer)
    assert [n for n, _ in layer.named_parameters()] == ["weight", "bias", "scale"]


def test_masks_made_in_inference_mode_can_train():
    layer = nn.Linear(4, 2)
    for _ in range(2):
        with torch.inference_mode():
            parametrize.prune(layer, HALF)
    layer(torch.ones(1, 4)).sum().backward()


def test_flat_weights_of_an_rnn_after_remove():
    model = parametrize.remove(parametrize.prune(nn.GRU(3, 3), HALF))
    assert all(a is getattr(model, n) for a, n in zip(model._flat_weights, model._flat_weights_names))


def test_any_composition_of_the_core():
    model = parametrize.prune(net(), partial(ml.layerwise(ml.n_of_m), keep=1, of=2))
    assert all(bool((m.view(-1, 2).sum(1) <= 1).all()) for m in parametrize.masks(model).values())


def test_copies_do_not_share_what_is_pruned_and_removed():
    """torch's parametrize writes into the class of the module, which a deep copy shares."""
    model = parametrize.prune(nn.Linear(4, 2), HALF)
    twin, third = copy.deepcopy(model), copy.deepcopy(model)
    parametrize.remove(twin)
    parametrize.prune(third, HALF, ["bias"])
    assert int((model.weight == 0).sum()) == 4
    assert int((model.bias == 0).sum()) == 0
    assert list(parametrize.masks(model)) == ["weight"]
    assert list(parametrize.masks(third)) == ["weight", "bias"]
    parametrize.remove(model)
    assert int((third.weight == 0).sum()) == 4
    assert type(model) is type(twin) is nn.Linear


def test_bake_keeps_what_tied_sites_compute():
    """Pruned at one site only, a tied weight becomes one of its own in the copy; pruned at all, it stays tied."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(6, 4)
            self.head = nn.Linear(4, 6, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, words):
            return self.head(self.embedding(words))

    words = torch.arange(6)
    for pruned_at, tied in ((lambda m: m.head, False), (lambda m: m, True)):
        model = Tied()
        parametrize.prune(pruned_at(model), partial(ml.l1_unstructured, amount=0.5))
        baked = parametrize.bake(model)
        assert torch.equal(baked(words), model(words))
        assert (baked.head.weight is baked.embedding.weight) == tied
        assert not parametrize.is_pruned(baked)

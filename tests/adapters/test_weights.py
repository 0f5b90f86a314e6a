"""Which weights people mean, and why the others are left out."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import masklib as ml
import masklib.adapters.prune as prune
from masklib.adapters import parametrize, skipped, weights

HALF = partial(ml.l1_unstructured, amount=0.5)
OLD_NORM = nn.utils.weight_norm
NORMS = {
    "weight_norm": nn.utils.parametrizations.weight_norm,
    "spectral_norm": nn.utils.parametrizations.spectral_norm,
    "orthogonal": nn.utils.parametrizations.orthogonal,
    "old weight_norm": OLD_NORM,
    "old spectral_norm": nn.utils.spectral_norm,
    "pruned by torch": lambda m: torch.nn.utils.prune.l1_unstructured(m, "weight", 0.5),
}
pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning")
every_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)


class Experts(nn.Module):
    """As transformers' Mixtral keeps them: no Linear inside."""

    def __init__(self):
        super().__init__()
        self.num_experts = 3
        self.gate_up_proj = nn.Parameter(torch.randn(3, 8, 4))
        self.down_proj = nn.Parameter(torch.randn(3, 4, 4))
        self.gate_up_proj_bias = nn.Parameter(torch.randn(3, 8))


class Conv1D(nn.Module):
    """As transformers' GPT-2 has it."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 5, 4))


def test_fused_experts_and_conv1d_are_weights():
    model = nn.Sequential(Experts(), Conv1D(6, 4), Positions(), nn.LayerNorm(6))
    assert list(weights(model)) == ["0.gate_up_proj", "0.down_proj", "1.weight"]
    reasons = skipped(model)
    assert reasons["0.gate_up_proj_bias"] == "a bias" or "no kind of layer" in reasons["0.gate_up_proj_bias"]
    assert "Positions" in reasons["2.table"]
    assert "LayerNorm" in reasons["3.weight"]
    assert set(weights(model)) | set(reasons) == {n for n, _ in model.named_parameters()}


def test_fused_experts_are_pruned_by_both_adapters():
    for pruned in (
        lambda m: parametrize.prune(m, HALF),
        lambda m: prune.global_unstructured(m, prune.L1Unstructured, amount=0.5),
    ):
        model = Experts()
        pruned(model)
        assert int((model.gate_up_proj == 0).sum() + (model.down_proj == 0).sum()) == (96 + 48) // 2


@every_norm
def test_no_part_of_a_normed_weight_is_listed(norm):
    model = nn.Sequential(norm(nn.Linear(4, 4)), nn.Linear(4, 4))
    assert list(weights(model)) == ["1.weight"]
    assert skipped(model)["0.weight"].startswith("computed by ")
    assert set(skipped(model)) == {"0.weight", "0.bias", "1.bias"}


@every_norm
def test_what_is_left_out_is_said(norm):
    for pruned in (
        lambda m: parametrize.prune(m, HALF),
        lambda m: prune.global_unstructured(m, prune.L1Unstructured, amount=0.5),
    ):
        model = nn.Sequential(norm(nn.Linear(4, 4)), nn.Linear(4, 4))
        with pytest.warns(UserWarning, match=r"pruning leaves out \{'0.weight': 'computed by"):
            pruned(model)
        assert int((model[1].weight == 0).sum()) == 8
        assert model(torch.randn(2, 4)).isfinite().all()


@every_norm
def test_nothing_to_prune_is_an_error(norm):
    model = norm(nn.Linear(4, 4))
    before = list(model.state_dict())
    with pytest.raises(ValueError, match=r"nothing to prune: .* has no weights. .*'weight': 'computed by"):
        parametrize.prune(model, HALF)
    with pytest.raises(ValueError, match="nothing to prune"):
        prune.global_unstructured(model, prune.L1Unstructured, amount=0.5)
    assert list(model.state_dict()) == before


def test_a_weight_pruned_by_either_adapter_is_listed_by_its_plain_name():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    first, second = model[0].weight, model[1].weight
    prune.l1_unstructured(model[0], "weight", 3)
    parametrize.prune(model[1], HALF)
    found = weights(model)
    assert list(found) == ["0.weight", "1.weight"]
    assert found["0.weight"] is first
    assert found["1.weight"] is second
    assert set(skipped(model)) == {"0.bias", "1.bias"}


def test_a_tied_weight_is_listed_once_and_said_to_be_tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert list(weights(model)) == ["0.weight"]
    assert skipped(model)["1.weight"] == "tied to '0.weight'"


@pytest.mark.parametrize("function", [weights, skipped])
def test_bad_calls(function):
    with pytest.raises(TypeError, match=r"`module` must be an nn.Module, got dict"):
        function({})
    with pytest.raises(ValueError, match="not initialized"):
        function(nn.LazyLinear(3))

"""The wrong thing in each argument of what cuts, and models that are hard to compare."""

from __future__ import annotations

import copy
import re
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.prune import l1_unstructured
from wrong import X, called, told

import masklib as ml
from masklib.adapters import structural
from masklib.adapters.structural import count, shrink, shrink_optimizer, structure


@cache
def _cut():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    found = structure(model, (X,))
    masks = ml.compute_mask({n: model.get_parameter(n) for n in found.names}, keep=2, groups=found.groups(p=2))
    optimizer = torch.optim.Adam(model.parameters())
    model(X).sum().backward()
    optimizer.step()
    small = shrink(model, masks, found)
    return {"optimizer": optimizer, "model": model, "small": small, "masks": masks, "structure": found}


def cut(*names):
    return {name: _cut()[name] for name in names}


def scores():
    return {n: _cut()["model"].get_parameter(n).detach() for n in _cut()["structure"].names}


CALLS: dict[str, Any] = {
    "structure": (structure, lambda: cut("model") | {"example_inputs": (X,)}),
    "shrink": (shrink, lambda: cut("model", "masks", "structure")),
    "idle": (structural.idle, lambda: cut("model", "masks", "structure")),
    "fold_constants": (structural.fold_constants, lambda: cut("model", "masks", "structure")),
    "shrink_optimizer": (shrink_optimizer, lambda: cut(*_cut())),
    "count": (count, lambda: cut("structure", "masks")),
    "within": (
        structural.within,
        lambda: (
            cut("structure")
            | {"scores": scores(), "parameters": 20, "groups": _cut()["structure"].groups(p=2), "least": 1}
        ),
    ),
    "explain": (_cut()["structure"].explain, lambda: {"name": "0.weight"}),
    "select": (_cut()["structure"].select, lambda: {"keep": lambda units: True}),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore")  # torch's own, of sparse and quantized tensors
def test_the_wrong_thing_is_told(name):
    called(CALLS[name][0], CALLS[name][1]())
    assert not (bad := told(*CALLS[name])), "\n" + bad


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "`masks` of '0.bias' must be of shape (4,)", lambda m, f: count(f, {"0.bias": torch.ones(3) > 0})),
        (TypeError, "`masks` of '0.bias' must be bool", lambda m, f: count(f, {"0.bias": torch.ones(4)})),
        (ValueError, "meta", lambda m, f: count(f, {"0.bias": torch.ones(4, dtype=torch.bool, device="meta")})),
        (ValueError, "zzz", lambda m, f: count(f, {"zzz": torch.ones(4) > 0})),
        (ValueError, "'0.weight' has none yet", lambda m, f: structure(nn.Sequential(nn.LazyLinear(4)), (X,))),
        (ValueError, "has none yet", lambda m, f: shrink(nn.Sequential(nn.LazyLinear(4)), {}, f)),
        (ValueError, "call prune.remove", lambda m, f: structure(normed(), (X,))),
    ],
)
def test_bad_calls(error, message, call):
    with pytest.raises(error, match=re.escape(message)):
        call(_cut()["model"], _cut()["structure"])


def normed():
    """A model whose weight a hook computes, after a run."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    l1_unstructured(model[0], "weight", amount=0.5)
    model(X)
    return model


# ---- the optimizer --------------------------------------------------------------------------------------------------


def test_the_smaller_model_must_be_that_of_the_masks():
    for small in (_cut()["model"], nn.Linear(2, 2)):
        with pytest.raises(ValueError, match="`small` must be what shrink"):
            shrink_optimizer(**cut("optimizer", "model", "masks", "structure"), small=small)


def test_state_of_what_is_masked_and_not_cut_is_masked():
    model, masks, found = (_cut()[name] for name in ("model", "masks", "structure"))
    masks = {**masks, "2.bias": torch.tensor([True, False])}
    small = shrink(model, masks, found)
    state = shrink_optimizer(_cut()["optimizer"], model, small, masks=masks, structure=found).state[small[2].bias]
    old = _cut()["optimizer"].state[model[2].bias]
    for key in ("exp_avg", "exp_avg_sq"):
        assert old[key].all()
        assert torch.equal(state[key], old[key] * torch.tensor([1.0, 0.0]))


def test_state_that_spans_parameters_is_refused_whichever_holds_it():
    model = copy.deepcopy(_cut()["model"])
    optimizer = torch.optim.LBFGS([model[2].bias, *model[0].parameters(), model[2].weight])  # the first is not cut

    def loss():
        optimizer.zero_grad()
        value = model(X).square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    masks, found = _cut()["masks"], _cut()["structure"]
    with pytest.raises(ValueError, match="LBFGS does not have its shape"):
        shrink_optimizer(optimizer, model, shrink(model, masks, found), masks=masks, structure=found)


# ---- what is compared -----------------------------------------------------------------------------------------------


class InPlace(nn.Sequential):
    def forward(self, x):
        return super().forward(x.mul_(2))


def test_inputs_that_the_model_writes_into_stay_as_they_are():
    model, masks, inputs = InPlace(*_cut()["model"]), _cut()["masks"], X.clone()
    found = structure(model, (inputs,))
    small = shrink(model, masks, found)
    assert torch.equal(inputs, X)
    assert torch.allclose(small(X.clone()), _cut()["small"](2 * X), atol=1e-6)


class Scaled(nn.Sequential):
    """A model whose output depends on how wide it is, beside the lowest number."""

    def forward(self, x):
        x = super().forward(x) / self[0].out_features
        return torch.cat([x, torch.full_like(x, torch.finfo(x.dtype).min)], 1)


def test_large_numbers_that_code_fills_in_hide_no_difference():
    model = Scaled(*_cut()["model"])
    with pytest.raises(ValueError, match="the outputs differ by"):
        shrink(model, _cut()["masks"], structure(model, (X,)))


def test_floors_of_pools_of_their_own_are_refused_with_the_reason():
    given = {"keep": 2, "groups": _cut()["structure"].groups(p=2, layerwise=True), "least": 1}
    with pytest.raises(
        ValueError,
        match=r"sets of units, each a pool, in 3 tensors.*In a pool of its own nothing can: the number alone says",
    ):
        ml.compute_mask(scores(), **given)
    assert int(ml.compute_mask(scores(), **given | {"least": None})["0.bias"].sum()) == 2

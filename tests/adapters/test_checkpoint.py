"""Checkpoints: pruned and dense, ours and the original's, in every direction."""

from __future__ import annotations

import pytest
import torch
import torch.nn.utils.prune as theirs
from torch import nn

import masklib.adapters.prune as ours
from masklib.adapters.checkpoint import load_pruned, to_dense, to_pruned


def net():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))


@pytest.fixture(params=[ours, theirs], ids=["ours", "theirs"])
def saved(request):
    torch.manual_seed(0)
    model = net()
    request.param.l1_unstructured(model[0], "weight", 0.5)
    request.param.random_unstructured(model[0], "weight", 3)
    request.param.identity(model[2], "bias")
    return model.eval()


X = torch.linspace(-1, 1, 18).view(3, 6)


def starts():
    once, other = net(), net()
    ours.random_unstructured(once[0], "weight", 4)
    ours.random_unstructured(other[2], "weight", 4)
    return {"dense": net(), "pruned alike": once, "pruned elsewhere": other}


@pytest.mark.parametrize("start", ["dense", "pruned alike", "pruned elsewhere"])
def test_a_pruned_state_dict_loads_into_anything(saved, start):
    model = load_pruned(starts()[start], saved.state_dict()).eval()
    assert set(model.state_dict()) == set(saved.state_dict())
    assert torch.equal(model(X), saved(X))


@pytest.mark.parametrize("start", ["dense", "pruned alike", "pruned elsewhere"])
def test_a_dense_state_dict_loads_into_anything(start):
    dense = net().eval()
    model = load_pruned(starts()[start], dense.state_dict()).eval()
    assert not ours.is_pruned(model)
    assert list(model.state_dict()) == list(dense.state_dict())
    assert torch.equal(model(X), dense(X))


def test_ours_loads_into_the_originals_pruned_module(saved):
    model = net()
    theirs.identity(model[0], "weight")
    theirs.identity(model[2], "bias")
    model.load_state_dict(saved.state_dict())
    assert torch.equal(model.eval()(X), saved(X))


def test_converters(saved):
    dense = to_dense(saved.state_dict())
    plain = net().eval()
    plain.load_state_dict(dense)
    assert torch.equal(plain(X), saved(X))
    masks = {"0.weight": saved[0].weight_mask != 0}
    again = load_pruned(net(), to_pruned(dense, masks)).eval()
    assert torch.equal(again(X), saved(X))
    assert torch.equal(again[0].weight_mask, saved[0].weight_mask)


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("half a pair: \\['0.weight_orig'\\]", lambda s: s.pop("0.weight_mask")),
        ("half a pair: \\['0.weight_mask'\\]", lambda s: s.pop("0.weight_orig")),
        ("missing \\['1.weight'\\]", lambda s: s.pop("1.weight")),
        ("unknown \\['3.weight'\\]", lambda s: s.update({"3.weight": torch.ones(2)})),
        ("shapes {'2.weight'", lambda s: s.update({"2.weight": torch.ones(2)})),
        ("0 and 1 only", lambda s: s["0.weight_mask"].fill_(0.5)),
        ("must have its shape", lambda s: s.update({"0.weight_mask": torch.ones(3)})),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(message, change):
    model = net()
    ours.l1_unstructured(model[2], "weight", 3)
    source = net()
    ours.l1_unstructured(source[0], "weight", 3)
    state = {k: v.clone() for k, v in source.state_dict().items()}
    change(state)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises((ValueError, RuntimeError), match=message):
        load_pruned(model, state)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_converters_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="lacks: \\['b'\\]"):
        to_pruned({"a": torch.ones(2)}, {"b": torch.ones(2)})
    with pytest.raises(ValueError, match="shape"):
        to_pruned({"a": torch.ones(2)}, {"a": torch.ones(3)})

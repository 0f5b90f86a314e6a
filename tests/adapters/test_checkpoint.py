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
        ('Missing key.*"1.weight"', lambda s: s.pop("1.weight")),
        ('Unexpected key.*"3.weight"', lambda s: s.update({"3.weight": torch.ones(2)})),
        ("size mismatch for 2.weight", lambda s: s.update({"2.weight": torch.ones(2)})),
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


class Masks(nn.Module):
    """A module with buffers of its own whose names end as ours do."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.register_buffer("causal_mask", torch.ones(2, 2))
        self.register_buffer("table_orig", torch.ones(2))
        self.register_buffer("table_mask", torch.full((2,), 0.5))

    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        if state != {"version": 1}:
            raise RuntimeError("unknown version")


def test_buffers_that_end_in_mask_or_orig_are_values_like_any_other():
    source = Masks()
    source.causal_mask.fill_(0.25)
    ours.l1_unstructured(source.fc, "weight", 2)
    model = load_pruned(Masks(), source.state_dict())
    assert torch.equal(model.fc.weight, source.fc.weight)
    assert torch.equal(model.causal_mask, source.causal_mask)
    assert torch.equal(model.table_mask, source.table_mask)
    assert "attn_mask" in to_dense({"attn_mask": torch.ones(2)})


def test_a_load_that_fails_in_the_middle_leaves_the_values_too():
    source, model = Masks(), Masks()
    ours.l1_unstructured(source.fc, "weight", 2)
    state = {k: v for k, v in source.state_dict().items() if k != "_extra_state"} | {"_extra_state": {"version": 2}}
    before = {k: v.clone() for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}
    with pytest.raises(RuntimeError, match="unknown version"):
        load_pruned(model, state)
    assert not ours.is_pruned(model)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())


class Picky(nn.Module):
    """Its state dict leaves a part out; it loads that part all the same, and then refuses what it does not know."""

    def __init__(self):
        super().__init__()
        self.head, self.frozen = nn.Linear(3, 2), nn.Linear(2, 2)
        self.register_buffer("steps", torch.zeros(1), persistent=False)

    def state_dict(self, *args, **kwargs):
        return {k: v for k, v in super().state_dict(*args, **kwargs).items() if not k.startswith("frozen")}

    def load_state_dict(self, state_dict, *args, **kwargs):
        self.steps.add_(1)
        unknown = super().load_state_dict(state_dict, strict=False).unexpected_keys
        if unknown:
            raise RuntimeError(f"unknown {unknown}")


def test_a_failed_load_puts_back_what_no_state_dict_shows():
    model = Picky()
    before = [t.clone() for t in (*model.parameters(), *model.buffers())]
    with pytest.raises(RuntimeError, match="unknown"):
        load_pruned(model, {"frozen.weight": torch.zeros(2, 2), "head.weight": torch.zeros(2, 3), "zz": torch.ones(1)})
    assert all(torch.equal(a, b) for a, b in zip((*model.parameters(), *model.buffers()), before))


def test_pruned_parts_of_a_parametrization():
    def net():
        torch.manual_seed(1)
        return nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))

    source = net()
    ours.l1_unstructured(source.parametrizations.weight, "original1", 3)
    model = load_pruned(net(), source.state_dict())
    assert torch.equal(model.weight, source.weight)


def test_lazy_and_empty_modules():
    model, source = nn.Sequential(nn.Linear(3, 3), nn.LazyLinear(2)), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    ours.l1_unstructured(source[0], "weight", 2)
    load_pruned(model, source.state_dict())
    assert int((model[0].weight == 0).sum()) == 2
    state = ours.l1_unstructured(nn.Linear(3, 3), "weight", 2).state_dict()
    with pytest.raises(ValueError, match="no values yet"):
        load_pruned(nn.Linear(3, 3, device="meta"), state)


def test_converters_keep_the_versions_of_modules():
    state = ours.l1_unstructured(nn.Linear(3, 2), "weight", 2).state_dict()
    dense = to_dense(state)
    assert dense._metadata == state._metadata
    assert to_pruned(dense, {"weight": torch.ones(2, 3)})._metadata == state._metadata


def test_one_module_under_two_names():
    def shared():
        model = nn.Module()
        model.a = model.b = nn.Linear(3, 2)
        return model

    source = shared()
    ours.l1_unstructured(source.a, "weight", 2)
    model = load_pruned(shared(), source.state_dict())
    assert torch.equal(model.b.weight, source.b.weight)
    assert len(model.a._forward_pre_hooks) == 1


def test_converters_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="half a pair: \\['a_orig'\\]"):
        to_dense({"a_orig": torch.ones(2)})
    with pytest.raises(ValueError, match="lacks: \\['b'\\]"):
        to_pruned({"a": torch.ones(2)}, {"b": torch.ones(2)})
    with pytest.raises(ValueError, match="already has \\['w_mask'\\]"):
        to_pruned({"w": torch.ones(2), "w_mask": torch.ones(2)}, {"w": torch.ones(2)})
    with pytest.raises(ValueError, match="already has \\['w'\\]"):
        to_dense({"w": torch.ones(2), "w_orig": torch.ones(2), "w_mask": torch.ones(2)})
    with pytest.raises(ValueError, match="shape"):
        to_pruned({"a": torch.ones(2)}, {"a": torch.ones(3)})

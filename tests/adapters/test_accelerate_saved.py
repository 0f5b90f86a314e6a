"""Replaced layers are copied, saved and loaded; those of two in four are packed when they have changed."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sparse_layers import FAST, ROWS, net
from torch import nn

from masklib.adapters.accelerate import TwoOfFour, _semi, accelerate, restore


def test_replaced_layers_are_copied_pickled_and_moved():
    model, inputs = net()
    fast, _ = accelerate(model, inputs, timer=FAST)
    expected = fast(*inputs)
    file = io.BytesIO()
    torch.save(fast, file)
    file.seek(0)
    for twin in (copy.deepcopy(fast), torch.load(file, weights_only=False)):
        torch.testing.assert_close(twin(*inputs), expected, rtol=0, atol=0)
        twin[0].values.zero_()  # tensors of its own, and what is written to them is seen
        assert not torch.equal(twin(*inputs), expected)
    torch.testing.assert_close(fast(*inputs), expected, rtol=0, atol=0)
    torch.testing.assert_close(fast.double()(inputs[0].double()).float(), expected)


def test_state_is_plain_tensors_that_load_into_a_model_of_other_values(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    model, inputs = net()
    fast, _ = accelerate(model, inputs, timer=ROWS)
    safetensors.save_file(fast.state_dict(), tmp_path / "fast.safetensors")
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    loaded = restore(other, safetensors.load_file(tmp_path / "fast.safetensors"))
    torch.testing.assert_close(loaded(*inputs), fast(*inputs), rtol=0, atol=0)
    assert loaded[0].rows_first
    assert isinstance(other[0], nn.Linear)


@pytest.mark.parametrize("name", ["crow_indices", "col_indices", "values"])
def test_state_that_would_read_beyond_memory_is_refused(name):
    model, inputs = net()
    state = accelerate(model, inputs, timer=FAST)[0].state_dict()
    for wrong in (state[f"0.{name}"] + 1000, state[f"0.{name}"][:-1]):
        if name != "values" or len(wrong) < len(state[f"0.{name}"]):
            with pytest.raises(ValueError, match="is no sparse matrix"):
                restore(model, {**state, f"0.{name}": wrong})


def test_layers_of_two_in_four_are_packed_once_and_anew_when_they_change(monkeypatch):
    packs = []
    monkeypatch.setattr(_semi, "pack", lambda weight: packs.append(1) or weight.clone())
    layer = TwoOfFour(nn.Linear(8, 4))
    assert layer.packed() is layer.packed()
    assert len(packs) == 1
    layer.weight.mul_(2)
    assert torch.equal(layer.packed(), layer.weight)
    assert torch.equal(copy.deepcopy(layer).packed(), layer.weight)
    assert torch.equal(layer.double().packed(), layer.weight)
    assert len(packs) == 4
    loaded = restore(nn.Sequential(nn.Linear(8, 4)), nn.Sequential(layer.float()).state_dict())
    assert isinstance(loaded[0], TwoOfFour)
    assert torch.equal(loaded[0].weight, layer.weight)


@given(st.lists(st.lists(st.booleans(), min_size=8, max_size=8), min_size=1, max_size=4))
def test_two_of_four_by_hand(rows):
    expected = all(sum(row[start : start + 4]) <= 2 for row in rows for start in (0, 4))
    assert _semi.is_two_of_four(torch.tensor(rows).float()) == expected

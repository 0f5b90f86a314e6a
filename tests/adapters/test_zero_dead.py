"""Zeroing in place what a mask kills: in every dtype and layout, to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import masklib.adapters._module.stepping as stepping
from masklib.adapters._module.stepping import zero_dead

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.float8_e4m3fn]
LAYOUTS = {
    "whole": lambda t: t.clone(),
    "transposed": lambda t: t.clone().transpose(0, 1).contiguous().transpose(0, 1),
    "channels last": lambda t: t.clone(memory_format=torch.channels_last),
    "every second": lambda t: t.repeat_interleave(2, dim=-1)[..., ::2],
    "a part": lambda t: torch.cat([t, t])[len(t) :],
    "empty": lambda t: t[:0].clone(),
    "a parameter": lambda t: nn.Parameter(t.clone()),
}


def numbers(dtype):
    values = torch.randn(4, 3, 2, 6, generator=torch.Generator().manual_seed(0))
    values[0, 0, 0] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 0.0, 1e-40])
    values[1, 1, 1] = values[0, 0, 0]
    return values.to(dtype)


def bits(tensor):
    return tensor.detach().contiguous().view(torch.uint8)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("other", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_lives_keeps_its_bits_and_what_is_dead_is_plus_zero(dtype, layout, other):
    mask = torch.rand(4, 3, 2, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[0, 0], mask[1, 1] = False, True
    if layout is LAYOUTS["empty"] or other is LAYOUTS["empty"]:
        layout = other = LAYOUTS["empty"]
    tensor, kept = layout(numbers(dtype)), other(mask) if other is not LAYOUTS["a parameter"] else mask
    expected = tensor.detach().clone().contiguous()
    expected.view(torch.uint8).view(*kept.shape, tensor.itemsize)[~kept] = 0
    zero_dead((tensor, kept))
    assert torch.equal(bits(tensor), bits(expected))


def test_a_number_alone_and_several_at_once():
    tensors = [torch.tensor(2.0), torch.tensor(3.0), torch.ones(3, dtype=torch.complex64), torch.ones(2)]
    masks = [torch.tensor(True), torch.tensor(False), torch.tensor([True, False, True]), torch.tensor([False, True])]
    zero_dead(*zip(tensors, masks))
    assert [t.tolist() for t in tensors] == [2.0, 0.0, [1, 0, 1], [0.0, 1.0]]
    zero_dead()


def test_autograd_knows_of_it():
    leaf = torch.ones(3, requires_grad=True)
    product = (leaf * leaf).sum()
    zero_dead((leaf, torch.tensor([True, False, True])))
    assert leaf.requires_grad
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_threads_make_no_difference(monkeypatch):
    monkeypatch.setattr("masklib.selection._threads._GRAIN", 10)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    tensors, masks = torch.randn(7, 40).unbind(), (torch.rand(7, 40) < 0.5).unbind()
    expected = [torch.where(m, t, 0) for t, m in zip(tensors, masks)]
    stepping.zero_dead(*zip(tensors, masks))
    assert all(torch.equal(t, e) for t, e in zip(tensors, expected))

"""Sparse layers on a GPU compute what the dense ones do, 2:4 on tensor cores too, and the table says what was tried."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import masklib as ml
from masklib.adapters.accelerate import SparseConv, SparseLinear, TwoOfFour, accelerate, restore

HALVES = (torch.float16, torch.bfloat16)


def pruned(layer, method=None):
    """A layer whose weight is pruned for good."""
    matrix = layer.weight.data.flatten(1)
    mask = (method or (lambda s: ml.l1_unstructured(s, amount=0.9)))(matrix)
    matrix.mul_(mask)
    return layer


def halved(layer):
    return pruned(layer, lambda s: ml.n_of_m(s.abs(), keep=2, of=4))


def close(got, expected, dtype):
    tolerance = {torch.float32: 1e-3, torch.float16: 5e-3, torch.bfloat16: 3e-2}[dtype]
    got, expected = got.detach(), expected.detach()
    assert got.shape == expected.shape
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    assert ((got.float() - expected.float()).abs() <= tolerance * scale).all()


@pytest.mark.parametrize("rows", [(), (1,), (7,), (64,), (2, 3), (0,)])
@pytest.mark.parametrize("rows_first", [True, False])
def test_sparse_linear_layers(rows, rows_first, gpu):
    layer = pruned(nn.Linear(128, 256)).to(gpu)
    x = torch.randn(*rows, 128, device=gpu)
    close(SparseLinear(layer, rows_first=rows_first)(x), layer(x), torch.float32)


@pytest.mark.parametrize("rows_first", [True, False])
def test_sparse_convolutions(rows_first, gpu):
    layer = pruned(nn.Conv2d(8, 16, 3, padding=1, stride=2)).to(gpu)
    x = torch.randn(2, 8, 9, 9, device=gpu)
    close(SparseConv(layer, rows_first=rows_first)(x), layer(x), torch.float32)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("rows", [(), (1,), (7,), (64,), (2, 3), (128,), (33, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_two_of_four(dtype, rows, bias, gpu):
    layer = halved(nn.Linear(128, 256, bias=bias)).to(gpu, dtype)
    x = torch.randn(*rows, 128, device=gpu, dtype=dtype)
    fast = TwoOfFour(layer).to(gpu)
    close(fast(x), layer(x), dtype)
    assert type(fast.packed()) is not torch.Tensor


def test_two_of_four_packs_anew_and_lets_gradients_through(gpu):
    layer = halved(nn.Linear(128, 256)).to(gpu, torch.float16)
    fast, x = TwoOfFour(layer), torch.randn(8, 128, device=gpu, dtype=torch.float16)
    before = fast(x)
    with torch.no_grad():
        fast.weight.mul_(2)
        fast.bias.mul_(2)
    close(fast(x), 2 * before, torch.float16)
    twin = copy.deepcopy(fast)
    close(twin(x), fast(x), torch.float16)
    x.requires_grad_()
    fast(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    close(fast.cpu()(x.detach().cpu()), (2 * before).cpu(), torch.float16)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_a_model_in_its_fastest_forms(dtype, gpu):
    torch.manual_seed(0)
    model = nn.Sequential(
        halved(nn.Linear(256, 1024)), nn.ReLU(), pruned(nn.Linear(1024, 512)), nn.ReLU(), nn.Linear(512, 8)
    ).to(gpu, dtype)
    x = torch.randn(256, 256, device=gpu, dtype=dtype)

    def timer(calls):
        """The last form that runs is the fastest: 2:4 where there is one."""
        for call in calls.values():
            call()
        return {name: 1.0 / (1 + i) for i, name in enumerate(calls)}

    fast, table = accelerate(model, (x,), timer=timer)
    forms = {name: layer.form for name, layer in table.layers.items()}
    if dtype != torch.float32:
        assert forms["0"] == "2:4", str(table)
    assert forms["2"] != "dense", str(table)
    close(fast(x), model(x), dtype)
    again = restore(model, fast.state_dict())
    close(again(x), fast(x), dtype)  # products on a GPU add in any order
    if dtype == torch.float32:  # torch has no sparse products of halves on the CPU
        there = restore(copy.deepcopy(model).cpu(), fast.state_dict())
        close(there(x.cpu()), model(x).cpu(), dtype)
    real, shown = accelerate(model, (x,))
    close(real(x), model(x), dtype)
    assert str(shown)

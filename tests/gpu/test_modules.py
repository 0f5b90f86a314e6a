"""Modules on a GPU are pruned as on the CPU: the same masks, to the bit, and nothing is left on another device."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

import masklib as ml
import masklib.adapters.prune as prune
from masklib.adapters import parametrize
from masklib.adapters.checkpoint import load_pruned, to_dense
from masklib.adapters.report import report

pytestmark = pytest.mark.filterwarnings("ignore:TensorFloat32")  # what torch.compile recommends
HALF = partial(ml.l1_unstructured, amount=0.5)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4 * 4, 10))


def images():
    return torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(1))


WAYS = {
    "smallest": lambda m: prune.l1_unstructured(m[3], "weight", 0.4),
    "filters": lambda m: prune.ln_structured(m[0], "weight", 0.25, n=2, dim=0),
    "random": lambda m: prune.random_unstructured(m[3], "weight", 30, key=7),
    "random rows": lambda m: prune.random_structured(m[3], "weight", 0.3, dim=1, key=7),
    "all together": lambda m: prune.global_unstructured(
        [(m[0], "weight"), (m[3], "weight")], prune.L1Unstructured, amount=0.5
    ),
    "twice": lambda m: [prune.l1_unstructured(m[3], "weight", 0.3) for _ in range(2)],
}


@pytest.mark.parametrize("way", WAYS)
def test_the_drop_in_has_the_same_masks(way, gpu):
    here, there = net(), net().to(gpu)
    WAYS[way](here)
    WAYS[way](there)
    masks = dict(there.named_buffers())
    assert masks.keys() == dict(here.named_buffers()).keys()
    assert all(m.is_cuda and torch.equal(m.cpu(), dict(here.named_buffers())[n]) for n, m in masks.items())
    there(images().to(gpu)).sum().backward()
    assert all(p.grad.is_cuda for p in there.parameters())


@pytest.mark.parametrize("pruner", [WAYS["smallest"], lambda m: parametrize.prune(m, HALF)])
def test_pruned_modules_move(pruner, gpu):
    model = net()
    pruner(model)
    expected = model(images())
    assert torch.allclose(model.to(gpu)(images().to(gpu)).cpu(), expected, atol=1e-5)
    assert all(t.is_cuda for t in model.state_dict().values())
    twin = copy.deepcopy(model)
    assert torch.equal(model.cpu()(images()), expected)
    assert all(t.is_cuda for t in twin.state_dict().values())


def test_what_is_pruned_there_is_loaded_here(gpu):
    model = net().to(gpu)
    WAYS["smallest"](model)
    dense = to_dense(model.state_dict())
    assert dense.keys() == net().state_dict().keys()
    assert all(t.is_cuda for t in dense.values())
    fresh = net()
    load_pruned(fresh, model.state_dict())
    assert torch.equal(fresh[3].weight, model[3].weight.cpu())


def test_models_over_two_devices_are_ranked_together(gpu):
    here, there = net(), net()
    there[3].to(gpu)
    expected, masks = (HALF(dict(model.named_parameters())) for model in (here, there))
    assert [m.is_cuda for m in masks.values()] == [False, False, True, True]
    assert all(torch.equal(m.cpu(), expected[n]) for n, m in masks.items())
    with pytest.raises(ValueError, match="must be on one device"):
        WAYS["all together"](there)


def test_a_report_of_a_model_on_a_gpu(gpu):
    here, there = net(), net().to(gpu)
    for model in (here, there):
        WAYS["all together"](model)
    assert str(report(here)) == str(report(there))


def test_transforms_and_compilation(gpu):
    model = net().to(gpu)
    params, x = dict(model.named_parameters()), images().to(gpu)
    masks = ml.l1_unstructured(params, amount=0.5)

    def loss(params, x):
        return functional_call(model, ml.apply(params, masks), x).square().sum()

    grads = grad(loss)(params, x)
    assert all((g[~masks[n]] == 0).all() for n, g in grads.items())
    each = vmap(grad(loss), (None, 0))(params, x[:, None])
    assert all(torch.allclose(g.sum(0), grads[n], rtol=1e-3, atol=1e-3) for n, g in each.items())
    method = partial(ml.l1_unstructured, amount=0.5)
    assert all(torch.equal(m, masks[n]) for n, m in torch.compile(method)(params).items())
    assert torch.allclose(torch.compile(loss)(params, x), loss(params, x), rtol=1e-4)


def test_methods_draw_the_same_under_a_default_device(gpu):
    weight = torch.randn(40, 30)
    expected = ml.random_unstructured(weight, key=3, amount=0.5), ml.l1_unstructured(weight, amount=0.5)
    with gpu:
        inside = ml.random_unstructured(weight, key=3, amount=0.5), ml.l1_unstructured(weight, amount=0.5)
    assert all(not a.is_cuda and torch.equal(a, b) for a, b in zip(inside, expected))


def test_masks_apply_in_a_captured_graph(gpu):
    weight = torch.randn(64, 64, device=gpu)
    mask, x = ml.l1_unstructured(weight, amount=0.5), torch.randn(8, 64, device=gpu)
    ml.apply(weight, mask) @ x.T  # warm
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = ml.apply(weight, mask) @ x.T
    graph.replay()
    torch.cuda.synchronize()
    assert torch.allclose(out, (weight * mask) @ x.T, atol=1e-4)


SIZES = (1, 12, 13, 1000, 2**21, 2**21 + 1, 3 * 2**22 + 5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["normal", "ties", "equal", "sorted", "half dead"])
def test_pools_of_any_size(size, kind, gpu):
    """Sorted whole up to some millions, cut in a few passes above; as one tensor and as many."""
    scores = torch.randn(size, generator=torch.Generator().manual_seed(size))
    scores = {"ties": lambda s: s.round(), "equal": torch.ones_like, "sorted": lambda s: s.sort().values}.get(
        kind, lambda s: s
    )(scores)
    alive = torch.rand(size, generator=torch.Generator().manual_seed(1)) < 0.5 if kind == "half dead" else None
    there = None if alive is None else alive.to(gpu)
    for amount in (0.0, 0.3, 0.5, 0.999, 1.0):
        expected = ml.compute_mask(scores, alive, amount=amount)
        assert torch.equal(ml.compute_mask(scores.to(gpu), there, amount=amount).cpu(), expected)
        many = {f"{i:02}": part for i, part in enumerate(scores.split(max(1, size // 7)))}
        lives = None if alive is None else dict(zip(many, alive.split(max(1, size // 7))))
        masks = ml.compute_mask(
            {n: t.to(gpu) for n, t in many.items()},
            None if lives is None else {n: t.to(gpu) for n, t in lives.items()},
            amount=amount,
        )
        assert torch.equal(torch.cat([m.cpu() for m in masks.values()]), expected)


@pytest.mark.parametrize("shape", [(1000, 12), (1000, 13), (333, 64), (64, 5000), (3, 70000), (1, 40)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.int64, torch.float64])
def test_rows_of_any_length(shape, dtype, gpu):
    scores = (3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    alive = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.7
    for mask in (None, alive):
        there = None if mask is None else mask.to(gpu)
        for number in ({"amount": 0.5}, {"sparsity": 0.8}, {"keep": 3}):
            expected = ml.compute_mask(scores, mask, groups=ml.rows(), **number)
            assert torch.equal(ml.compute_mask(scores.to(gpu), there, groups=ml.rows(), **number).cpu(), expected)

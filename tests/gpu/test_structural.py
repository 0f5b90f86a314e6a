"""Networks on a GPU become smaller there, and compute what the masked ones do."""

from __future__ import annotations

import pytest
import torch
import zoo
from torch.func import functional_call
from torch.utils import _pytree as pytree

import masklib as ml
from masklib.adapters import depth
from masklib.adapters.structural import count, shrink, shrink_optimizer, structure

pytestmark = pytest.mark.filterwarnings("ignore:the config of")


def on(tree, device):
    return pytree.tree_map_only(torch.Tensor, lambda t: t.to(device), tree)


def first(model, inputs, params=None):
    args, kwargs = ((), inputs | {"use_cache": False}) if isinstance(inputs, dict) else (inputs, {})
    out = model(*args, **kwargs) if params is None else functional_call(model, params, args, kwargs)
    return next(leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, torch.Tensor))


@pytest.mark.parametrize("name", ["mlp", "vgg", "resnet", "mobilenet", "unet", "llama", "qwen3", "gpt2", "mixtral"])
def test_a_cut_on_a_gpu(name, gpu):
    model, inputs = zoo.build(name)
    here = structure(model, inputs)
    model, inputs = model.to(gpu), on(inputs, gpu)
    found = structure(model, inputs)
    assert str(found) == str(here)
    params = {n: p.detach() for n, p in model.named_parameters()}
    scores = {n: params[n] for n in found.names}
    masks = ml.compute_mask(scores, sparsity=0.4, groups=found.groups(p=2, mean=True), least=1)
    on_cpu = ml.compute_mask(on(scores, "cpu"), sparsity=0.4, groups=here.groups(p=2, mean=True), least=1)
    assert all(m.is_cuda and torch.equal(m.cpu(), on_cpu[n]) for n, m in masks.items())
    small = shrink(model, masks, found)
    expected = first(model, inputs, params | ml.apply(scores, masks))
    assert all(t.is_cuda for t in small.state_dict().values())
    torch.testing.assert_close(first(small, inputs), expected, rtol=1e-5, atol=1e-5)
    assert count(found, masks) == count(here, on_cpu)


def test_the_optimizer_of_a_smaller_model_on_a_gpu(gpu):
    model, inputs = zoo.build("vgg")
    model, inputs = model.to(gpu), on(inputs, gpu)
    found = structure(model, inputs)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    first(model, inputs).square().sum().backward()
    optimizer.step()
    masks = ml.compute_mask(
        {n: p.detach() for n, p in model.named_parameters() if n in found.names},
        sparsity=0.4, groups=found.groups(p=2, mean=True), least=1,
    )  # fmt: skip
    small = shrink(model, masks, found)
    smaller = shrink_optimizer(optimizer, model, small, masks=masks, structure=found)
    first(small, inputs).square().sum().backward()
    smaller.step()
    assert all(torch.isfinite(p).all() for p in small.parameters())


def test_blocks_are_measured_and_dropped_on_a_gpu(gpu):
    model, inputs = zoo.build("llama")
    here = depth.measure(model, [inputs])
    model, inputs = model.to(gpu), on(inputs, gpu)
    there = depth.measure(model, [inputs])
    assert str(here) == str(there)

"""Recipes for what is sparse already: fine-tuning, LoRA with peft, quantisation while training and after it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from training_tasks import OPTIMIZERS, batch, loss_of, train

import masklib as ml
from masklib import updates
from masklib.adapters import weights
from masklib.adapters.training import attach


def sparse_net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))
    masks = ml.l1_unstructured(weights(model), amount=0.7)
    model.load_state_dict(ml.apply(model.state_dict(), masks))
    return model, masks


def assert_as_sparse(model, masks):
    params = dict(model.named_parameters())
    assert all(torch.equal(params[n] != 0, mask) for n, mask in masks.items())


def test_a_sparse_checkpoint_is_fine_tuned_under_its_own_zeros():
    model, masks = sparse_net()
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    zeros = {name: p != 0 for name, p in weights(model).items()}
    attach(optimizer, model, updates.static(ml.custom_from_mask, mask=zeros))
    train(model, optimizer, range(5))
    assert_as_sparse(model, masks)


# ---- LoRA -----------------------------------------------------------------------------------------------------------


def masked_delta(mask):
    """A forward hook for a LoRA layer of peft: it computes W + mask * BA, as the merged layer will."""

    def hook(layer, args, output):
        return output - F.linear(args[0], layer.get_delta_weight("default") * ~mask)

    return hook


@pytest.fixture
def lora():
    peft = pytest.importorskip("peft")
    model, masks = sparse_net()
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["0", "2"], init_lora_weights=False))
    return adapted, masks


def fit(adapted):
    optimizer = OPTIMIZERS["AdamW"]([p for p in adapted.parameters() if p.requires_grad])
    before = loss_of(adapted(batch(0))).item()
    train(adapted, optimizer, range(10))
    assert loss_of(adapted(batch(0))).item() < before


def test_merging_alone_loses_the_zeros(lora):
    adapted, masks = lora
    fit(adapted)
    merged = adapted.merge_and_unload()
    assert all(bool(p.all()) for n, p in merged.named_parameters() if n in masks)


def test_a_masked_delta_is_trained_merged_and_stays_sparse(lora):
    adapted, masks = lora
    for name, mask in masks.items():
        adapted.base_model.model.get_submodule(name.rpartition(".")[0]).register_forward_hook(masked_delta(mask))
    fit(adapted)
    expected = adapted(batch(3))
    merged = adapted.merge_and_unload()
    merged.load_state_dict(ml.apply(merged.state_dict(), masks))  # W + mask * BA, as W = mask * W
    assert_as_sparse(merged, masks)
    torch.testing.assert_close(merged(batch(3)), expected)


def test_without_the_hook_the_merged_model_is_another_one(lora):
    adapted, masks = lora
    fit(adapted)
    expected = adapted(batch(3))
    merged = adapted.merge_and_unload()
    merged.load_state_dict(ml.apply(merged.state_dict(), masks))
    assert_as_sparse(merged, masks)
    assert (merged(batch(3)) - expected).abs().max() > 0.01


# ---- quantisation ---------------------------------------------------------------------------------------------------


deprecated = pytest.mark.filterwarnings("ignore")  # torch says that its quantisation moves to torchao


class FakeQuantized(nn.Linear):
    """Weights of 8 bits in the forward pass, the straight-through estimator in the backward pass."""

    def forward(self, x):
        scale = float(self.weight.detach().abs().max()) / 127
        return F.linear(x, torch.fake_quantize_per_tensor_affine(self.weight, scale, 0, -128, 127), self.bias)


def test_plain_fake_quantisation_keeps_zeros():
    torch.manual_seed(0)
    model = nn.Sequential(FakeQuantized(8, 12), nn.ReLU(), FakeQuantized(12, 4))
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    pruning = attach(optimizer, model, updates.gradual(ml.l1_unstructured, ml.schedules.linear(0.5, stop=6, every=2)))
    train(model, optimizer, range(10))
    for name, mask in pruning.masks.items():
        weight = model.get_parameter(name).detach()
        quantised = torch.fake_quantize_per_tensor_affine(weight, float(weight.abs().max()) / 127, 0, -128, 127)
        assert not quantised[~mask].any()
    assert ml.sparsity(pruning.masks) == 0.5


@deprecated
def test_quantisation_aware_training_of_torch_keeps_zeros_into_int8():
    quantization = pytest.importorskip("torch.ao.quantization")
    torch.manual_seed(0)
    layers = quantization.QuantStub(), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4), quantization.DeQuantStub()
    model = nn.Sequential(*layers)
    model.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    prepared = quantization.prepare_qat(model.train())
    optimizer = OPTIMIZERS["SGD"](prepared.parameters())
    pruning = attach(optimizer, prepared, updates.static(ml.l1_unstructured, amount=0.6))
    assert list(pruning.masks) == ["1.weight", "3.weight"]
    train(prepared, optimizer, range(8))
    converted = quantization.convert(prepared.eval())
    for name, mask in pruning.masks.items():
        assert not converted.get_submodule(name.split(".")[0]).weight().int_repr()[~mask].any()


@deprecated
def test_dynamic_quantisation_after_training_keeps_zeros():
    quantization = pytest.importorskip("torch.ao.quantization")
    model, masks = sparse_net()
    converted = quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    for name, mask in masks.items():
        assert not converted.get_submodule(name.split(".")[0]).weight().dequantize()[~mask].any()

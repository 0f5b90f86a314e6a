"""Pruned modules in the hands of torch: compile, export, functional calls, copies, distributed training, baking."""

from __future__ import annotations

import pytest
import torch
from prunings import hook_of
from torch import nn
from torch.func import functional_call, grad, vmap

import masklib.adapters.prune as prune


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# ---- hosts ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def model():
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    prune.global_unstructured(net, prune.L1Unstructured, amount=0.5)
    prune.random_unstructured(net[0], "weight", 3)
    return net


@pytest.mark.parametrize(
    "fullgraph",
    [
        False,
        pytest.param(
            True, marks=pytest.mark.skipif(torch.__version__ < "2.7", reason="Dynamo of 2.6 reads no descriptor")
        ),
    ],
)
def test_compile(model, fullgraph):
    x = torch.randn(4, 6)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(model, fullgraph=fullgraph, backend="aot_eager")(x), model(x))


def test_export_and_fx(model):
    x = torch.randn(4, 6)
    expected = model(x)
    assert torch.equal(torch.export.export(model, (x,), strict=False).module()(x), expected)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_jit_trace(model):
    x = torch.randn(4, 6)
    assert torch.equal(torch.jit.trace(model, x)(x), model(x))
    torch.jit.script(nn.Linear(3, 3))


def test_functional_call_vmap_and_grad(model):
    params = dict(model.named_parameters())
    x = torch.randn(4, 6)

    def loss(params):
        return functional_call(model, params, (x,)).square().mean()

    grads = grad(loss)(params)
    assert grads["0.weight_orig"][model[0].weight_mask == 0].abs().sum() == 0
    stacked = {n: torch.stack([p, 2 * p]).detach() for n, p in params.items()}
    losses = vmap(loss)(stacked)
    torch.testing.assert_close(losses[0], loss(params).detach())
    assert all(p.requires_grad for p in model.parameters())


def test_averaging_and_sharing(model):
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    torch.testing.assert_close(average.module(torch.ones(1, 6)), model(torch.ones(1, 6)))
    model.share_memory()
    assert model[0].weight_orig.is_shared()


def test_state_dicts_round_trip(model, tmp_path):
    torch.save(model, tmp_path / "model.pt")
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    other = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    for module in (other[0], other[2]):
        prune.identity(module, "weight")
    other.load_state_dict(model.state_dict())
    x = torch.randn(3, 6)
    assert torch.equal(again(x), model(x))
    assert torch.equal(other(x), model(x))
    assert len(hook_of(again[0])) == 2


def test_weight_norm_and_user_hooks_beside_it():
    module = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    with pytest.raises(TypeError, match="must name a parameter"):
        prune.l1_unstructured(module, "weight", 1)
    prune.l1_unstructured(module.parametrizations.weight, "original1", 1)
    module(torch.ones(1, 4)).sum().backward()


def test_the_fast_path_of_a_transformer_layer_sees_the_pruned_weight():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).eval()
    x = torch.randn(2, 3, 8)
    prune.l1_unstructured(layer.linear1, "weight", 0.5)
    layer.linear1.weight_orig.data.zero_()
    layer.linear1.bias.data.zero_()
    with torch.inference_mode():
        got = layer(x)
    torch.testing.assert_close(got, layer.train()(x).detach())


# ---- baking ---------------------------------------------------------------------------------------------------------


def test_bake_returns_a_clean_copy(model):
    clean = prune.bake(model)
    x = torch.randn(3, 6)
    assert torch.equal(clean(x), model(x))
    assert prune.is_pruned(model)
    assert not prune.is_pruned(clean)
    assert list(clean.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


@pytest.mark.filterwarnings("ignore")
def test_scripting_fusion_and_quantisation_work_or_say_what_to_do(model):
    x = torch.randn(3, 6)
    with pytest.raises(AttributeError, match=r"prune\.bake"):
        torch.jit.script(model)
    assert torch.equal(torch.jit.script(prune.bake(model))(x), model(x))
    conv, norm = nn.Conv2d(2, 3, 3).eval(), nn.BatchNorm2d(3).eval()
    prune.l1_unstructured(conv, "weight", 5)
    with pytest.raises(AttributeError, match="remove"):
        torch.nn.utils.fusion.fuse_conv_bn_eval(conv, norm)
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    assert type(quantized[0]) is not nn.Linear
    torch.testing.assert_close(quantized(x), model(x), atol=0.1, rtol=0.1)
    fused = torch.nn.utils.fusion.fuse_conv_bn_eval(prune.bake(conv), norm)
    torch.testing.assert_close(fused(torch.ones(1, 2, 5, 5)), norm(conv(torch.ones(1, 2, 5, 5))))


def test_assigning_a_parameter_while_pruned_is_refused():
    module = prune.l1_unstructured(nn.Linear(3, 3), "weight", 2)
    with pytest.raises(AttributeError, match="weight_orig"):
        module.weight = nn.Parameter(torch.ones(3, 3))
    for value in (nn.Identity(), torch.ones(3, 3), None):
        with pytest.raises(AttributeError, match="or work on bake"):
            module.weight = value
    nn.Linear(3, 3).weight = nn.Parameter(torch.ones(3, 3))
    module.child = nn.Identity()
    assert (module.weight == 0).sum() == 2
    assert list(module._modules) == ["child"]


def test_devices_of_one_pool_must_agree():
    a, b = nn.Linear(3, 3), nn.Linear(3, 3, device="meta")
    with pytest.raises(ValueError, match="one device"):
        prune.global_unstructured([(a, "weight"), (b, "weight")], prune.L1Unstructured, amount=2)
    assert not prune.is_pruned(a)


def test_distributed_data_parallel(model, tmp_path):
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    try:
        parallel = nn.parallel.DistributedDataParallel(model)
        parallel(torch.randn(4, 6)).sum().backward()
        assert model[0].weight_orig.grad[model[0].weight_mask == 0].abs().sum() == 0
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        sharded = nn.Linear(4, 4)
        sharded.weight = nn.Parameter(torch.distributed.tensor.distribute_tensor(sharded.weight.detach(), mesh))
        whole = prune.l1_unstructured(
            nn.Linear(4, 4), "weight", 2, importance_scores=sharded.weight.detach().full_tensor()
        )
        prune.l1_unstructured(sharded, "weight", 2)
        assert torch.equal(sharded.weight_mask.full_tensor(), whole.weight_mask)
    finally:
        torch.distributed.destroy_process_group()


def test_a_structured_call_on_a_pruned_vector_is_refused():
    module = prune.l1_unstructured(nn.Linear(4, 3), "bias", 1)
    with pytest.raises(ValueError, match="multidimensional"):
        prune.ln_structured(module, "bias", 1, n=2, dim=0)
    assert (module.bias_mask == 0).sum() == 1

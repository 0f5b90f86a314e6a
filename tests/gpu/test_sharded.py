"""One rank with NCCL: what is sharded over GPUs has the masks of the whole model."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

import masklib as ml
import masklib.adapters.prune as prune
from masklib.adapters.training import attach

HALF = partial(ml.l1_unstructured, amount=0.5)


@pytest.fixture
def mesh(tmp_path):
    if not dist.is_nccl_available():
        pytest.skip("needs NCCL")
    torch.cuda.set_device(0)
    dist.init_process_group(
        "nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1, device_id=torch.device("cuda:0")
    )
    try:
        yield init_device_mesh("cuda", (1,))
    finally:
        dist.destroy_process_group()


METHODS = {
    "smallest": HALF,
    "rows": partial(ml.compute_mask, amount=0.5, groups=ml.rows()),
    "channels": partial(ml.compute_mask, amount=2, groups=ml.channels(0, p=2)),
    "2:4": partial(ml.n_of_m, keep=2, of=4),
    "random": partial(ml.random_unstructured, key=5, amount=0.5),
}


@pytest.mark.parametrize("method", METHODS)
def test_methods_on_sharded_tensors(method, mesh):
    weight = torch.randn(8, 12, generator=torch.Generator().manual_seed(0))
    expected = METHODS[method](weight)
    mask = METHODS[method](distribute_tensor(weight.cuda(), mesh, [Shard(0)]))
    assert isinstance(mask, DTensor)
    assert mask.to_local().is_cuda
    assert torch.equal(mask.full_tensor().cpu(), expected)


def test_a_model_under_fsdp(mesh):
    def net():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).cuda()

    whole, parts = net(), net()
    fully_shard(parts[0], mesh=mesh)
    fully_shard(parts[2], mesh=mesh)
    fully_shard(parts, mesh=mesh)
    masks = []
    for model in (whole, parts):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        pruning = attach(optimizer, model, ml.updates.gradual(HALF_LAYERS, ml.schedules.cubic(0.75, stop=4, every=2)))
        for _ in range(6):
            model(torch.ones(4, 8, device="cuda")).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        masks.append(pruning.masks)
    full = {n: m.full_tensor() for n, m in masks[1].items()}
    assert all(torch.equal(m, full[n]) for n, m in masks[0].items())


HALF_LAYERS = ml.layerwise(ml.l1_unstructured)


def test_the_drop_in_under_fsdp(mesh):
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4)).cuda()
    expected = [HALF(layer.weight.detach()) for layer in model]
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for layer in model:
        prune.l1_unstructured(layer, "weight", 0.5)
    model(torch.ones(2, 8, device="cuda")).sum().backward()
    assert all(torch.equal(layer.weight_mask.full_tensor(), m) for layer, m in zip(model, expected))

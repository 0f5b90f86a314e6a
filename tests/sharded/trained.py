"""What ranks are asked about training under masks: meshes of all kinds beside the same loop on whole tensors."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from training_tasks import OPTIMIZERS, STEPS, UPDATES, batch, loss_of

import masklib as ml
from masklib import updates
from masklib.adapters.training import attach
from sharded.core import part

LIMITS = (0.05, 0.1, 0.15, 0.2)


def below(step, params, masks, grads):
    """An update of one's own, elementwise: what is small dies."""
    limit = LIMITS[min(step, len(LIMITS) - 1)]
    return {name: masks[name] & (p.abs() >= limit) for name, p in params.items()}


def revived(step, params, masks, grads):
    """What has a large gradient lives again."""
    return {name: (p.abs() >= 0.1) | (grads[name].abs() > 0.05) for name, p in params.items()}


MADE = {
    "gradual": updates.gradual(ml.l1_unstructured, ml.schedules.linear(0.6, stop=5, every=2)),
    "erk": updates.gradual(ml.l1_unstructured, ml.schedules.linear(0.6, stop=5, every=2), budget=ml.budgets.erk),
    "rigl": updates.rigl(sparsity=0.5, every=2, stop=5),
    "set": updates.set_(sparsity=0.5, every=2),
    "lottery": updates.lottery(ml.l1_unstructured, ml.schedules.exponential(0.4, every=2, stop=4), rewind=1),
    "ac/dc": updates.ac_dc(sparsity=0.5, start=1, sparse=2, dense=1, stop=5),
    "sr-ste": updates.straight_through(  # rows that 4 does not divide
        partial(ml.compute_mask, groups=ml.windows(4, ragged=True)), keep=1, decay=0.1
    ),
    "falling": updates.Update(below, lambda step: step in (0, 2, 4)),
    "growing": updates.Update(revived, lambda step: step in (1, 3), needs_grads=True),
    "through": updates.Update(revived, lambda step: step % 2 == 1, needs_grads=True, straight_through=True, decay=0.1),
}


def net(how):
    a, b, c = (5, 1, 3) if how == "data" else (6, 2, 4)  # parallelize_module wants equal parts
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, a), nn.Tanh(), nn.Linear(a, b), nn.Tanh(), nn.Linear(b, c)).double()


def train(model, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        loss_of(model(batch(step).double())).backward()
        optimizer.step()


PLANS = {
    "tensors": {"0": ColwiseParallel(), "2": RowwiseParallel(), "4": ColwiseParallel(output_layouts=Replicate())},
    "some": {"0": ColwiseParallel(), "2": RowwiseParallel()},  # the last layer is on another mesh, or whole
}


def begin(mesh, name, kind, how="data"):
    model = net(how)
    data = mesh if how == "data" else None
    if mesh is not None and how != "data":
        data = mesh["dp"] if mesh.ndim > 1 else None
        parallelize_module(model, mesh["tp"] if mesh.ndim > 1 else mesh, PLANS[how])
    for layer in (model[0], model[2], model[4], model) if data is not None else ():
        fully_shard(layer, mesh=data)
    optimizer = OPTIMIZERS[kind](model.parameters())
    return model, optimizer, attach(optimizer, model, MADE[name])


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def same_as_whole(mesh, name, kind, how="data"):
    """All ranks see one batch: a sharded run is the whole one, up to how gradients are averaged; resumed as well."""
    plain, sharded, again = (begin(m, name, kind, how) for m in (None, mesh, mesh))
    train(*plain[:2], range(6))
    train(*sharded[:2], range(3))
    for part_again, done in zip(again, sharded):
        part_again.load_state_dict(copy.deepcopy(done.state_dict()))  # optimizers train the tensors they load
    train(*sharded[:2], range(3, 6))
    train(*again[:2], range(3, 6))
    for run in (sharded, again):
        for key, mask in run[2].masks.items():
            assert isinstance(mask, DTensor) == isinstance(run[0].get_parameter(key), DTensor)
            assert torch.equal(whole(mask), plain[2].masks[key])
            param = run[0].get_parameter(key)
            assert not part(param.detach())[~part(mask)].any()
            torch.testing.assert_close(whole(param.detach()), plain[0].get_parameter(key).detach())
        assert run[2].report().kept == plain[2].report().kept
    assert int(ml.count(plain[2].masks)) < sum(mask.numel() for mask in plain[2].masks.values())


def replicated(mesh):
    """Masks and weights of a rank of DistributedDataParallel, whose gradients of half of the batches are not summed."""
    plain = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))  # each rank's own, until DDP makes them equal
    model = nn.parallel.DistributedDataParallel(plain, process_group=mesh.get_group())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    pruning, rank = attach(optimizer, model, UPDATES["rigl"]), mesh.get_local_rank()
    for step in range(STEPS):
        optimizer.zero_grad()
        with model.no_sync():
            loss_of(model(batch(2 * step + rank))).backward()
        loss_of(model(batch(100 + 2 * step + rank))).backward()
        optimizer.step()
    return [{n: t.tolist() for n, t in tensors.items()} for tensors in (pruning.masks, model.module.state_dict())]

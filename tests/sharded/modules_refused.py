"""What of modules is refused, on all ranks alike: a bad mask or number on one of them, and what shards cannot do."""

from __future__ import annotations

import pytest
import torch

import masklib.adapters.prune as prune
from masklib.adapters import parametrize
from masklib.adapters.checkpoint import to_dense
from sharded.core import equal
from sharded.modules import DropIn, inputs, net, shard, train


def bad_mask_on(mesh, rank, adapter):
    """One rank has a mask that holds more than 0 and 1, or none at all; nothing changes anywhere."""
    model = shard(net(), mesh)
    before = list(model.state_dict())
    mask = torch.ones_like(model[0].weight.detach())
    if mesh.get_rank() == rank:
        mask.to_local().fill_(0.5) if rank else None
        mask = mask if rank else "no mask"
    try:
        if adapter == "prune":
            prune.custom_from_mask(model[0], "weight", mask)
        else:
            parametrize.set_mask(model, "0.weight", mask)
    finally:
        assert list(model.state_dict()) == before
        torch.testing.assert_close(model(inputs(mesh)), net()(inputs(mesh)))


def written_on(mesh, rank, call):
    """One rank writes into its part of a mask: the next call is refused on all."""
    model = shard(net(), mesh)
    DropIn.halve(model)
    if mesh.get_rank() == rank:
        model[0].weight_mask.to_local().fill_(0.5)
    CALLS_AFTER[call](model)


CALLS_AFTER = {
    "masks": prune.masks,
    "remove": lambda model: prune.remove(model[0], "weight"),
    "prune": lambda model: prune.l1_unstructured(model[0], "weight", amount=1),
    "to_dense": lambda model: to_dense(model.state_dict()),
}


def bad_number_on(mesh, rank):
    """One rank has another amount, which is none; then one has no scores."""
    model, mine = shard(net(), mesh), mesh.get_rank() == rank
    for call in (
        lambda: prune.l1_unstructured(model[0], "weight", amount=1.5 if mine else 0.5),
        lambda: prune.global_unstructured(model, prune.L1Unstructured, amount=-1 if mine else 0.5),
        lambda: prune.l1_unstructured(model[0], "weight", 0.5, importance_scores="none" if mine else None),
    ):
        with pytest.raises((TypeError, ValueError), match=r"`amount`|`importance_scores`"):
            call()
    assert list(model.state_dict()) == list(net().state_dict())


def nan_on(mesh, rank):
    model = shard(net(), mesh)
    if mesh.get_rank() == rank:
        with torch.no_grad():
            model[0].weight.to_local()[0, 0] = torch.nan
    try:
        prune.l1_unstructured(model[0], "weight", amount=0.5)
    finally:
        assert list(model.state_dict()) == list(net().state_dict())


class Mine(prune.BasePruningMethod):
    """A method that wants to see what is alive."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t, default_mask):
        """Keep all."""
        return default_mask.clone()


def _half(model):
    DropIn.halve(model)
    return model


REFUSED = {
    "bake": (lambda model: prune.bake(_half(model)), "does not copy"),
    "a copy": (lambda model: parametrize.bake(model), "does not copy"),
    "a method that sees what is alive": (lambda model: Mine.apply(model[0], "weight"), "a method of the core"),
    "nuclear": (lambda model: prune.ln_structured(model[0], "weight", 1, "nuc", 0), "n=2"),
    "a plain mask": (lambda model: prune.custom_from_mask(model[0], "weight", torch.ones(5, 6)), "distribute_tensor"),
    "plain scores": (lambda model: prune.l1_unstructured(model[0], "weight", 1, torch.ones(5, 6)), "distribute_tensor"),
    "both": (
        lambda model: prune.random_unstructured(
            model[0], "weight", 1, generator=torch.Generator().manual_seed(0), key=0
        ),
        "one of them",
    ),
}


def refused(mesh, what):
    call, says = REFUSED[what]
    model = shard(net(), mesh)
    with pytest.raises((TypeError, ValueError), match=says):
        call(model)


def on_meta(mesh):
    """Modules without values are refused until they have some."""
    model = shard(net(device="meta"), mesh)
    with pytest.raises(ValueError, match="meta device"):
        prune.l1_unstructured(model[0], "weight", amount=0.5)
    model.to_empty(device="cpu")
    model.load_state_dict(shard(net(), mesh).state_dict())
    plain = net()
    for each in (model, plain):
        DropIn.halve(each)
    equal(prune.masks(model), prune.masks(plain))
    train(model, inputs(mesh))


def within_a_pass(mesh):
    """Pruning from within a forward pass of `fully_shard` is refused."""
    model = shard(net(), mesh)

    def in_between(*_):
        prune.l1_unstructured(model[0], "weight", amount=0.5)

    model[0].register_forward_pre_hook(in_between)
    with pytest.raises(ValueError, match="between steps"):
        model(inputs(mesh))

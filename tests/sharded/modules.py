"""What ranks are asked about modules: under DDP, FSDP2 and HSDP, by both adapters."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

import masklib as ml
import masklib.adapters.prune as prune
from masklib.adapters import parametrize, skipped, weights
from masklib.adapters.checkpoint import load_pruned, to_dense
from masklib.adapters.optimizer import keep_zero
from sharded.core import equal, like, part

LAYERS = (0, 2)  # of five rows, which are cut unevenly, and of one, of which most ranks have nothing
HALF = partial(ml.l1_unstructured, amount=0.5)


def net(**where):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5, **where), nn.Tanh(), nn.Linear(5, 1, **where))


def shard(model, mesh, **options):
    for i in LAYERS:
        fully_shard(model[i], mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def inputs(mesh, whole=False):
    """The rows of one batch that belong to this rank, or all of them."""
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    return x if whole else x.chunk(mesh.size())[mesh.get_rank()]


def train(model, x, steps=3, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


class DropIn:
    """Each layer on its own by the drop-in."""

    masks = staticmethod(prune.masks)

    @staticmethod
    def halve(model):
        for i in LAYERS:
            prune.l1_unstructured(model[i], "weight", amount=0.5)

    @staticmethod
    def remove(model):
        for i in LAYERS:
            prune.remove(model[i], "weight")

    @staticmethod
    def undo(model):
        for i in LAYERS:
            prune.undo(model[i], "weight")


class Parametrized:
    """The same by parametrizations."""

    masks, remove, undo = (staticmethod(f) for f in (parametrize.masks, parametrize.remove, parametrize.undo))

    @staticmethod
    def halve(model):
        parametrize.prune(model, ml.layerwise(HALF))


ADAPTERS = {"prune": DropIn, "parametrize": Parametrized}


def weights_of(model):
    return {f"{i}.weight": model[i].weight.detach() for i in LAYERS}


def close(result, expected):
    for name, value in expected.items():
        torch.testing.assert_close(part(result[name]), part(like(value, result[name])))


def trained(adapter):
    """What one process gets that has all of the batch: the masks, and the model."""
    model = net()
    adapter.halve(model)
    masks = adapter.masks(model)
    train(model, inputs(None, whole=True))
    return masks, model


# ---- the recipes of docs/recipes/fsdp2.md ----------------------------------------------------------------------------


def pruned(mesh, name, first):
    """Pruned before or after `fully_shard`, trained, made permanent."""
    adapter = ADAPTERS[name]
    expected, reference = trained(adapter)
    model = net()
    if first == "prune":
        adapter.halve(model)
    shard(model, mesh)
    if first == "shard":
        adapter.halve(model)
    train(model, inputs(mesh))
    masks = adapter.masks(model)
    assert all(isinstance(mask, DTensor) for mask in masks.values())
    equal(masks, expected)
    close(weights_of(model), weights_of(reference))
    outputs = model(inputs(mesh))  # after which the root keeps whole parameters
    adapter.remove(model)
    assert list(model.state_dict()) == list(net().state_dict())
    for key, weight in weights_of(model).items():
        assert isinstance(weight, DTensor)
        assert not part(weight)[~part(masks[key])].any()
    close(weights_of(model), weights_of(reference))
    torch.testing.assert_close(model(inputs(mesh)), outputs)


def held(mesh):
    """Plain parameters that an optimizer's hook keeps sparse: nothing is gathered but what `fully_shard` gathers."""
    expected, _ = trained(DropIn)
    reference, model = net(), shard(net(), mesh)
    for each, x in ((reference, inputs(None, whole=True)), (model, inputs(mesh))):
        optimizer = torch.optim.AdamW(each.parameters(), lr=0.01)
        DropIn.halve(each)
        keep_zero(optimizer, each)
        DropIn.remove(each)
        train(each, x, optimizer=optimizer)
    for key, weight in weights_of(model).items():
        assert not part(weight)[~part(like(expected[key], weight))].any()
    close(weights_of(model), weights_of(reference))


def replicated(mesh, name):
    """The same on plain ranks under DistributedDataParallel."""
    adapter = ADAPTERS[name]
    expected, reference = trained(adapter)
    model = net()
    adapter.halve(model)
    parallel = nn.parallel.DistributedDataParallel(model, process_group=mesh.get_group())
    train(parallel, inputs(mesh))
    equal(adapter.masks(model), expected)
    close(weights_of(model), weights_of(reference))
    return {key: mask.tolist() for key, mask in adapter.masks(model).items()}


# ---- chance ---------------------------------------------------------------------------------------------------------


def drawn_without_a_word(mesh):
    prune.random_unstructured(nn.Linear(4, 4), "weight", amount=0.5)


def drawn(mesh, how):
    """Random masks of plain modules, by what is given."""
    torch.manual_seed(mesh.get_rank())
    layer = nn.Linear(6, 5)
    prune.random_unstructured(layer, "weight", amount=0.3, **how)
    prune.random_structured(layer, "weight", amount=1, dim=0, **how)
    prune.global_unstructured(layer, prune.RandomUnstructured, amount=0.2, **how)
    return prune.masks(layer)["weight"].tolist()


def drawn_alike(mesh):
    """Without a key sharded modules agree on one; with a key they do what plain ones do."""
    torch.manual_seed(mesh.get_rank())
    plain, model = net(), shard(net(), mesh)
    prune.random_unstructured(model[0], "weight", amount=0.5)
    assert int(ml.count(prune.masks(model[0])["weight"])) == 15
    prune.undo(model[0], "weight")
    for each in (plain, model):
        prune.random_unstructured(each[0], "weight", amount=0.5, key=3)
        prune.random_structured(each[0], "weight", amount=1, dim=0, key=4)
        prune.global_unstructured(each, prune.RandomUnstructured, amount=0.2, key=5)
    equal(prune.masks(model), prune.masks(plain))
    hook = next(h for h in model[0]._forward_pre_hooks.values() if isinstance(h, prune.BasePruningMethod))
    equal({"": ml.fold(hook.history(), model[0].weight_orig)}, {"": prune.masks(plain)["0.weight"]})


# ---- what else a pruned module does ---------------------------------------------------------------------------------


def everything(mesh):
    """Global pruning, structures, masks of one's own, the history, state dicts, both ends: as of the plain module."""
    plain, model = net(), shard(net(), mesh)
    assert (list(weights(model)), skipped(model)) == (list(weights(plain)), skipped(plain))
    for each in (plain, model):
        prune.global_unstructured(each, prune.L1Unstructured, amount=0.3)
        prune.ln_structured(each[0], "weight", amount=1, n=2, dim=1)
        prune.apply(each[0], "weight", partial(ml.compute_mask, amount=1, groups=ml.channels(0, p=1)))
        prune.identity(each[2], "bias")
    equal(prune.masks(model), prune.masks(plain))
    hook = next(h for h in model[0]._forward_pre_hooks.values() if isinstance(h, prune.BasePruningMethod))
    equal({"": ml.fold(hook.history(), model[0].weight_orig)}, {"": prune.masks(plain)["0.weight"]})
    states = model.state_dict(), plain.state_dict()
    equal(*states)
    equal(*map(to_dense, states))
    for state in (states[0], to_dense(states[0])):
        again = load_pruned(shard(net(), mesh), state)
        close(weights_of(again), weights_of(plain))
        torch.testing.assert_close(again(inputs(mesh)), plain(inputs(mesh)))
    mask = prune.masks(model)["2.weight"]
    prune.set_mask(model[2], "weight", ml.complement(mask))
    equal({"": prune.masks(model)["2.weight"]}, {"": ~prune.masks(plain)["2.weight"]})
    DropIn.undo(model)
    equal(weights_of(model), weights_of(net()))


def by_methods_of_the_core(mesh):
    plain, model = net(), shard(net(), mesh)
    for each in (plain, model):
        parametrize.prune(each, partial(ml.l1_unstructured, amount=0.4))
        parametrize.prune(each, partial(ml.random_unstructured, amount=0.5, key=0), names=["0.weight"])
    equal(parametrize.masks(model), parametrize.masks(plain))
    equal(model.state_dict(), plain.state_dict())
    parametrize.set_mask(model, "0.weight", ml.dense(model[0].weight.detach()))
    assert all(part(mask).all() for name, mask in parametrize.masks(model).items() if name == "0.weight")
    parametrize.undo(model)
    equal(weights_of(model), weights_of(net()))
    torch.testing.assert_close(model(inputs(mesh)), net()(inputs(mesh)))


def mixed_precision(mesh):
    """In 16 bits while it computes, in 32 bits where it lies."""
    model = shard(net(), mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    DropIn.halve(model)
    masks = prune.masks(model)
    train(model, inputs(mesh))
    assert model(inputs(mesh)).dtype == torch.bfloat16
    DropIn.remove(model)
    for key, weight in weights_of(model).items():
        assert weight.dtype == torch.float32
        assert not part(weight)[~part(masks[key])].any()


class Tied(nn.Module):
    """An embedding and a head that share one parameter."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(self.embedding(x))


def tied(mesh, adapter):
    torch.manual_seed(0)
    plain = Tied()
    model = fully_shard(copy.deepcopy(plain), mesh=mesh)
    for each in (plain, model):
        if adapter == "prune":
            prune.l1_unstructured(each.head, "weight", amount=0.5, root=each)
        else:
            parametrize.prune(each, HALF)
    x = torch.arange(7)
    for _ in range(2):
        for each in (plain, model):
            each(x).square().mean().backward()
    orig = "weight_orig" if adapter == "prune" else "parametrizations.weight.original"
    grads = [dict(each.named_parameters())[f"embedding.{orig}"].grad for each in (model, plain)]
    close({"": grads[0]}, {"": grads[1]})
    torch.testing.assert_close(model(x), plain(x))
    assert model.head.weight.shape == (7, 4)
    if adapter == "prune":
        prune.remove(model.head, "weight", root=model)
    else:
        parametrize.remove(model)
    assert model.head.weight is model.embedding.weight
    torch.testing.assert_close(model(x), plain(x))


def tensor_parallel(mesh):
    """FSDP over one dim of the mesh, tensor parallel over the other."""
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    def wide():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))

    plain = wide()
    model = parallelize_module(wide(), mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    for i in LAYERS:
        fully_shard(model[i], mesh=mesh["dp"])
    fully_shard(model, mesh=mesh["dp"])
    for each in (plain, model):
        DropIn.halve(each)
    equal(prune.masks(model), prune.masks(plain))
    x = inputs(None, whole=True)
    train(model, x)
    train(plain, x)
    close(weights_of(model), weights_of(plain))


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def saved(mesh, folder):
    import torch.distributed.checkpoint as dcp

    model = shard(net(), mesh)
    DropIn.halve(model)
    state = {"masks": prune.masks(model), "model": model.state_dict()}
    dcp.save(state, checkpoint_id=folder, process_group=mesh.get_group())


def loaded(mesh, folder):
    import torch.distributed.checkpoint as dcp

    plain, model = net(), shard(net(), mesh)
    DropIn.halve(plain)
    for i in LAYERS:
        prune.identity(model[i], "weight")
    state = {"masks": prune.masks(model), "model": model.state_dict()}
    dcp.load(state, checkpoint_id=folder, process_group=mesh.get_group())
    equal(state["masks"], prune.masks(plain))
    assert all(mask.dtype == torch.bool for mask in state["masks"].values())
    load_pruned(model, state["model"])
    equal(prune.masks(model), prune.masks(plain))


def resharded(mesh, after):
    """Whatever a forward pass leaves behind, calls see the shards, and torch's own state dicts all of them."""
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

    plain, model = net(), shard(net(), mesh, reshard_after_forward=after)
    for call in (
        DropIn.halve,
        lambda each: prune.l1_unstructured(each[0], "weight", amount=0.2),
        lambda each: prune.global_unstructured(each, prune.L1Unstructured, amount=0.1),
        lambda each: prune.remove(each[0], "weight"),
        lambda each: prune.undo(each[2], "weight"),
        lambda each: parametrize.prune(each, HALF),
        lambda each: parametrize.undo(each, names=["0.weight"]),
        parametrize.remove,
    ):
        for each in (plain, model):
            with torch.no_grad():
                each(inputs(mesh))
            call(each)
        torch.testing.assert_close(model(inputs(mesh)), plain(inputs(mesh)))
        state = get_model_state_dict(model)
        equal(state, plain.state_dict())
        set_model_state_dict(model, state)

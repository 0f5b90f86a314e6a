"""What ranks are asked about the algebra, about masks that are applied, and about scores."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import masklib as ml
from masklib import budgets, scores
from masklib._shards._parts import each_part
from sharded.layouts import SILENTLY, shard

SHAPES = {"a": (5, 3), "b": (1, 4), "c": (8, 4), "d": (7,), "e": (0, 3), "f": (3, 2, 2)}


def tensors(seed=0, shapes=SHAPES):
    """The same random tensors on every rank."""
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator) for n, s in shapes.items()}


def sharded(values, mesh, placements, plain=()):
    """Tensors by name as DTensors, but for some that stay plain."""
    return {n: t if n in plain else shard(t, mesh, placements) for n, t in values.items()}


def lies_like(result, reference):
    """Refuse what has another mesh, placements or kind than what it was made of."""
    assert type(result) is type(reference) or isinstance(reference, DTensor) == isinstance(result, DTensor)
    if isinstance(reference, DTensor):
        lies, expected = ((t.device_mesh, t.placements) for t in (result, reference))
        assert lies == expected, (lies, expected)
        assert result.to_local().shape == reference.to_local().shape


def equal(result, expected):
    """Whether sharded results are the unsharded ones, to the bit: each rank looks at its part."""
    assert list(result) == list(expected)
    for name, value in expected.items():
        given, wanted = part(result[name]), part(like(value, result[name]))
        assert given.dtype == wanted.dtype
        assert torch.equal(given, wanted), name


def like(value, reference):
    """A plain tensor as another is sharded."""
    sharded = isinstance(reference, DTensor)
    return shard(value, reference.device_mesh, reference.placements) if sharded else value


def part(tensor):
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


# ---- the algebra ----------------------------------------------------------------------------------------------------

SETS = [
    ml.union,
    ml.intersection,
    ml.difference,
    lambda a, b: ml.complement(a),
    lambda a, b: ml.complement(a, within=b),
    ml.identity,
    lambda a, b: ml.identity(a),
    lambda a, b: ml.custom_from_mask(a, b, mask=a),
]
COUNTS = [
    lambda a, b, **how: ml.count(a, **how),
    lambda a, b, **how: ml.sparsity(a, **how),
    lambda a, b, **how: ml.overlap(a, b, **how),
]


def algebra(mesh, placements, plain):
    a, b = ({n: t > 0 for n, t in tensors(seed).items()} for seed in (0, 1))
    x, y = (sharded(m, mesh, placements, plain) for m in (a, b))
    for combine in SETS:
        equal(combine(x, y), combine(a, b))
        for name, mask in combine(x, y).items():
            lies_like(mask, x[name])
    equal(ml.dense(x), ml.dense(a))
    for measure in COUNTS:
        each = measure(x, y, per_name=True)
        numbers = [measure(x, y), *each.values(), measure(x["a"], y["a"])]
        expected = [measure(a, b), *measure(a, b, per_name=True).values(), measure(a["a"], b["a"])]
        assert [type(n) for n in numbers] == [type(n) for n in expected]
        assert [(n.item(), n.dtype, n.shape) for n in numbers] == [(n.item(), n.dtype, n.shape) for n in expected]
    assert budgets.erk(x, 0.5) == budgets.erk(a, 0.5)
    assert budgets.kept(x, budgets.uniform(x, 0.5)) == budgets.kept(a, budgets.uniform(a, 0.5))


def bad_on(mesh, rank):
    """One rank calls with what is no mask."""
    w = shard(torch.ones(4, 2), mesh, [Shard(0)])
    ml.sparsity(w if mesh.get_rank() == rank else w > 0)


def other_names_on(mesh, rank):
    """One rank calls with another mapping."""
    mask = shard(torch.ones(4, 2), mesh, [Shard(0)]) > 0
    ml.count({"a": mask, "b": mask} if mesh.get_rank() == rank else {"a": mask})


# ---- masks that are applied -----------------------------------------------------------------------------------------

BIG = {"w": (521, 512)}  # above what keeps a copy of its mask
ALONE = ["a", "d", "e", "w"]  # whose gradient is looked at by itself; those of all are, together


def applied(mesh, placements, dtype, shapes):
    values = {n: t.to(dtype) for n, t in tensors(shapes=shapes).items()}
    masks = {n: t > 0.2 for n, t in tensors(1, shapes).items()}
    weights, kept = sharded(values, mesh, placements), sharded(masks, mesh, placements)
    for through in (False, True):
        equal(ml.apply(weights, kept, straight_through=through), ml.apply(values, masks))
        for name in sorted(shapes.keys() & ALONE):
            w, v = weights[name].detach().requires_grad_(), values[name].clone().requires_grad_()
            for param, mask in ((w, kept[name]), (v, masks[name])):
                (ml.apply(param, mask, straight_through=through) * 3).sum().backward()
            lies_like(w.grad, w)
            equal({name: w.grad}, {name: v.grad})
    dense = ml.dense_grad(weights, kept, cubes)
    equal(dense, ml.dense_grad(values, masks, cubes))
    for name, grad in dense.items():
        lies_like(grad, weights[name])
    grads = torch.func.grad(lambda p: cubes(ml.apply(p, kept)))(weights)
    equal(grads, torch.func.grad(lambda p: cubes(ml.apply(p, masks)))(values))
    for name, grad in grads.items():
        assert not part(grad)[~part(like(masks[name], grad))].any()


def cubes(params):
    return sum((p**3).sum() for p in params.values())


def called(mesh):
    """A model of DTensors under masks, by functional_call: its gradients are those of the plain one."""
    net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    values = {n: torch.randn(p.shape, generator=torch.Generator().manual_seed(0)) for n, p in net.named_parameters()}
    masks, x = {n: p > 0 for n, p in values.items()}, torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    weights, kept = (sharded(each, mesh, [Shard(0)] * mesh.ndim) for each in (values, masks))
    inputs = distribute_tensor(x, mesh, [Replicate()] * mesh.ndim, **SILENTLY)

    def loss(params, masks, x):
        return torch.func.functional_call(net, ml.apply(params, masks), (x,)).square().mean()

    grads, expected = torch.func.grad(loss)(weights, kept, inputs), torch.func.grad(loss)(values, masks, x)
    for name, grad in grads.items():
        assert not part(grad)[~part(kept[name])].any()
    close(grads, expected)


# ---- scores ---------------------------------------------------------------------------------------------------------

MATRICES = {"a": (5, 3), "b": (1, 4), "c": (8, 4), "f": (3, 2, 2)}


def scored(mesh, placements):
    values, slopes = tensors(shapes=MATRICES), tensors(1, MATRICES)
    w, g = sharded(values, mesh, placements), sharded(slopes, mesh, placements)
    norms = {n: tensors(2, {n: (s[1],)})[n].abs() for n, s in MATRICES.items()}
    gammas = {n: tensors(3, {n: (s[0],)})[n] for n, s in MATRICES.items()}
    state = scores.InputNorms(norms, dict.fromkeys(norms, 2))
    for score in ELEMENTWISE:
        equal(score(w, g), score(values, slopes))
        for name, value in score(w, g).items():
            lies_like(value, w[name])
    equal(scores.wanda(w, state), scores.wanda(values, state))
    for given in (gammas, sharded(gammas, mesh, placements)):
        equal(scores.batch_norm(w, given), scores.batch_norm(values, gammas))
        equal(scores.batch_norm(w, given, per_channel=True), scores.batch_norm(values, gammas, per_channel=True))
    for name, value in (scores.wanda(w, state) | scores.batch_norm(w, gammas)).items():
        lies_like(value, w[name])
    close(scores.grasp(w, cubes), scores.grasp(values, cubes))


ELEMENTWISE = [
    lambda w, g: scores.magnitude(w),
    lambda w, g: scores.magnitude(each_part(lambda p: (100 * p).int(), w)),
    lambda w, g: scores.magnitude(each_part(torch.complex, w, g)),
    scores.saliency,
    scores.taylor,
    lambda w, g: scores.saliency(each_part(Tensor.half, w), g),
    lambda w, g: scores.fisher(w, scores.add_squared_grads(scores.add_squared_grads(None, g), w)),
    lambda w, g: scores.movement(scores.add_movement(scores.add_movement(None, w, g), g, g)),
]


def close(result, expected):
    for name, value in expected.items():
        torch.testing.assert_close(part(result[name]), part(like(value, result[name])))


def flows(mesh):
    """Synaptic flow of a linear model whose weights are sharded."""
    values = tensors(shapes={"1": (6, 4), "2": (2, 6)})
    weights, x = sharded(values, mesh, [Shard(0)]), torch.zeros(1, 4)

    def model(p, x):
        return (x @ p["1"].T) @ p["2"].T

    inputs = distribute_tensor(x, mesh, [Replicate()], **SILENTLY)
    close(scores.synflow(weights, model, inputs), scores.synflow(values, model, x))


def norms_of_each_rank(mesh):
    """Norms that each rank has of its own inputs."""
    state = scores.add_input_norms(None, torch.full((2, 3), float(mesh.get_rank())))
    scores.wanda(shard(torch.ones(4, 3), mesh, [Shard(0)]), state)


# ---- what is refused ------------------------------------------------------------------------------------------------


def _mask(mesh, *placements, value=True):
    return shard(torch.full((4, 2), value), mesh, placements)


REFUSED = {
    "a plain mask": lambda mesh: ml.apply(shard(torch.ones(4, 2), mesh, [Shard(0)]), torch.ones(4, 2) > 0),
    "a plain weight": lambda mesh: ml.apply(torch.ones(4, 2), _mask(mesh, Shard(0))),
    "other placements": lambda mesh: ml.union(_mask(mesh, Shard(0)), _mask(mesh, Shard(1))),
    "sums": lambda mesh: ml.count(DTensor.from_local(torch.ones(2) > 0, mesh, [_partial()])),
    "compile": lambda mesh: torch.compile(ml.count, fullgraph=True, backend="eager")(_mask(mesh, Shard(0))),
    "vmap": lambda mesh: torch.vmap(ml.sparsity)(_mask(mesh, Shard(0))),
    "lamp": lambda mesh: scores.lamp(shard(torch.ones(4, 2), mesh, [Shard(0)])),
    "fpgm": lambda mesh: scores.fpgm(shard(torch.ones(4, 2), mesh, [Shard(0)])),
    "inputs": lambda mesh: scores.add_input_norms(None, shard(torch.ones(4, 2), mesh, [Shard(0)])),
    "one input": lambda mesh: scores.synflow(
        shard(torch.ones(4, 2), mesh, [Shard(0)]), lambda p, x: x @ p.T, torch.ones(1, 2)
    ),
}


def _partial():
    from torch.distributed.tensor import Partial

    return Partial("sum")


def refused(mesh, what):
    REFUSED[what](mesh)


def two_meshes(mesh):
    from torch.distributed.device_mesh import DeviceMesh

    other = DeviceMesh("cpu", torch.arange(mesh.size()).flip(0))
    a, b = _mask(mesh, Shard(0)), _mask(other, Shard(0))
    for call in (lambda: ml.union(a, b), lambda: ml.count({"a": a, "b": b})):
        with pytest.raises(ValueError, match="mesh"):
            call()


def compiled(mesh):
    """What works element by element compiles."""
    w = shard(tensors()["a"], mesh, [Shard(0)])
    for call in (lambda w: ml.apply(w, w > 0), lambda w: ml.union(w > 0, w > 1), lambda w: scores.saliency(w, w)):
        torch._dynamo.reset()
        equal({"": torch.compile(call, fullgraph=True, backend="aot_eager")(w)}, {"": call(w).full_tensor()})

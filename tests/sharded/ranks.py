"""What ranks are asked about masks: large pools, ties, errors of one rank, what a call may mix."""

from __future__ import annotations

import torch
from torch.distributed.tensor import DTensor, Replicate, Shard

import masklib as ml
from sharded.attack import equal
from sharded.layouts import shard


def large(kind, rows=240, columns=1000):
    """A pool that is sampled, of values that are well apart, few, one, or in order."""
    generator = torch.Generator().manual_seed(7)
    values = torch.randn(rows, columns, generator=generator)
    if kind == "few":
        values = (values * 2).round()
    if kind == "one":
        values = torch.ones(rows, columns)
    if kind == "sorted":
        values = values.flatten().sort().values.view(rows, columns)
    if kind == "half dead":
        values[: rows // 2] = 0.0
    return values.to({"16 bits": torch.bfloat16, "doubles": torch.float64}.get(kind, torch.float32))


KINDS = ["normal", "few", "one", "sorted", "half dead", "16 bits", "doubles"]


def large_pool(mesh, placements, kind):
    """A mask, a mask of a mask, and a mapping, of pools too large to be brought together."""
    whole = large(kind)
    scores = shard(whole, mesh, placements)
    for number in ({"amount": 0.5}, {"keep": 1000}, {"amount": 0}, {"sparsity": 1.0}):
        assert equal(ml.compute_mask(scores, **number), ml.compute_mask(whole, **number)), number
    alive = ml.compute_mask(whole, amount=0.6)
    part = shard(alive, mesh, placements)
    assert equal(ml.l1_unstructured(scores, part, amount=0.3), ml.l1_unstructured(whole, alive, amount=0.3))
    pair, both = {"b": scores, "a": -scores}, {"b": whole, "a": -whole}
    assert equal(ml.compute_mask(pair, sparsity=0.7), ml.compute_mask(both, sparsity=0.7))
    assert equal(ml.random_unstructured(scores, amount=0.4, key=1), ml.random_unstructured(whole, amount=0.4, key=1))


GROUPS = [
    ml.rows(),
    ml.rows(1),
    ml.windows(4),
    ml.windows(4, 0),  # cut by shards of 22 rows, whole in those of 32
    ml.windows(5, ragged=True),
    ml.windows(5, 0, ragged=True),
    ml.channels(p=2),
    ml.channels(1, p=1),
    ml.blocks((4, 4)),
    ml.blocks((5, 7), mean=True, ragged=True),
    ml.heads(8, parts=(2, 1, 1)),
]


def large_groups(mesh, placements):
    whole = large("normal", 64, 96)
    scores = shard(whole, mesh, placements)
    for groups in GROUPS:
        result, expected = (ml.compute_mask(s, amount=0.5, groups=groups) for s in (scores, whole))
        assert equal(result, expected), groups


def item_scores(mesh):
    """Scores of items that are given, with a mask of the elements."""
    for dtype in (torch.float32, torch.int64, torch.bfloat16):
        whole, alive = (torch.arange(6) * 37 % 11).to(dtype), torch.arange(30).view(6, 5) % 4 > 0
        alive[2] = False
        call = lambda s, m: ml.compute_mask(s, m, amount=2, groups=ml.channels())  # noqa: E731
        assert equal(call(shard(whole, mesh, [Shard(0)]), shard(alive, mesh, [Shard(0)])), call(whole, alive))


def labelled(mesh, placements):
    """Labels that are sharded as the scores are, and plain ones."""
    whole, labels = large("few", 30, 8), torch.arange(240).view(30, 8) * 7 % 20
    scores, at = shard(whole, mesh, placements), shard(labels, mesh, placements)
    for plain, sharded in (
        (ml.labels(labels), ml.labels(at)),
        (ml.labels(labels, labels % 3), ml.labels(at, at % 3)),
        (ml.labels(labels, labels % 3), ml.labels(labels, labels % 3)),
    ):
        result, expected = ml.compute_mask(scores, keep=2, groups=sharded), ml.compute_mask(whole, keep=2, groups=plain)
        assert equal(result, expected)


def floors(mesh, placements):
    """Floors that one tensor of several would fall below."""
    whole = {"a": large("few", 12, 4), "b": large("few", 8, 4) + 10, "c": large("few", 4, 4) - 10}
    scores = {n: shard(t, mesh, placements) for n, t in whole.items()}
    for least in (0, 5, {"a": 40}, {"b": 32, "c": 16}, {"c": 3}):
        result, expected = (ml.compute_mask(s, amount=40, least=least) for s in (scores, whole))
        assert equal(result, expected), least


def far_labels(mesh):
    labels = torch.tensor([0, 2**60, 3, 4])
    ml.compute_mask(shard(torch.ones(4), mesh, [Shard(0)]), amount=1, groups=ml.labels(labels))


def other_pools(mesh):
    labels, pools = torch.tensor([0, 0, 1, 0]), torch.tensor([0, 0, 0, 1])
    ml.compute_mask(shard(torch.ones(4), mesh, [Shard(0)]), amount=1, groups=ml.labels(labels, pools))


def other_label_names(mesh):
    scores = shard(torch.ones(4), mesh, [Shard(0)])
    ml.compute_mask({"a": scores}, amount=1, groups=ml.labels({"b": torch.arange(4)}))


def other_label_shapes(mesh):
    ml.compute_mask(shard(torch.ones(4), mesh, [Shard(0)]), amount=1, groups=ml.labels(torch.arange(8)))


def other_label_placements(mesh):
    labels = shard(torch.arange(8).view(4, 2), mesh, [Shard(1)])
    ml.compute_mask(shard(torch.ones(4, 2), mesh, [Shard(0)]), amount=1, groups=ml.labels(labels))


# ---- what one rank does wrong ---------------------------------------------------------------------------------------


def nan_on(mesh, rank, groups, amount):
    """NaN in the shard of one rank; what a whole tensor says of it."""
    whole = torch.arange(12.0).view(6, 2)
    whole[2 * rank, 1] = float("nan")
    try:
        ml.compute_mask(whole, amount=amount, groups=groups)
    except ValueError as error:
        expected = str(error)
    try:
        ml.compute_mask(shard(whole, mesh, [Shard(0)]), amount=amount, groups=groups)
    except ValueError as error:
        return str(error) == expected, expected
    return False, "no error"


def amount_on(mesh, rank):
    ml.compute_mask(shard(torch.ones(6), mesh, [Shard(0)]), amount=2.5 if mesh.get_local_rank() == rank else 0.5)


def other_amount_on(mesh, rank):
    ml.compute_mask(shard(torch.ones(6), mesh, [Shard(0)]), amount=0.1 if mesh.get_local_rank() == rank else 0.5)


def dtype_on(mesh, rank):
    dtype = torch.complex64 if mesh.get_local_rank() == rank else torch.float32
    ml.compute_mask(shard(torch.ones(6, dtype=dtype), mesh, [Shard(0)]), amount=0.5)


def plain_on(mesh, rank):
    """A plain tensor beside a DTensor, which is another one on one rank."""
    bias = torch.full((3,), float(mesh.get_local_rank() == rank))
    ml.compute_mask({"w": shard(torch.ones(6), mesh, [Shard(0)]), "b": bias}, amount=0.5)


def key_on(mesh, rank):
    key = "a" if mesh.get_local_rank() == rank else 1
    ml.random_unstructured(shard(torch.ones(6), mesh, [Shard(0)]), amount=0.5, key=key)


def growth_on(mesh, rank):
    scores = shard(torch.arange(6.0), mesh, [Shard(0)])
    grow = {"a": scores} if mesh.get_local_rank() == rank else scores
    ml.regrow(scores, scores > 2, grow_scores=grow, amount=1)


def many_in_a_pool(mesh):
    """More than a pool has, of pools of which each rank has some."""
    ml.compute_mask(shard(torch.ones(6, 2), mesh, [Shard(0)]), amount=3, groups=ml.rows())


def two_meshes(mesh):
    from torch.distributed.device_mesh import DeviceMesh

    other = DeviceMesh("cpu", torch.arange(mesh.size()).flip(0))
    a, b = (shard(torch.ones(6), m, [Shard(0)]) for m in (mesh, other))
    ml.compute_mask({"a": a, "b": b}, amount=1)


def compiled(mesh):
    torch.compile(lambda w: ml.compute_mask(w, amount=0.5), fullgraph=True, backend="eager")(
        shard(torch.ones(6), mesh, [Shard(0)])
    )


def compiled_in_parts(mesh):
    """A graph that may break is right, if it works."""
    whole = torch.arange(6.0)
    scores = shard(whole, mesh, [Shard(0)])
    result = torch.compile(lambda w: ml.compute_mask(w, amount=0.5), backend="eager")(scores)
    assert equal(result, ml.compute_mask(whole, amount=0.5))


def no_transfer(mesh):
    """Masks are new, and lie as the scores do; a replica that is not equal changes nothing of what is counted."""
    whole = torch.arange(8.0).view(4, 2)
    scores, alive = shard(whole, mesh, [Shard(0)]), shard(whole > 0, mesh, [Shard(0)])
    mask = ml.compute_mask(scores, alive, amount=0)
    assert isinstance(mask, DTensor)
    assert mask.placements == (Shard(0),)
    mask.to_local().fill_(False)
    assert bool(alive.full_tensor().any())
    assert equal(ml.compute_mask(shard(whole, mesh, [Replicate()]), amount=3), ml.compute_mask(whole, amount=3))

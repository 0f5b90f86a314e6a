"""Masks of DTensors are those of whole tensors, to the bit, however they are sharded; errors are those of all ranks."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch

import masklib as ml
from masklib._shards._grouped import rows_of
from masklib._shards._layout import Layout
from masklib._shards._whole import own_folding
from sharded import attack, layouts, ranks
from sharded.crew import outcomes, run

OLD = torch.__version__ < "2.7"
COMPILES = pytest.mark.skipif(OLD, reason="the compiler of torch 2.6 cannot ask what is a DTensor")


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize(("seed", "mesh"), list(enumerate([(1,), (2,), (3,), (4,), (2, 2)])))
def test_random_calls_give_what_whole_tensors_give(seed, mesh, small):
    if OLD and small and mesh == (2, 2):
        pytest.skip("full_tensor of torch 2.6 fails where a rank has nothing")
    for done, errors, wrong in run(attack.attack, 2 * seed + small, 25, small, mesh=mesh):
        assert not wrong, "\n".join(wrong)
        assert errors < done / 2


@pytest.mark.parametrize("kind", ranks.KINDS)
@pytest.mark.parametrize(("mesh", "at"), [((2,), 0), ((3,), 1), ((2, 2), 0), ((2, 2), -2)])
def test_large_pools(mesh, at, kind):
    run(ranks.large_pool, layouts.PLACEMENTS[mesh][at], kind, mesh=mesh)


@pytest.mark.parametrize(("mesh", "placements"), layouts.CASES)
def test_items_and_pools_whole_and_cut(mesh, placements):
    run(ranks.large_groups, placements, mesh=mesh)


@pytest.mark.parametrize("mesh", [(2,), (3,)])
def test_scores_of_items(mesh):
    run(ranks.item_scores, mesh=mesh)


@pytest.mark.parametrize(("mesh", "at"), [((2,), 0), ((3,), 1), ((2, 2), 0)])
def test_floors(mesh, at):
    run(ranks.floors, layouts.PLACEMENTS[mesh][at], mesh=mesh)


@pytest.mark.parametrize(("mesh", "placements"), layouts.CASES)
def test_labels(mesh, placements):
    run(ranks.labelled, placements, mesh=mesh)


def test_masks_are_new_and_lie_as_the_scores_do():
    run(ranks.no_transfer)


# ---- errors ---------------------------------------------------------------------------------------------------------

GROUPS = [ml.elements(), ml.rows(), ml.rows(1), ml.channels(p=2), ml.channels(1), ml.windows(2), ml.windows(2, 0)]


@pytest.mark.parametrize("groups", GROUPS)
def test_nan_on_one_rank_is_told_by_all_as_by_one_tensor(groups):
    for rank in range(3):
        for same, expected in run(ranks.nan_on, rank, groups, 1, mesh=(3,)):
            assert same, expected


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (ranks.amount_on, ValueError, "`amount` must be a fraction"),
        (ranks.other_amount_on, ValueError, "all ranks must call with the same"),
        (ranks.dtype_on, TypeError, "real floating"),
        (ranks.plain_on, ValueError, "the same plain tensors"),
        (ranks.key_on, TypeError, "`key` must be an int"),
        (ranks.growth_on, TypeError, "`grow_scores` must be of the form"),
    ],
)
def test_what_one_rank_does_wrong_is_raised_on_all(call, kind, says, rank):
    results = outcomes(call, rank, mesh=(3,))
    assert len({(r.kind, r.message) for r in results}) == 1
    assert results[0].kind is kind
    assert says in results[0].message


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (ranks.many_in_a_pool, "`amount` must be between 0 and 2"),
        (ranks.two_meshes, "must be on one mesh"),
        pytest.param(ranks.compiled, "under torch.compile", marks=COMPILES),
        (ranks.far_labels, "labels of DTensors must be within"),
        (ranks.other_pools, "`pools` must be constant within each item"),
        (ranks.other_label_names, "`items` must have exactly the names of `scores`"),
        (ranks.other_label_shapes, "`items` must have the shape of `scores`"),
        (ranks.other_label_placements, "`items` must be sharded as the scores are"),
    ],
)
def test_what_cannot_be_is_told(call, says):
    for result in outcomes(call, mesh=(4,)):  # all ranks make a mesh together
        assert says in result.message


def test_a_graph_that_breaks_is_right():
    run(ranks.compiled_in_parts)


# ---- rows -----------------------------------------------------------------------------------------------------------

FOLDS = [
    (ml.rows(), (3, 4, 2)), (ml.rows(1), (3, 4, 2)), (ml.channels(-1), (3, 4, 2)), (ml.windows(2, 1), (3, 4, 2)),
    (ml.windows(3, 0, ragged=True), (4, 2)), (ml.blocks((2, 3), ragged=True), (2, 3, 5)), (ml.heads(2), (4, 3)),
    (ml.heads(2, 1, parts=(2, 1)), (2, 12)), (ml.rows(), (3, 0)), (ml.blocks((2,)), (4,)), (ml.heads(1), (0, 2)),
    (ml.heads(2), (2, 3)),
]  # fmt: skip


@pytest.mark.parametrize(("groups", "shape"), FOLDS)
def test_a_folding_says_where_each_entry_is(groups, shape):
    folding = groups.fold(torch.Size(shape))
    at = Layout(tuple(shape), tuple(((0, size),) for size in shape), True)
    assert torch.equal(rows_of(folding, at), rows_of(replace(folding, where=None), at))


# ---- pools that lie in one rank -------------------------------------------------------------------------------------

RUNS = [((0, 8),), ((0, 4),), ((4, 8),), ((3, 8),), ((2, 6),), ((6, 8),), ((0, 2), (4, 6)), ((0, 3), (6, 8)), ()]
POOLS = [ml.rows(), ml.rows(1), *(ml.windows(n, dim, ragged=True) for n in (1, 2, 3, 4, 9) for dim in (0, 1))]


@pytest.mark.parametrize("groups", POOLS)
def test_the_dims_tell_which_pools_a_shard_has_whole(groups):
    folding = groups.fold(torch.Size((8, 8)))
    rows = rows_of(folding, Layout((8, 8), (((0, 8),), ((0, 8),)), True))
    for runs in product(RUNS, RUNS):
        at = Layout((8, 8), runs, True)
        own, here = own_folding(folding, None, at), rows_of(folding, at)
        touched = torch.isin(rows // folding.items, here // folding.items).sum()
        assert (own is not None) == bool(here.numel() and touched == here.numel())
        if own is not None:  # pool by pool, in order
            assert torch.equal(own.matrix(here + 1)[own.matrix(here + 1) > 0], (here + 1).flatten().sort().values)
            assert own.rows >= here.numel()
            assert own.items == folding.items

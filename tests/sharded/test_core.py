"""DTensors in the algebra, under masks and in scores: what plain tensors give, sharded as they are."""

from __future__ import annotations

import pytest
import torch
from torch.distributed.tensor import Shard

from sharded import core, layouts
from sharded.crew import outcomes, run

OLD = torch.__version__ < "2.7"
GATHERS = "torch 2.6 returns some gradients whole that newer ones leave sharded"
COMPILES = pytest.mark.skipif(OLD, reason="the compiler of torch 2.6 cannot ask what is a DTensor")


@pytest.mark.parametrize(("mesh", "placements"), layouts.CASES)
@pytest.mark.parametrize("plain", [(), ("b", "c")])
def test_the_algebra_is_that_of_plain_masks(mesh, placements, plain):
    run(core.algebra, placements, plain, mesh=mesh)


@pytest.mark.parametrize(("mesh", "placements"), layouts.CASES)
def test_applied_masks_and_their_gradients_are_those_of_plain_tensors(mesh, placements):
    if OLD and Shard(1) in placements:
        pytest.skip(GATHERS)
    run(core.applied, placements, torch.float32, core.SHAPES, mesh=mesh)


@pytest.mark.parametrize(("dtype", "shapes"), [(torch.bfloat16, core.MATRICES), (torch.float32, core.BIG)])
def test_so_are_those_of_other_dtypes_and_sizes(dtype, shapes):
    run(core.applied, layouts.PLACEMENTS[3,][0], dtype, shapes, mesh=(3,))


@pytest.mark.skipif(OLD, reason=GATHERS)
def test_masks_go_through_functional_call():
    run(core.called, mesh=(2,))


@pytest.mark.parametrize(("mesh", "placements"), layouts.CASES)
def test_scores_are_those_of_plain_weights(mesh, placements):
    run(core.scored, placements, mesh=mesh)


def test_synaptic_flow_goes_through_shards():
    run(core.flows, mesh=(2,))


@COMPILES
def test_what_is_done_element_by_element_compiles():
    run(core.compiled, mesh=(2,))


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("call", [core.bad_on, core.other_names_on])
def test_what_one_rank_does_wrong_is_raised_on_all(call, rank):
    results = outcomes(call, rank, mesh=(3,))
    assert len({(result.kind, result.message) for result in results}) == 1
    assert results[0].kind in (TypeError, ValueError)


def test_statistics_of_each_rank_alone_are_refused():
    for result in outcomes(core.norms_of_each_rank):
        assert result.kind is ValueError
        assert "the same on all ranks" in result.message


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=COMPILES) if what == "compile" else what for what in core.REFUSED]
)
def test_what_shards_cannot_say_is_told(what):
    for result in outcomes(core.refused, what):
        kind = result.kind.__name__
        assert kind in ("TypeError", "ValueError") or (what, kind) == ("compile", "Unsupported")
        assert "DTensor" in result.message or "sharded" in result.message, result.message


def test_two_meshes_are_refused():
    run(core.two_meshes, mesh=(4,))  # all ranks make a mesh together

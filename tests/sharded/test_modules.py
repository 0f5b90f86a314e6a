"""Modules under DDP, FSDP2 and HSDP: pruned, trained and saved as one process does it."""

from __future__ import annotations

import pytest
import torch
import torch.distributed.checkpoint as dcp

import masklib.adapters.prune as prune
from sharded import modules, modules_refused
from sharded.crew import outcomes, run

MESHES = [(2,), (4,), (2, 2)]


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("adapter", modules.ADAPTERS)
@pytest.mark.parametrize("first", ["prune", "shard"])
def test_pruned_and_sharded_in_either_order_it_trains_as_in_one_process(mesh, adapter, first):
    run(modules.pruned, adapter, first, mesh=mesh)


@pytest.mark.parametrize("mesh", MESHES)
def test_an_optimizer_keeps_sharded_parameters_sparse(mesh):
    run(modules.held, mesh=mesh)


@pytest.mark.parametrize("adapter", modules.ADAPTERS)
def test_replicas_train_as_one_process(adapter):
    a, b = run(modules.replicated, adapter, mesh=(2,))
    assert a == b


def test_ranks_that_would_draw_on_their_own_are_refused():
    for result in outcomes(modules.drawn_without_a_word):
        assert result.kind is ValueError
        assert "key=0" in result.message


def test_ranks_with_one_key_draw_alike():
    a, b = run(modules.drawn, {"key": 1})
    assert a == b


def test_sharded_modules_draw_one_mask():
    run(modules.drawn_alike, mesh=(4,))


@pytest.mark.parametrize("mesh", MESHES)
def test_a_sharded_module_does_what_a_plain_one_does(mesh):
    run(modules.everything, mesh=mesh)
    run(modules.by_methods_of_the_core, mesh=mesh)


@pytest.mark.parametrize("after", [True, False, 2])
def test_what_a_pass_leaves_whole_is_sharded_again(after):
    run(modules.resharded, after, mesh=(4,))


def test_mixed_precision_is_the_policys():
    run(modules.mixed_precision, mesh=(2,))


@pytest.mark.parametrize("adapter", modules.ADAPTERS)
def test_tied_parameters_stay_tied(adapter):
    run(modules.tied, adapter, mesh=(2,))


def test_tensor_parallel_modules_are_pruned_too():
    run(modules.tensor_parallel, mesh=(2, 2))


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("adapter", modules.ADAPTERS)
def test_a_bad_mask_on_one_rank_is_refused_on_all(rank, adapter):
    results = outcomes(modules_refused.bad_mask_on, rank, adapter, mesh=(2,))
    assert len({(result.kind, result.message) for result in results}) == 1
    assert results[0].kind is (ValueError if rank else TypeError)


@pytest.mark.parametrize("call", modules_refused.CALLS_AFTER)
def test_a_mask_that_one_rank_wrote_into_is_refused_on_all(call):
    results = outcomes(modules_refused.written_on, 1, call, mesh=(2,))
    assert len({(result.kind, result.message) for result in results}) == 1
    assert "0 and 1 only, got 0.5" in results[0].message


def test_a_bad_number_on_one_rank_is_refused_on_all():
    run(modules_refused.bad_number_on, 1, mesh=(3,))


def test_nan_on_one_rank_is_refused_on_all():
    results = outcomes(modules_refused.nan_on, 1, mesh=(2,))
    assert len({(result.kind, result.message) for result in results}) == 1
    assert "NaN" in results[0].message


@pytest.mark.parametrize("what", modules_refused.REFUSED)
def test_what_a_sharded_module_cannot_do_is_told(what):
    run(modules_refused.refused, what)


def test_modules_without_values_are_refused():
    run(modules_refused.on_meta)


def test_pruning_waits_for_the_end_of_a_pass():
    run(modules_refused.within_a_pass)


# ---- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_masks_are_saved_by_four_ranks_and_loaded_by_two_and_by_one(tmp_path):
    run(modules.saved, str(tmp_path), mesh=(4,))
    run(modules.loaded, str(tmp_path), mesh=(2,))
    plain = modules.net()
    modules.DropIn.halve(plain)
    state = {"masks": {name: torch.zeros_like(mask) for name, mask in prune.masks(plain).items()}}
    dcp.load(state, checkpoint_id=str(tmp_path), no_dist=True)
    modules.equal(state["masks"], prune.masks(plain))

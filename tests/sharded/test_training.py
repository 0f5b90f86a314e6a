"""Training under masks on FSDP2, HSDP and tensor-parallel meshes: what the same loop on whole tensors gives."""

from __future__ import annotations

import pytest

from sharded import trained
from sharded.crew import outcomes, run

RANKING = ["gradual", "erk", "rigl", "set", "lottery", "ac/dc", "sr-ste"]


@pytest.mark.parametrize("mesh", [(2,), (3,), (2, 2)])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("falling", "AdamW"), ("growing", "AdamW"), ("through", "SGD")],
)
def test_a_sharded_run_is_the_whole_one(mesh, name, kind):
    run(trained.same_as_whole, name, kind, mesh=mesh)


@pytest.mark.parametrize("mesh", [(2,), (2, 2)])
@pytest.mark.parametrize("name", RANKING)
def test_so_is_one_that_ranks(mesh, name):
    run(trained.same_as_whole, name, "AdamW", mesh=mesh)


@pytest.mark.parametrize("how", ["tensors", "some"])
@pytest.mark.parametrize("name", ["gradual", "erk", "rigl", "sr-ste"])
def test_so_is_a_tensor_parallel_one(name, how):
    run(trained.same_as_whole, name, "AdamW", how, mesh=(2,))
    if how == "tensors" or name in ("rigl", "erk"):
        run(trained.same_as_whole, name, "AdamW", how, mesh=(2, 2))


def test_one_pool_is_on_one_mesh():
    for failed in outcomes(trained.same_as_whole, "gradual", "AdamW", "some", mesh=(2, 2)):
        assert failed.kind is ValueError
        assert "all DTensors of one call must be on one mesh, got `scores` of '0.weight' on" in failed.message


def test_ranks_of_ddp_agree():
    (masks, state), (other_masks, other_state) = run(trained.replicated, mesh=(2,))
    assert list(masks) == ["0.weight", "2.weight"]
    assert masks == other_masks
    assert state == other_state
    assert sum(sum(map(sum, mask)) for mask in masks.values()) == 72

"""Which items live: as the elements say, under every structure."""

from __future__ import annotations

import pytest
import torch

import masklib as ml

GROUPS = [ml.elements(), ml.rows(), ml.channels(), ml.channels(1), ml.heads(2), ml.blocks((2, 3)), ml.windows(3)]
SCORES = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("groups", GROUPS, ids=repr)
def test_an_item_lives_when_one_of_its_elements_does(groups):
    mask = SCORES > 0.6
    folding = groups.fold(mask.shape)
    expected = [any(row) for row in folding.matrix(mask).tolist()]
    assert ml.alive(mask, groups=groups).flatten().tolist() == expected
    assert torch.equal(ml.alive({"w": mask}, groups=groups)["w"], ml.alive(mask, groups=groups))


@pytest.mark.parametrize("groups", GROUPS, ids=repr)
@pytest.mark.parametrize("keep", [0, 1, 2])
def test_as_many_items_live_as_were_to_be_kept(groups, keep):
    living = ml.alive(ml.compute_mask(SCORES, keep=keep, groups=groups), groups=groups)
    assert (living.reshape(*([-1] if living.dim() == 1 else living.shape)).sum(-1) == keep).all()

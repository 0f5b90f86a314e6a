"""Unsigned integers, which torch hardly computes with, rank as int64 does in any layout, beyond the small path."""

from __future__ import annotations

import pytest
import torch

import masklib as ml
from masklib.selection import _small

LAYOUTS = {
    "rows": lambda t: t,
    "columns": lambda t: t.T,
    "steps": lambda t: t[:, ::2],
    "repeated": lambda t: t[:1].expand(t.shape),
}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32, torch.uint64])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("share_alive", [1.0, 0.7])
def test_unsigned_scores_rank_as_int64(dtype, layout, share_alive):
    generator = torch.Generator().manual_seed(0)
    values = LAYOUTS[layout](torch.randint(0, 250, (300, 600), generator=generator))
    assert values.numel() > _small.MOST
    scores = LAYOUTS[layout](torch.randint(0, 250, (300, 600), generator=generator.manual_seed(0)).to(dtype))
    alive = None if share_alive == 1 else torch.rand(values.shape, generator=generator) < share_alive
    for groups in (ml.elements(), ml.rows(), ml.channels(), ml.channels(1, p=2)):
        expected = ml.compute_mask(values, alive, amount=0.4, groups=groups)
        assert torch.equal(ml.compute_mask(scores, alive, amount=0.4, groups=groups), expected)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32])
def test_unsigned_scores_compete_with_others(dtype):
    generator = torch.Generator().manual_seed(0)
    values = {n: torch.randint(0, 250, (300, 300), generator=generator) for n in "ab"}
    expected = ml.compute_mask(values, amount=0.4)
    masks = ml.compute_mask({"a": values["a"].to(dtype), "b": values["b"].float()}, amount=0.4)
    assert all(torch.equal(masks[n], expected[n]) for n in expected)

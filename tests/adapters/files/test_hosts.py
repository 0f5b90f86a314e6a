"""One checkpoint, pruned in memory, from its file in tiny chunks, and over four ranks: the same bits."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from sharded import hosts
from sharded.crew import run

import masklib as ml
from masklib import _streaming
from masklib.adapters.files import prune_checkpoint
from masklib.selection import _items, _loop, _pieces


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Weights with ties, in three dtypes, of which no dim but one is a multiple of four."""
    g = torch.Generator().manual_seed(0)
    shapes = {"c.weight": ((7, 8), torch.float32), "a.weight": ((13, 12), torch.bfloat16)}
    shapes |= {"b.weight": ((24, 4), torch.float16), "d.weight": ((2, 4), torch.float32)}
    path = tmp_path_factory.mktemp("hosts") / "a.safetensors"
    save_file({n: (torch.randn(s, generator=g) * 3).round().to(d) for n, (s, d) in shapes.items()}, path)
    return path


@pytest.mark.parametrize("method", hosts.METHODS)
def test_memory_files_and_ranks_agree_to_the_bit(method, file, tmp_path, monkeypatch):
    tensors = load_file(file)
    expected = hosts.METHODS[method](tensors, None)
    for dim in (0, 1):
        for rank in run(hosts.masks, str(file), list(tensors), method, dim, mesh=(4,)):
            assert all(torch.equal(rank[n], expected[n]) for n in expected)
    monkeypatch.setattr(_pieces, "CHUNK", 7)
    monkeypatch.setattr(_loop, "DIRECT", 4)
    for room in (_items, _streaming):
        monkeypatch.setattr(room, "REDUCED", 24)
    prune_checkpoint(file, tmp_path / "b.safetensors", hosts.METHODS[method])
    found, applied = load_file(tmp_path / "b.safetensors"), ml.apply(tensors, expected)
    assert all(torch.equal(found[n].view(torch.uint8), applied[n].view(torch.uint8)) for n in tensors)

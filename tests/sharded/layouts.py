"""What ranks are asked about layouts and the wire; the placements that tests shard by."""

from __future__ import annotations

import inspect
import time

import numpy as np
import torch
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.distributed.tensor.placement_types import _StridedShard

from masklib._shards._layout import layout, like, local
from masklib._shards._wire import Wire

HAS_SOURCE = "src_data_rank" in inspect.signature(distribute_tensor).parameters
SILENTLY = {"src_data_rank": None} if HAS_SOURCE else {}  # torch 2.6 sends from the first rank what all have

# FSDP of what tensor parallelism cut along the same dim; torch 2.6 does it in even parts only
STRIDED = [(_StridedShard(0, split_factor=2), Shard(0))] if HAS_SOURCE else []
PLACEMENTS = {  # by mesh
    (1,): [(Shard(0),)],
    (2,): [(Shard(0),), (Shard(1),), (Replicate(),)],
    (3,): [(Shard(0),), (Shard(1),)],
    (4,): [(Shard(0),), (Shard(1),)],
    (2, 2): [
        (Replicate(), Shard(0)),  # HSDP
        (Shard(0), Replicate()),
        (Shard(0), Shard(0)),
        (Shard(0), Shard(1)),
        (Shard(1), Shard(0)),
        *STRIDED,
        (Replicate(), Replicate()),
    ],
}
CASES = [(mesh, placements) for mesh, each in PLACEMENTS.items() for placements in each]


def shard(tensor, mesh, placements):
    """A plain tensor that all ranks have as a DTensor; dims that it has not are replicated. Nothing is sent."""
    fitting = [Replicate() if getattr(p, "dim", 0) >= tensor.dim() else p for p in placements]
    if HAS_SOURCE:
        return distribute_tensor(tensor, mesh, fitting, src_data_rank=None)
    shape, start = compute_local_shape_and_global_offset(tensor.shape, mesh, fitting)
    part = tensor[tuple(slice(i, i + n) for i, n in zip(start, shape))].clone()
    return DTensor.from_local(part, mesh, fitting, run_check=False, shape=tensor.shape, stride=tensor.stride())


def lies(mesh, shape, placements):
    """The flat indices that a rank holds, three times: by the data, by `flat`, by `whole`; whether it owns them."""
    whole = torch.arange(int(np.prod(shape))).view(shape)
    tensor = shard(whole, mesh, placements)
    found = layout(tensor, mesh, "`scores`")
    data = local(tensor)
    positions = np.arange(data.numel())
    before = [found.before(i) for i in range(whole.numel() + 2)]
    assert before == [int((data < i).sum()) for i in range(whole.numel() + 2)]
    assert torch.equal(like(data, tensor).full_tensor(), whole)
    return data.tolist(), found.flat().tolist(), found.whole(positions).tolist(), data.flatten().tolist(), found.owns


def partial(mesh):
    layout(DTensor.from_local(torch.ones(2), mesh, [Partial()]), mesh, "`scores`")


def misfit(mesh):
    part = torch.ones(2)
    tensor = DTensor.from_local(part, mesh, [Shard(0)], run_check=False, shape=torch.Size([6]), stride=(1,))
    layout(tensor, mesh, "`scores`")


def fails_on(mesh, rank):
    def work():
        if mesh.get_rank() == rank:
            raise TypeError("`x` must be good.")
        return [1]

    return Wire(mesh).rows(work, 1)


def gathers(mesh, sizes):
    """Each rank has so many equal numbers."""
    wire = Wire(mesh)
    parts = wire.gather(lambda: np.full(sizes[wire.rank], wire.rank, np.int16))
    return [part.tolist() for part in parts]


def exchanges(mesh):
    """Rank a sends a times b numbers to rank b."""
    wire = Wire(mesh)
    parts = wire.exchange(lambda: [np.full(wire.rank * b, 10 * wire.rank + b, np.float32) for b in range(wire.size)])
    return [part.tolist() for part in parts]


def differs(mesh, rank):
    return Wire(mesh).agree(lambda: int(mesh.get_rank() == rank), lambda n: bytes([n]))


def hangs(mesh):
    time.sleep(1000)


def fails_as_a_test(mesh):
    import pytest

    pytest.fail("as a test does")

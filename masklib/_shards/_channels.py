"""Values of channels beside sharded weights: a vector is small, so that every rank may have all of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from masklib import _read
from masklib._shards._layout import layout, like, local, mesh_of
from masklib._shards._wire import Wire


def whole(vectors: Mapping[str, Tensor], weights: Mapping[str, Tensor], argument: str) -> dict[str, Tensor]:
    """All entries of vectors that go with weights, on every rank.

    Raises:
        ValueError: if plain vectors of sharded weights are not the same on all ranks.
    """
    entries = {n: v.full_tensor() if _read.is_sharded(v) else v for n, v in vectors.items()}  # type: ignore[attr-defined]
    made_here = {n: v for n, v in vectors.items() if _read.is_sharded(weights[n]) and not _read.is_sharded(v)}
    if made_here:
        _refuse_different(made_here, mesh_of({"params": weights}), argument)
    return entries


def spread(values: Tensor, weight: Tensor, dim: int) -> Tensor:
    """One value a channel as a DTensor, sharded as the weight is."""
    found = layout(weight, weight.device_mesh, "`params`")  # type: ignore[attr-defined]
    shape = [-1 if d == dim else 1 for d in range(weight.dim())]
    own = values[found.axes()[dim].flatten().to(values.device)]
    return like(own.view(shape).expand(local(weight).shape).contiguous(), weight)


def _refuse_different(vectors: Mapping[str, Tensor], mesh: Any, argument: str) -> None:
    data = b"".join(v.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() for v in vectors.values())
    try:
        Wire(mesh).agree(lambda: data, lambda data: data)
    except ValueError as error:
        raise ValueError(
            f"`{argument}` of sharded weights must be the same on all ranks, and is not, of {list(vectors)}. "
            "Add up what each rank saw, by torch.distributed.all_reduce of `total` and of `count`."
        ) from error

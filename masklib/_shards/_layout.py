"""Where the shard of a DTensor lies in the whole, and which rank counts it.

Along each dim a shard holds a few runs of indices, one after another; its entries are all combinations of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from masklib import _read
from masklib.groups._dims import raveled

Array = np.ndarray[Any, Any]
Runs = tuple[tuple[int, int], ...]  # (start, stop) of each


class Layout(NamedTuple):
    """Which entries of a tensor this rank holds, and whether it is the one that counts them."""

    shape: tuple[int, ...]
    runs: tuple[Runs, ...]  # of each dim
    owns: bool

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape of the shard."""
        return tuple(map(_length, self.runs))

    def axes(self) -> list[Tensor]:
        """The index in the whole of each local index along each dim, in a shape that broadcasts to the shard's."""
        dims = len(self.shape)
        arrays = [torch.from_numpy(_indices(runs)) for runs in self.runs]
        return [a.view([-1 if d == dim else 1 for d in range(dims)]) for dim, a in enumerate(arrays)]

    def flat(self) -> Tensor:
        """The flat index in the whole of each entry of the shard, in the shard's shape."""
        return raveled(self.axes(), self.shape)

    def whole(self, positions: Array) -> Array:
        """The flat indices in the whole of flat positions in the shard, in the same order."""
        if not self.shape or not positions.size:
            return positions.astype(np.int64)
        local = np.unravel_index(positions, self.sizes)
        return np.ravel_multi_index([_indices(r)[i] for r, i in zip(self.runs, local)], self.shape).astype(np.int64)

    def before(self, index: int) -> int:
        """How many entries of the shard come before a flat index of the whole."""
        if index >= math.prod(self.shape):
            return math.prod(self.sizes)
        found = 0
        for dim, at in enumerate(np.unravel_index(index, self.shape) if self.shape else ()):
            inner = math.prod(self.sizes[dim + 1 :])
            found += inner * sum(min(max(int(at) - start, 0), stop - start) for start, stop in self.runs[dim])
            if not any(start <= at < stop for start, stop in self.runs[dim]):
                break
        return found


def mesh_of(arguments: Mapping[str, Mapping[str, Any]]) -> Any:
    """The mesh of all DTensors among some arguments' tensors by name.

    Raises:
        ValueError: if there are several, or this rank is on none.
    """
    found: dict[str, Any] = {}
    for argument, entries in arguments.items():
        for name, tensor in entries.items():
            if isinstance(tensor, Tensor) and _read.is_sharded(tensor):
                found[_read.place(name, argument)] = tensor.device_mesh  # type: ignore[attr-defined]
    (where, mesh), *others = found.items()
    for place, other in others:
        if other != mesh:
            raise ValueError(
                f"all DTensors of one call must be on one mesh, got {where} on {mesh} and {place} on {other}. "
                "Call once for each mesh."
            )
    if mesh.get_coordinate() is None:
        raise ValueError(f"{where} is on {mesh}, of which this rank is no part. Call on the ranks of the mesh alone.")
    return mesh


def layout(tensor: Tensor, mesh: Any, where: str) -> Layout:
    """Where this rank's part lies; of a plain tensor, which all ranks have, the first rank counts.

    Raises:
        TypeError: if the DTensor's values are sums that are still to be added up.
    """
    if not _read.is_sharded(tensor):
        whole: tuple[Runs, ...] = tuple(((0, size),) for size in tensor.shape)
        return Layout(tuple(tensor.shape), whole, not any(mesh.get_coordinate()))
    placements = tensor.placements  # type: ignore[attr-defined]
    is_summed(tensor, where)
    along = tuple(_runs_of_dim(size, dim, placements, mesh) for dim, size in enumerate(tensor.shape))
    replicated = [c for c, p in zip(mesh.get_coordinate(), placements) if p.is_replicate()]
    found = Layout(tuple(tensor.shape), along, not any(replicated))
    _is_as_it_lies(found, tensor, where)
    return found


def is_summed(tensor: Tensor, where: str) -> None:
    """Refuse a DTensor whose ranks hold parts of sums."""
    if any(p.is_partial() for p in tensor.placements):  # type: ignore[attr-defined]
        raise TypeError(
            f"{where} must have its values, got a DTensor of {tensor.placements}, sums still to be added up. "  # type: ignore[attr-defined]
            "Pass .redistribute(placements=[Replicate()])."
        )


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor, detached."""
    if not _read.is_sharded(tensor):
        return tensor.detach()
    part = tensor.detach().to_local()  # type: ignore[attr-defined]
    return part.wait() if hasattr(part, "wait") else part


def like(part: Tensor, tensor: Tensor) -> Tensor:
    """The tensor of which this rank holds a part, on the mesh and with the placements of another, contiguous."""
    if not _read.is_sharded(tensor):
        return part
    from torch.distributed.tensor import DTensor

    stride = torch.empty(tensor.shape, device="meta").stride()
    mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=tensor.shape, stride=stride)


# ---- along one dim --------------------------------------------------------------------------------------------------


def _runs_of_dim(size: int, dim: int, placements: Sequence[Any], mesh: Any) -> Runs:
    """What is left of a dim's indices after each mesh dim took its part: as torch chunks, from left to right."""
    runs: Runs = ((0, size),)
    for mesh_dim, (placement, at) in enumerate(zip(placements, mesh.get_coordinate())):
        if getattr(placement, "dim", None) == dim:
            pieces = _chunks(runs, getattr(placement, "split_factor", 1))  # of a _StridedShard, which is no Shard
            runs = tuple(run for piece in pieces for run in _chunks(piece, mesh.size(mesh_dim))[at])
    return runs


def _chunks(runs: Runs, count: int) -> list[Runs]:
    """Cut runs into so many parts as `torch.chunk` does, the last ones shorter or empty."""
    step = -(-_length(runs) // count)
    return [_slice(runs, i * step, (i + 1) * step) for i in range(count)]


def _slice(runs: Runs, start: int, stop: int) -> Runs:
    """The runs of what is between two positions."""
    found, before = [], 0
    for first, last in runs:
        low, high = max(start - before, 0), min(stop - before, last - first)
        if low < high:
            found.append((first + low, first + high))
        before += last - first
    return tuple(found)


def _length(runs: Iterable[tuple[int, int]]) -> int:
    return sum(stop - start for start, stop in runs)


def _indices(runs: Runs) -> Array:
    parts = [np.arange(start, stop, dtype=np.int64) for start, stop in runs]
    return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.empty(0, np.int64)


def _is_as_it_lies(found: Layout, tensor: Tensor, where: str) -> None:
    """Refuse a shard that lies in another way than its placements say, or whose indices are not in order."""
    part = tuple(local(tensor).shape)
    ordered = all(a[1] <= b[0] for runs in found.runs for a, b in pairwise(runs))
    if part != found.sizes or not ordered:
        placements = tensor.placements  # type: ignore[attr-defined]
        raise ValueError(
            f"{where} must hold what its placements {placements} say of shape {found.shape}, {found.sizes} on this "
            f"rank, got {part}. Make it by distribute_tensor, or from_local with `shape` and `stride`."
        )

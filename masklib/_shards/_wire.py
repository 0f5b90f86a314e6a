"""What crosses between the ranks of a mesh: counts, and few values.

Each exchange begins with a row of numbers from every rank, in which a rank that failed says so: then all ranks raise
its error, and none waits for data that never come. Values travel as bytes of numpy arrays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from masklib import _read
from masklib._names import named

Array = np.ndarray[Any, Any]
T = TypeVar("T")

_KINDS = (ValueError, TypeError, IndexError)
_UNEVEN = 2  # padded to the longest, an all-gather of parts this uneven sends more than a broadcast of each


class Wire:
    """The ranks of a mesh, in row-major order."""

    def __init__(self, mesh: Any) -> None:
        self._mesh = mesh
        self.size, self.rank = mesh.size(), _position(mesh.get_coordinate(), mesh.mesh.shape)
        self._device = _device_of(mesh)

    def rows(self, work: Callable[[], Sequence[int]], width: int) -> Array:
        """The numbers that each rank's work returns, of one width: (ranks, numbers).

        Raises:
            ValueError, TypeError, IndexError: what the first rank that failed raised, on all ranks.
        """
        numbers, error = _tried(work)
        table = self._fixed([0, *numbers] if error is None else [1] + [0] * width)
        if table[:, 0].any():
            self._raise(int(np.flatnonzero(table[:, 0])[0]), error)
        return table[:, 1:]

    def agree(self, work: Callable[[], T], what: Callable[[T], bytes] = lambda _: b"") -> T:
        """What this rank's work returns, if that of every rank returned; they must be equal in what `what` says.

        Raises:
            ValueError, TypeError, IndexError: what the first rank that failed raised, on all ranks.
        """
        result: list[T] = []

        def number() -> list[int]:
            result.append(work())
            return [digest(what(result[0]))]

        table = self.rows(number, 1)[:, 0]
        if (table != table[0]).any():
            raise ValueError(
                "all ranks must call with the same numbers, groups, names, shapes and dtypes, and the same plain "
                f"tensors, but the call of rank {np.flatnonzero(table != table[0])[0]} of the mesh differs from that "
                "of rank 0. Broadcast from one rank what was made on each."
            )
        return result[0]

    def gather(self, work: Callable[[], Array]) -> list[Array]:
        """The one-dimensional array that each rank's work returns, of one dtype."""
        result: list[Array] = []

        def size() -> list[int]:
            result.append(work())
            return [result[0].nbytes]

        sizes = self.rows(size, 1)[:, 0]
        data, stops = self._bytes(result[0], sizes), np.cumsum(sizes)
        return [data[stop - size : stop].view(result[0].dtype) for size, stop in zip(sizes, stops)]

    def exchange(self, work: Callable[[], Sequence[Array]]) -> list[Array]:
        """What each rank's work has for this one; `work` returns an array for each rank, all of one dtype."""
        result: list[Sequence[Array]] = []

        def sizes() -> list[int]:
            result.append(work())
            return [part.nbytes for part in result[0]]

        table = self.rows(sizes, self.size)
        incoming = [torch.empty(int(size), dtype=torch.uint8, device=self._device) for size in table[:, self.rank]]
        outgoing = [torch.from_numpy(_bytes_of(part)).to(self._device) for part in result[0]]
        _all_to_all(self._mesh, self.rank, outgoing, incoming)
        return [part.cpu().numpy().view(result[0][0].dtype) for part in incoming]

    # ---- one collective ---------------------------------------------------------------------------------------------

    def _fixed(self, numbers: list[int]) -> Array:
        """Equally many numbers of every rank."""
        table = torch.tensor([numbers], dtype=torch.int64, device="cpu").view(1, len(numbers)).to(self._device)
        for dim in reversed(range(self._mesh.ndim)):
            table = torch.cat(_all_gather(table.contiguous(), self._mesh, dim))
        return table.cpu().numpy()

    def _bytes(self, array: Array, sizes: Array) -> Array:
        """The bytes of every rank, one behind another: over one mesh dim after another."""
        shape = tuple(self._mesh.mesh.shape)
        part = torch.from_numpy(_bytes_of(array)).to(self._device)
        held = sizes.reshape(shape)
        for dim in reversed(range(len(shape))):
            at = tuple(self._mesh.get_coordinate()[:dim])
            counts = held[at].reshape(shape[dim], -1).sum(1)
            part = torch.cat(_all_gather_uneven(part, [int(c) for c in counts], self._mesh, dim))
        return part.cpu().numpy()

    def _raise(self, first: int, error: Exception | None) -> None:
        """Raise on all ranks what the first that failed has to say."""
        text = np.frombuffer(bytearray(_told(error).encode() if self.rank == first else b""), np.uint8)
        message = self._bytes(text, self._fixed([text.size])[:, 0]).tobytes().decode()
        kind, _, said = message.partition(":")
        raise _KINDS[int(kind)](said) from (error if self.rank == first else None)


def on_all_ranks(tensors: Sequence[Any], check: Callable[[], None]) -> None:
    """Run a check; where a DTensor is among some tensors, or mappings of them, all ranks raise what one raises."""
    if not _read.is_any_sharded(*tensors):
        return check()
    found = [t for value in tensors for t in named(value).values() if isinstance(t, Tensor) and _read.is_sharded(t)]
    Wire(found[0].device_mesh).agree(check)  # type: ignore[attr-defined]


def digest(data: bytes) -> int:
    """64 bits that are equal for equal bytes, and almost surely for no others."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


def _tried(work: Callable[[], T]) -> tuple[Any, Exception | None]:
    try:
        return work(), None
    except Exception as error:  # whatever it is, the other ranks are not to wait
        return None, error


def _told(error: Exception | None) -> str:
    """The kind and text of an error; what is none of ours is told as a ValueError."""
    for number, kind in enumerate(_KINDS):
        if isinstance(error, kind):
            return f"{number}:{error}"
    return f"0:a rank of the mesh failed: {type(error).__name__}: {error}"


def _bytes_of(array: Array) -> Array:
    return np.ascontiguousarray(array).view(np.uint8) if array.size else np.empty(0, np.uint8)


def _position(coordinate: Sequence[int], shape: Sequence[int]) -> int:
    return int(np.ravel_multi_index(tuple(coordinate), tuple(shape)))


def _device_of(mesh: Any) -> torch.device:
    """Where collectives of the mesh take their tensors."""
    kind = mesh.device_type
    return torch.device(kind) if kind == "cpu" else torch.device(kind, torch.get_device_module(kind).current_device())


def _all_gather(part: Tensor, mesh: Any, dim: int) -> list[Tensor]:
    import torch.distributed as dist

    parts = [torch.empty_like(part) for _ in range(mesh.size(dim))]
    dist.all_gather(parts, part, group=mesh.get_group(dim))
    return parts


def _all_gather_uneven(part: Tensor, sizes: Sequence[int], mesh: Any, dim: int) -> list[Tensor]:
    """Parts of these sizes: padded to one, or each sent to all by itself, whichever is less."""
    import torch.distributed as dist

    longest, group = max(sizes), mesh.get_group(dim)
    if not longest:
        return [part]
    if longest * len(sizes) <= _UNEVEN * sum(sizes):
        padded = torch.cat([part, part.new_zeros(longest - part.numel())])
        return [whole[:size] for whole, size in zip(_all_gather(padded, mesh, dim), sizes)]
    parts = [part if i == mesh.get_local_rank(dim) else part.new_empty(size) for i, size in enumerate(sizes)]
    for i, each in enumerate(parts):
        if each.numel():
            dist.broadcast(each, dist.get_global_rank(group, i), group=group)
    return parts


def _all_to_all(mesh: Any, rank: int, outgoing: Sequence[Tensor], incoming: Sequence[Tensor]) -> None:
    """Send each part to its rank, point to point: over the mesh's own group, or the world's if it has several dims."""
    import torch.distributed as dist

    ranks = mesh.mesh.flatten().tolist()
    group = mesh.get_group() if mesh.ndim == 1 else None
    incoming[rank].copy_(outgoing[rank])
    messages = []
    for step in range(1, len(ranks)):
        to, source = (rank + step) % len(ranks), (rank - step) % len(ranks)
        if outgoing[to].numel():
            messages.append(dist.P2POp(dist.isend, outgoing[to], ranks[to], group))
        if incoming[source].numel():
            messages.append(dist.P2POp(dist.irecv, incoming[source], ranks[source], group))
    for request in dist.batch_isend_irecv(messages) if messages else []:
        request.wait()

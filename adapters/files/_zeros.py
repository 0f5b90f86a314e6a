"""What is zero in a checkpoint, tensor by tensor, in constant memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from masklib.selection._streamed import run_of, runs, unit

from ._checkpoint import Checkpoint
from ._header import read_header
from ._mask_stream import streamed_masks
from ._masks import read_metadata
from ._names import a_path
from ._reading import Counter, reading

_PATTERNS = ((1, 4), (2, 4), (4, 8))  # N:M that kernels or papers know


class Zeros(NamedTuple):
    """What is zero in one tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    zeros: int
    pattern: str  # "2:4" if no window of 4 along the last dim has more than 2 that are not zero, and so on; or ""

    @property
    def size(self) -> int:
        """How many elements it has."""
        return torch.Size(self.shape).numel()

    @property
    def sparsity(self) -> float:
        """The share of zeros."""
        return self.zeros / max(self.size, 1)


def zeros_of_masks(path: Any) -> tuple[dict[str, Zeros], tuple[Any, ...]]:
    """What a file of masks kills, and its history; nothing is unpacked but a run at a time."""
    _, steps = read_metadata(read_header(a_path(path)))
    with streamed_masks(path) as masks:
        return {name: zeros_of(mask) for name, mask in masks.items()}, steps


def zeros(checkpoint: Checkpoint, tell: Callable[[int, int], None] | None = None) -> Iterator[tuple[str, Zeros]]:
    """Count what is zero in each tensor; nothing is read before the next is asked for.

    Args:
        checkpoint: from `open_checkpoint`.
        tell: is called with the bytes read so far.

    Yields:
        Names, and what is zero.
    """
    with reading(checkpoint, Counter(tell)) as files:
        for name in checkpoint:
            entry = checkpoint.entries.get(name)
            yield name, zeros_of(checkpoint[name] if entry is None else files.tensor(entry))


def zeros_of(tensor: Tensor) -> Zeros:
    """Of one tensor, in chunks of whole windows."""
    fitting = [(n, m) for n, m in _PATTERNS if tensor.dim() > 1 and tensor.shape[-1] % m == 0]
    count = 0
    for start, stop in runs(tensor.numel(), math.lcm(8, unit(tensor))):
        alive = _alive(run_of(tensor, start, stop, {}))
        count += stop - start - int(alive.count_nonzero())
        fitting = [(n, m) for n, m in fitting if int(alive.view(-1, m).sum(1).max()) <= n]
    pattern = f"{fitting[0][0]}:{fitting[0][1]}" if fitting and count < tensor.numel() else ""
    return Zeros(tuple(tensor.shape), tensor.dtype, count, pattern)


def _alive(run: Tensor) -> Tensor:
    """Which elements are not zero, -0.0 being zero too; of float8 too, which torch does not compare."""
    return run.float() != 0 if run.is_floating_point() and run.element_size() == 1 else run != 0

"""What is dead in one tensor, counted in runs, so that it need never be whole."""

from __future__ import annotations

from math import lcm, prod
from typing import NamedTuple

import torch
from torch import Tensor

from masklib.selection._pieces import CHUNK
from masklib.selection._streamed import run_of, unit

_PATTERNS = ((1, 4), (2, 4), (4, 8))  # N:M that kernels or papers know
_INDEX = 4  # bytes of an index in CSR: int32 reaches 2 billion columns, and as many nonzeros


class Layer(NamedTuple):
    """What is dead in one weight.

    Attributes:
        shape: of the weight.
        dtype: of the weight; torch.bool if only its mask is known, whose weights count as float32.
        kept: how many entries live.
        dead_channels: how many slices along dim 0, and along dim 1, are dead as a whole; empty of fewer than two dims.
        pattern: "2:4" if no window of 4 along the last dim has more than 2 that live, and so on; or "".
        heads: how many attention heads are dead, and how many there are; None of what has none.
        uses: how many times the inputs use each entry; None if there were no inputs, or nobody counted.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    kept: int
    dead_channels: tuple[int, ...]
    pattern: str
    heads: tuple[int, int] | None = None
    uses: int | None = None

    @property
    def size(self) -> int:
        """How many entries there are."""
        return prod(self.shape)

    @property
    def dead(self) -> int:
        """How many entries are dead."""
        return self.size - self.kept

    @property
    def sparsity(self) -> float:
        """The dead share."""
        return self.dead / max(self.size, 1)

    @property
    def itemsize(self) -> int:
        """Bytes of an entry."""
        return 4 if self.dtype == torch.bool else self.dtype.itemsize

    @property
    def dense_bytes(self) -> int:
        """Bytes with all the zeros."""
        return self.size * self.itemsize

    @property
    def packed_bytes(self) -> int:
        """Bytes of what lives and of a bit an entry, which a dense weight does without."""
        return self.kept * self.itemsize + -(-mask_bits(self.kept, self.size) // 8)

    @property
    def csr_bytes(self) -> int:
        """Bytes of compressed rows with 32-bit indices: what lives, its columns, and where each row begins."""
        if len(self.shape) < 2:
            return self.dense_bytes
        return self.kept * (self.itemsize + _INDEX) + (self.shape[0] + 1) * _INDEX

    @property
    def flops(self) -> int | None:
        """Two operations, a product and a sum, for each use of what lives; None if uses are not known."""
        return None if self.uses is None else 2 * self.uses * self.kept


def mask_bits(kept: int, size: int) -> int:
    """How many bits say which entries live: none where all do."""
    return size if kept < size else 0


def measured(tensor: Tensor) -> Layer:
    """Count what is zero in a tensor, or False in a mask."""
    count, lines, patterns = 0, _Lines(tuple(tensor.shape)), _Patterns(tuple(tensor.shape))
    step = _step(tensor)
    for start in range(0, tensor.numel(), step):
        run = _nonzero(run_of(tensor, start, min(start + step, tensor.numel()), {}))
        kept = int(run.count_nonzero())
        count += kept
        lines.see(run, kept)
        patterns.see(run, kept)
    pattern = patterns.strictest if count < tensor.numel() else ""
    return Layer(tuple(tensor.shape), tensor.dtype, count, lines.dead, pattern)


def _step(tensor: Tensor) -> int:
    """How many neighbours are looked at together: whole rows of a matrix, whole bytes of a vector."""
    together = max(prod(tensor.shape[1:]), 1) if tensor.dim() > 1 else lcm(8, unit(tensor))
    return max(CHUNK // together, 1) * together


class _Lines:
    """Which slices along the first two dims have anything that lives."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.sides = (shape[1], prod(shape[2:])) if len(shape) > 1 else ()
        self.rows = 0  # dead ones
        self.columns = torch.full(shape[1:2] if self.sides else (0,), prod(shape) == 0, device="cpu")

    def see(self, run: Tensor, kept: int) -> None:
        """Look at whole rows."""
        if not self.sides or kept == run.numel():  # nothing is dead in most runs of most models
            self.columns[:] = True
            return
        slices = run.view(-1, *self.sides).any(2)
        self.rows += int((~slices.any(1)).sum())
        self.columns |= slices.any(0).to(self.columns.device)

    @property
    def dead(self) -> tuple[int, ...]:
        """How many along each of the two dims."""
        return (self.rows, int((~self.columns).sum())) if self.sides else ()


class _Patterns:
    """Which N:M patterns still fit."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.fitting = [(n, m) for n, m in _PATTERNS if len(shape) > 1 and shape[-1] % m == 0]

    def see(self, run: Tensor, kept: int) -> None:
        """Look at whole windows."""
        self.fitting = [(n, m) for n, m in self.fitting if kept * m <= n * run.numel() and _fits(run, n, m)]

    @property
    def strictest(self) -> str:
        """As it is written."""
        return ":".join(map(str, self.fitting[0])) if self.fitting else ""


def _fits(run: Tensor, n: int, m: int) -> bool:
    return int(run.view(-1, m).sum(1).max()) <= n


def _nonzero(run: Tensor) -> Tensor:
    """Which elements are not zero, -0.0 being zero too; of float8 too, which torch does not compare."""
    return run.float() != 0 if run.is_floating_point() and run.element_size() == 1 else run != 0

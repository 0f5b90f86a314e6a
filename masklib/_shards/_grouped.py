"""What a rank holds of a tensor, brought together by row: an item, or as much of it as lies here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from masklib._shards._layout import Layout
from masklib.groups._folding import Folding

Array = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


class Grouped(NamedTuple):
    """Entries of a shard by the row of the whole tensor's folding that they are in."""

    rows: Tensor  # (m,) int64, rising: the rows of which something is here
    counts: Tensor  # (m,) int64: how many entries of each
    folding: Folding | None  # of the shard, whose rows are those, in order; or
    order: Tensor  # flat positions in the shard, row by row

    def matrices(self, scores: Tensor, alive: Tensor | None) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """Which rows (indices of `rows`), their scores (n, entries), and which of these live."""
        if self.folding is not None:
            padding = torch.ones_like(scores, dtype=torch.bool) if self.folding.padded and alive is None else alive
            live = None if padding is None else self.folding.matrix(padding)
            return [(torch.arange(len(self.rows), device="cpu"), self.folding.matrix(scores), live)]
        flat, living = scores.reshape(-1), None if alive is None else alive.reshape(-1)
        return [self._of_length(which, flat, living) for which in _lengths(self.counts)]

    def _of_length(self, which: Tensor, scores: Tensor, alive: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rows of about one length as a matrix, the shorter ones filled up with what is dead."""
        counts = self.counts[which]
        width = int(counts.max())
        step = torch.arange(width, device="cpu")
        first = (self.counts.cumsum(0) - self.counts)[which]
        inside = step < counts[:, None]
        index = self.order[(first[:, None] + step).clamp(max=max(len(self.order) - 1, 0))].to(scores.device)
        valid = None if bool(inside.all()) else inside.to(scores.device)
        if alive is None:
            return which, scores[index], valid
        return which, scores[index], alive[index] if valid is None else alive[index] & valid

    def spread(self, fates: Tensor, shape: Sequence[int]) -> Tensor:
        """The mask of the shard from that of the rows; what is in no row stays."""
        if self.folding is not None:
            wide = fates.reshape(-1, 1).expand(self.folding.rows, self.folding.elements)
            return self.folding.restore(wide, shape).contiguous()
        mask = torch.ones(tuple(shape), dtype=torch.bool, device=fates.device)
        counts = self.counts.to(fates.device)
        mask.view(-1)[self.order.to(fates.device)] = fates.repeat_interleave(counts)
        return mask


def rows_of(folding: Folding, layout: Layout) -> Tensor:
    """The row that each entry of a shard is in, in the shard's shape; -1 for none."""
    if 0 in layout.sizes:
        return torch.empty(layout.sizes, dtype=torch.int64, device="cpu")
    if folding.into is None:
        return layout.flat()
    if folding.where is not None:
        return folding.where(layout.axes()).expand(layout.sizes)
    size = int(np.prod(layout.shape))
    places = folding.matrix(torch.arange(1, size + 1, device="cpu").view(layout.shape))  # 0 is padding
    row_of = torch.full((size + 1,), -1, device="cpu")
    row_of[places.reshape(-1)] = torch.arange(folding.rows, device="cpu").repeat_interleave(folding.elements)
    return row_of[1:][layout.flat()]


def grouped(folding: Folding, own: Folding | None, layout: Layout) -> Grouped:
    """Bring the entries of a shard together by row: by the folding of the shard's own shape, if it does just that."""
    row = rows_of(folding, layout)
    return _as_folded(own, row) or by_sorting(row)


def _as_folded(own: Folding | None, row: Tensor) -> Grouped | None:
    """The shard as its own shape folds, if each row of that is of one row of the whole, and they rise."""
    if own is None or not row.numel():
        return None
    matrix = own.matrix(row)
    if not own.padded:
        rows, counts = matrix[:, 0], torch.full((own.rows,), own.elements, device="cpu")
        same = bool((matrix == rows[:, None]).all())
    else:
        here = own.matrix(torch.ones_like(row, dtype=torch.bool))
        rows, counts = matrix.where(here, -1).amax(1), here.sum(1)
        same = bool(((matrix == rows[:, None]) | ~here).all()) and bool(counts.all())
    if not same or bool((rows < 0).any()) or not bool((rows[1:] > rows[:-1]).all()):
        return None
    if int(counts.sum()) != row.numel():
        return None
    return Grouped(rows, counts, own, torch.empty(0, dtype=torch.int64, device="cpu"))


def by_sorting(row: Tensor) -> Grouped:
    """Bring entries together by any row numbers."""
    flat = row.reshape(-1)
    order = flat.argsort(stable=True)
    order = order[int((flat < 0).sum()) :]  # those in no row come first
    rows, counts = flat[order].unique_consecutive(return_counts=True)
    return Grouped(rows, counts, None, order)


def _lengths(counts: Tensor) -> list[Tensor]:
    """Indices of rows whose lengths are within a factor of two, so that a matrix of them is at least half full."""
    if not len(counts):
        return []
    if bool((counts == counts[0]).all()):
        return [torch.arange(len(counts), device="cpu")]
    size = torch.frexp(counts.double()).exponent
    return [(size == s).nonzero()[:, 0] for s in size.unique()]

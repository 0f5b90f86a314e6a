"""The source of tensors that are read in runs, such as those of a file: constant memory, whatever the size of the pool.

It is the source of tensors in memory, but that a chunk is read when its turn comes and no mask is kept: what is few is
collected, and the masks are made run by run from the cut, when they are read themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from masklib.selection._cut import Array, Cut, survivors
from masklib.selection._memory import Chunk, Memory, joined
from masklib.selection._order import common_dtype
from masklib.selection._pieces import Piece, reader
from masklib.selection._streamed import Memo, Read, Streamed, run_of, runs, unit
from masklib.selection._threads import scratch, threaded

_RUN = 256  # neighbours a sample takes together: a read each, so that shorter runs cost more than the pass they save


class _Stretch(NamedTuple):
    """A run of a tensor and of its mask, and the pool's index of its first element."""

    scores: Tensor
    alive: Tensor | None
    first: int
    last: int
    start: int

    @property
    def mask(self) -> range:
        """What has the size of the run's mask, which is kept nowhere."""
        return range(self.start, self.start + self.last - self.first)


class Pool(NamedTuple):
    """What was decided over one pool: where the masks that came of it are from."""

    scores: Sequence[Tensor]
    alive: Sequence[Tensor | None]
    how: tuple[torch.dtype, bool]  # in which dtype they were ranked, and whether by magnitude
    cut: Cut
    kept: int  # how many live in all of it


class Stream(Memory):
    """Tensors that are read in runs as one pool, in the order given."""

    run = _RUN

    def __init__(self, scores: Sequence[Tensor], alive: Sequence[Tensor | None], by_magnitude: bool) -> None:
        self._scores, self._alive = scores, [None if is_full(a) else a for a in alive]
        self._starts = list(accumulate((s.numel() for s in scores), initial=0))
        chunks = [
            _Stretch(s, a, first, last, start + first)
            for s, a, start in zip(scores, self._alive, self._starts)
            for first, last in runs(s.numel(), unit(s, a))
        ]
        self._begin(chunks, self._starts[-1], common_dtype(s.dtype for s in scores), by_magnitude)
        self._made_by = _pool(self._alive)
        self.live = self._count_alive() if self._made_by is None else self._made_by.kept

    def _count_alive(self) -> int:
        return sum(s.numel() if a is None else int(torch.count_nonzero(a)) for s, a in zip(self._scores, self._alive))

    def _at_hand(self, chunk: Any) -> Chunk:
        """Read a chunk, with room for a mask that is counted and forgotten."""
        piece, alive = _read(chunk.scores, chunk.alive, chunk.first, chunk.last, self._dtype, {})
        return Chunk(piece, alive, np.empty(chunk.last - chunk.first, bool), chunk.start)

    def sample(self, stride: int) -> Array:
        """Runs of neighbours, so far apart that one element in `stride` is read, from a start that moves."""
        period = stride * _RUN

        def share(part: Sequence[tuple[int, _Stretch]]) -> list[Array]:
            with scratch(_RUN * self._dtype.itemsize) as room:
                read = reader(self._dtype, self._by_magnitude, room)
                return [
                    values for i, stretch in part for values in self._sampled(read, stretch, i * 7919 % stride, period)
                ]

        parts = threaded(share, list(enumerate(self._chunks)), self.elements)
        return joined([values for part in parts for values in part], self._empty())

    def _sampled(self, read: Callable[[Piece], Array], stretch: _Stretch, at: int, period: int) -> list[Array]:
        """The runs of one stretch, of which one that is shorter than a period has none at times."""
        found = []
        memo: Memo = {}
        for first in range(stretch.first + at * _RUN, stretch.last, period):
            last = min(first + _RUN, stretch.last)
            piece, alive = _read(stretch.scores, stretch.alive, first, last, self._dtype, memo)
            values = read(piece)
            found.append(values.copy() if alive is None else values[alive])
        return found

    def masks_of(self, cut: Cut, kept: int) -> list[Any]:
        """The masks, of which a run is made when it is read; `kept` is how many live in all of them.

        If the pool was cut before, the higher cut alone decides, so that a history is no longer than its last step.
        """
        self._between, alive, how = [], self._alive, (self._dtype, self._by_magnitude)
        before = self._made_by
        if before is not None and before.how == how and all(a is b for a, b in zip(before.scores, self._scores)):
            cut, alive = max(cut, before.cut, key=_height), list(before.alive)
        pool = Pool(self._scores, alive, how, cut, kept)
        masks = [
            Streamed(s.shape, torch.bool, _cut(s, a, start, cut, *how), unit(s, a))
            for s, a, start in zip(self._scores, alive, self._starts)
        ]
        for i, mask in enumerate(masks):
            mask.origin = pool, i
        if len(masks) == 1:
            masks[0].ones = kept
        return masks


def _pool(alive: Sequence[Tensor | None]) -> Pool | None:
    """The pool whose masks these are, all of them and in its order."""
    origins = [getattr(a, "origin", (None, 0)) for a in alive]
    pool = origins[0][0] if origins else None
    whole = pool is not None and len(pool.scores) == len(alive)
    return pool if whole and all(p is pool and i == at for at, (p, i) in enumerate(origins)) else None


def _height(cut: Cut) -> tuple[bool, Any, int]:
    """What orders the cuts of one pool."""
    return cut.value is not None, 0 if cut.value is None else cut.value, cut.index


def is_full(alive: Any) -> bool:
    """Whether all are known to live."""
    return isinstance(alive, Streamed) and alive.ones == alive.numel()


def _read(
    scores: Tensor, alive: Tensor | None, first: int, last: int, dtype: torch.dtype, memo: Memo
) -> tuple[Piece, Any]:
    """A run of the scores and of their mask."""
    values = run_of(scores, first, last, memo)
    native = values.dtype == dtype and values.is_contiguous()
    return values.numpy() if native else values, None if alive is None else run_of(alive, first, last, memo).numpy()


def _cut(scores: Tensor, alive: Tensor | None, start: int, cut: Cut, dtype: torch.dtype, magnitude: bool) -> Read:
    """What makes a run of a mask from the cut of its pool, in which the tensor begins at an index."""

    def run(first: int, last: int, memo: Memo) -> Tensor:
        piece, live = _read(scores, alive, first, last, dtype, memo)
        with scratch((last - first) * dtype.itemsize) as room:
            values = reader(dtype, magnitude, room)(piece)
            return torch.from_numpy(survivors(values, start + first, cut, live))

    return run

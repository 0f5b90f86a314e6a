"""One block of columns of SparseGPT, on tensors or, where these are plain, on the numpy arrays of the same memory.

The code is one, as both know slices, products and powers. numpy's small calls take a third of torch's time, and N:M
patterns make a dozen of them for every few columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from masklib.selection import direct
from masklib.surgery._blocks import Choose, Run

_STEP = 16  # columns that are settled one by one; what they do to the columns behind them is one matrix product


class Block(NamedTuple):
    """What is known of a block, transposed: (columns of the block, out), or (columns, columns) within it."""

    columns: Any  # the weight
    shift: Any  # what comes from before the block
    unit: Any  # the upper factor R with a diagonal of ones
    inverse: Any  # of `unit`
    sizes: Any  # (columns, 1), the diagonal of R


def settle_block(block: Block, lost: Tensor, runs: Sequence[Run], choose: Choose) -> list[Tensor]:
    """Choose run by run who stays, and write what the columns of the block lose; the masks of the runs."""
    if not direct(lost, *block):
        return _settle_runs(block, lost, runs, choose, torch.where)
    arrays = Block(*(t.numpy() for t in block))
    return _settle_runs(arrays, lost.numpy(), runs, lambda s, *run: choose(torch.from_numpy(s), *run), np.where)


def _settle_runs(
    block: Block, lost: Any, runs: Sequence[Run], choose: Callable[..., Tensor], where: Callable[..., Any]
) -> list[Tensor]:
    masks = []
    for first, last in runs:
        run = slice(first, last)
        moved = block.shift[run]
        if first:
            moved = moved + block.unit[:first, run].T @ lost[:first]
        now = block.columns[run] + block.inverse[run, run].T @ moved
        masks.append(choose((now * block.sizes[run]) ** 2, first, last))
        kept = masks[-1].T if isinstance(lost, Tensor) else masks[-1].numpy().T
        _settle(lost[run], block.columns[run], moved, block.unit[run, run], kept, where)
    return masks


def _settle(lost: Any, columns: Any, moved: Any, unit: Any, kept: Any, where: Callable[..., Any]) -> None:
    """Write what the columns of a run lose: D(j) = W(j) where pruned, else -(what comes from before it + D R(j))."""
    for start in range(0, len(columns), _STEP):
        stop = min(start + _STEP, len(columns))
        here = moved[start:stop]
        if start:
            here = here + unit[:start, start:stop].T @ lost[:start]
        for j in range(start, stop):
            step = here[j - start]
            if j > start:
                step = step + unit[start:j, j] @ lost[start:j]
            lost[j] = where(kept[j], -step, columns[j])

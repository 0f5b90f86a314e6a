"""Which columns of a weight are chosen together, from shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from masklib import selection
from masklib._amounts import how_many
from masklib.groups._plan import folded, folds
from masklib.methods import compute_mask

Run = tuple[int, int]  # columns from one to before another
Blocks = list[list[Run]]  # the runs of columns that are chosen together, block by block


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def runs(groups: Any, name: str, shape: tuple[int, ...], block: int) -> Blocks:
    """The columns that are chosen together: block by block, and within a block as few as no pool spans."""
    refuse_others(groups)
    if not 1 <= block < 2**63:
        raise ValueError(f"`block` must be a positive number of columns, got {block}. For example block=128.")
    _refuse_cut_items(groups, name, shape, block)
    starts = range(0, shape[1], block)
    widths = {s: min(block, shape[1] - s) for s in starts}
    narrow = {width: _narrow(groups, (shape[0], width), block) for width in set(widths.values())}
    return [[(s + a, s + b) for a, b in narrow[widths[s]]] for s in starts]


Choose = Callable[[Tensor, int, int], Tensor]  # from saliencies (columns, out) of a run to its mask (out, columns)


def chooser(
    name: str, groups: Any, numbers: Mapping[str, Any], rows: int, blocks: Blocks
) -> Callable[[Tensor | None], Choose]:
    """What chooses who stays in the runs of a block, of which is known what lives.

    Where each row of a run is a pool, as of `rows` and `windows`, it is ranked as it lies: N:M patterns have a run for
    every few columns, and to fold them takes longer than to rank them.
    """
    counting, number = how_many(**numbers)
    widths = {last - first for block in blocks for first, last in block}
    whole = {width for width in widths if _is_pool_a_row(groups, (rows, width))}
    many = selection.as_tensor(number)

    def of_block(alive: Tensor | None) -> Choose:
        def choose(saliency: Tensor, first: int, last: int) -> Tensor:
            live = None if alive is None else alive[:, first:last]
            if last - first in whole:
                return selection.lowest_in_rows(saliency.T, live, None, many, counting, name, False)
            given = None if live is None else {name: live}
            return compute_mask({name: saliency.T.contiguous()}, given, groups=groups, **numbers)[name]

        return choose

    return of_block


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _is_pool_a_row(groups: Any, shape: tuple[int, int]) -> bool:
    """Whether each row is a pool, whose items are its entries in their order."""
    folding = _fold_block(groups, shape, shape[1])
    if (folding.pools, folding.items, folding.elements, folding.padded) != (*shape, 1, False):
        return False
    places = torch.arange(shape[0] * shape[1], device="cpu")
    return bool((folding.matrix(places.view(shape)).flatten() == places).all())


def refuse_others(groups: Any) -> None:
    """Refuse groups that do not fold a single weight."""
    if not folds(groups):
        raise TypeError(
            f"`groups` must fold a weight by `fold(shape)`, as elements(), rows() or windows(4) do, got {groups!r}."
        )


def _narrow(groups: Any, shape: tuple[int, int], block: int) -> list[Run]:
    """The narrowest runs of columns of a block that no pool crosses."""
    folding = _fold_block(groups, shape, block)
    if folding.pools is None:
        return [(0, shape[1])]
    low, high = _spans(folding, shape, folding.pools)
    crossed = torch.zeros(shape[1] + 1, dtype=torch.int64, device="cpu")
    crossed.index_add_(0, low, torch.ones_like(low)).index_add_(0, high, -torch.ones_like(high))
    ends = [i + 1 for i, pools in enumerate(crossed.cumsum(0)[: shape[1]].tolist()) if not pools]
    runs = list(zip([0, *ends], ends))
    return runs if all(_folds(groups, (shape[0], b - a)) for a, b in runs) else [(0, shape[1])]


def _spans(folding: Any, shape: tuple[int, ...], rows: int) -> tuple[Tensor, Tensor]:
    """The first and the last column of each of so many rows of a folding; padding counts for nothing."""
    places = torch.arange(1, shape[1] + 1, device="cpu").expand(shape)
    matrix = folding.matrix(places)
    if not matrix.numel():
        return matrix.new_zeros(0), matrix.new_zeros(0)
    matrix = matrix.reshape(rows, -1)
    first = matrix.masked_fill(matrix == 0, shape[1]).aminmax(dim=1).min  # 30 times as fast as amin for short rows
    return first - 1, matrix.aminmax(dim=1).max.clamp(min=1) - 1


def _folds(groups: Any, shape: tuple[int, int]) -> bool:
    try:
        groups.fold(torch.Size(shape))
    except (IndexError, TypeError, ValueError):
        return False
    return True


def _refuse_cut_items(groups: Any, name: str, shape: tuple[int, ...], block: int) -> None:
    """Refuse a weight that does not fit the groups, and items that lie in two blocks."""
    folding = folded(groups, name, torch.Size(shape), "weight")
    if folding.elements == 1:
        return
    low, high = _spans(folding, shape, folding.rows)
    if bool((low // block != high // block).any()):
        raise ValueError(
            f"`block` must be a multiple of the columns that an item of {groups!r} spans, got {block}. "
            f"For example block={shape[1]}, all columns."
        )


def _fold_block(groups: Any, shape: tuple[int, int], block: int) -> Any:
    try:
        return groups.fold(torch.Size(shape))
    except (IndexError, TypeError, ValueError) as error:
        raise ValueError(f"`block` must be a width that {groups!r} fits, got {block}: {error}") from error

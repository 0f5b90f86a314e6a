"""Exact selection of the lowest: the only place that ranks.

Among equal scores the lower index dies first; the dead are never looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor

from masklib import _check, _device
from masklib._engine import HasNaN, count_alive, kill_lowest, pool_of
from masklib._op import each_example, expanded, op
from masklib._order import comparable, sortable
from masklib._rows import count_alive_in_rows, kill_lowest_in_rows

_REDUCED = 2**20  # elements reduced at a time, which bounds the float64 copies


# ---- numbers --------------------------------------------------------------------------------------------------------


def dying(counting: str, number: Any, alive: Any, items: Any, names: Sequence[str]) -> Any:
    """How many items die in each pool: the one place where `amount`, `keep` and `sparsity` get their meaning.

    On numpy arrays or on tensors, by pool, `number` one for all or one a pool; whole numbers as given or in float64.
    """
    fraction = number.dtype in (torch.float64, np.float64)
    _check.quantity(counting, fraction, number, alive, items, names)
    if counting == "keep":
        return (alive - number).clip(min=0)
    if counting == "sparsity":
        return ((number * items).round() - (items - alive)).clip(min=0)
    return (number * alive).round() if fraction else number + 0 * alive


# ---- selection ------------------------------------------------------------------------------------------------------


def survivors(values: Tensor, alive: Tensor, die: Tensor) -> Tensor:
    """Kill the lowest `die` (pools,) live entries of each row of `values` (pools, items), on any device."""
    order = values.argsort(dim=1, stable=True)
    live = alive.gather(1, order)
    doomed = live & (live.cumsum(1) <= die[:, None])
    return alive & ~torch.zeros_like(alive).scatter_(1, order, doomed)


def _fake_masks(scores: Sequence[Tensor], *_: object) -> list[Tensor]:
    return [_empty(s) for s in scores]


def _empty(scores: Tensor, *_: object) -> Tensor:
    return torch.empty(scores.shape, dtype=torch.bool, device=scores.device)


def _empty_mask(scores: Tensor) -> Tensor:
    """A mask to write; numpy asks for huge pages, which halves the time of the first write."""
    return torch.from_numpy(np.empty(scores.shape, bool))


def _lowest_of_batch(
    info: Any, in_dims: Any, scores: Any, alive: Any, number: Any, counting: str, names: Any, by_magnitude: bool
) -> Any:
    """The batch of one real tensor is a matrix of pools; any other is taken example by example."""
    if len(scores) != 1:
        return each_example(lowest)(info, in_dims, scores, alive, number, counting, names, by_magnitude)
    batch = [info.batch_size]
    tensors = [expanded(t, d, batch[0]) for t, d in ((scores[0], in_dims[0][0]), (alive[0], in_dims[1][0]))]
    flat = [None if t is None else t.flatten(1) if t.dim() > 1 else t[:, None] for t in tensors]
    mask = lowest_in_rows(*flat, expanded(number, in_dims[2], batch[0]), counting, names[0], by_magnitude)
    return [mask.view(tensors[0].shape)], [0]


@op(
    "lowest(Tensor[] scores, Tensor?[] alive, Tensor number, str counting, str[] names, bool by_magnitude) -> Tensor[]",
    fake=_fake_masks,
    vmap=_lowest_of_batch,
)
def lowest(
    scores: Sequence[Tensor],
    alive: Sequence[Tensor | None],
    number: Tensor,
    counting: str,
    names: Sequence[str],
    by_magnitude: bool,
) -> list[Tensor]:
    """Kill the lowest of one pool that spans all the tensors, each of any shape; ties in the order given."""
    if not scores:
        return []
    select = _lowest_on_cpu if all(s.is_cpu for s in scores) else _lowest_on_device
    try:
        return select(scores, alive, partial(dying, counting, number.numpy(force=True)[()], names=names), by_magnitude)
    except HasNaN:
        _check.no_nan(scores, alive, names)
        raise


_HowMany = Callable[[Any, Any], Any]  # from the live ones and all of them to how many die


def _lowest_on_cpu(
    scores: Sequence[Tensor], alive: Sequence[Tensor | None], how_many: _HowMany, by_magnitude: bool
) -> list[Tensor]:
    masks = [_empty_mask(s) for s in scores]
    pool = pool_of(scores, alive, masks, by_magnitude)
    live = pool.elements if all(a is None for a in alive) else count_alive(pool)
    kill_lowest(pool, int(how_many(np.int64(live), np.int64(pool.elements))), live)
    return masks


def _lowest_on_device(
    scores: Sequence[Tensor], alive: Sequence[Tensor | None], how_many: _HowMany, by_magnitude: bool
) -> list[Tensor]:
    elements = sum(s.numel() for s in scores)
    live = sum(s.numel() if a is None else int(a.count_nonzero()) for s, a in zip(scores, alive))
    die = int(how_many(np.int64(live), np.int64(elements)))
    return _device.kill_lowest(scores, alive, die, live, by_magnitude)


def _live(scores: Tensor, alive: Tensor | None) -> Tensor:
    return torch.ones(scores.shape, dtype=torch.bool, device=scores.device) if alive is None else alive


def _rows_of_batch(
    info: Any, in_dims: Any, scores: Any, alive: Any, number: Any, counting: str, name: str, by_magnitude: bool
) -> tuple[Tensor, int]:
    """A batch of matrices is one taller matrix, with a number for each row."""
    size = info.batch_size
    matrices = [expanded(t, d, size) for t, d in ((scores, in_dims[0]), (alive, in_dims[1]))]
    pools = matrices[0].shape[1]
    numbers = expanded(number, in_dims[2], size).reshape(size, -1).expand(size, pools).reshape(-1)
    flat = [None if m is None else m.flatten(0, 1) for m in matrices]
    return lowest_in_rows(*flat, numbers, counting, name, by_magnitude).view(matrices[0].shape), 0


@op(
    "lowest_in_rows(Tensor scores, Tensor? alive, Tensor number, str counting, str name, bool by_magnitude) -> Tensor",
    fake=_empty,
    vmap=_rows_of_batch,
)
def lowest_in_rows(
    scores: Tensor, alive: Tensor | None, number: Tensor, counting: str, name: str, by_magnitude: bool
) -> Tensor:
    """Kill the lowest of each row of (pools, items); the number is one for all or one a row."""
    if scores.device.type != "cpu":
        return _rows_sorted(scores, alive, number, counting, name, by_magnitude)
    pools, items = scores.shape
    mask = _empty_mask(scores)
    live = np.array(items) if alive is None else count_alive_in_rows(alive)
    die = dying(counting, number.numpy(force=True), live, np.array(items), [name])
    die = np.broadcast_to(die.astype(np.int64), pools)
    try:
        kill_lowest_in_rows(scores, alive, die, mask, by_magnitude)
    except HasNaN:
        _check.no_nan([scores], [alive], [name])
        raise
    return mask


def _rows_sorted(
    scores: Tensor, alive: Tensor | None, number: Tensor, counting: str, name: str, by_magnitude: bool
) -> Tensor:
    """The same by one stable sort of each row, on any device."""
    _check.no_nan([scores], [alive], [name])
    live = _live(scores, alive)
    values = sortable(scores, by_magnitude)
    counts = live.sum(1)
    die = dying(counting, number.to(counts.device), counts, torch.full_like(counts, scores.shape[1]), [name])
    return survivors(values, live, die)


# ---- items ----------------------------------------------------------------------------------------------------------


def _fake_items(scores: Sequence[Tensor], *_: object) -> tuple[Tensor, Tensor]:
    items = scores[0].shape[:1]
    return scores[0].new_empty(items, dtype=torch.float64), scores[0].new_empty(items, dtype=torch.bool)


@op(
    "item_scores(Tensor[] scores, Tensor?[] alive, float? p, bool mean, str[] names) -> (Tensor, Tensor)",
    fake=_fake_items,
)
def item_scores(
    scores: Sequence[Tensor], alive: Sequence[Tensor | None], p: float | None, mean: bool, names: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Reduce the i-th rows of all (items, elements) as one, over live scores in float64; also say which are alive."""
    items, elements = scores[0].shape[0], sum(s.shape[1] for s in scores)
    dense = all(a is None for a in alive)
    masks, home = [] if dense else [_live(s, a) for s, a in zip(scores, alive)], scores[0].device
    counts = [mask.sum(1).to(home) for mask in masks] or [torch.full((items,), elements, device=home)]
    live = sum(counts[1:], counts[0])
    if not items * elements:
        return live.double(), live > 0
    step = max(1, _REDUCED // elements)
    totals = torch.cat([_reduce(rows, kept, p) for rows, kept in zip(_chunks(scores, step), _chunks(masks, step))])
    if mean:
        totals /= live.clamp(min=1).double() ** (1 if p is None else 1 / p)
    if totals.isnan().any() or p == 0:  # the 0-norm counts NaN as any other number
        _check.no_nan(scores, alive, names)
        _check.opposite_infinities(totals, names)
    return totals.masked_fill(live == 0, 0), live > 0


def _chunks(matrices: Sequence[Tensor], step: int) -> Iterator[Any]:
    """The rows of matrices side by side, a chunk of rows at a time; None again and again if there are no matrices."""
    return map(_beside, zip(*(m.split(step) for m in matrices))) if matrices else repeat(None)


def _beside(parts: Sequence[Tensor]) -> Tensor:
    """Matrices side by side; of several dtypes, in float64."""
    parts = [part.abs() if part.is_complex() else part for part in parts]
    if len(parts) == 1:
        return parts[0]
    dtype = parts[0].dtype if len({part.dtype for part in parts}) == 1 else torch.float64
    return torch.cat([part.to(parts[0].device, dtype) for part in parts], 1)


def _reduce(values: Tensor, alive: Tensor | None, p: float | None) -> Tensor:
    """The sum or the p-norm of the live scores of each row, in float64."""
    if alive is not None:
        values = values.double().masked_fill(~alive, float("inf") if p is not None and p < 0 else 0.0)
    if p is None:
        return values.sum(1, dtype=torch.float64)
    floating = values if values.is_floating_point() else values.double()
    return torch.linalg.vector_norm(floating, p, dim=1, dtype=torch.float64)


# ---- labels ---------------------------------------------------------------------------------------------------------


@op(
    "lowest_labelled(Tensor[] scores, Tensor?[] alive, Tensor[] items, Tensor[] pools, Tensor number, str counting, "
    "str[] names) -> Tensor[]",
    fake=_fake_masks,
)
def lowest_labelled(
    scores: Sequence[Tensor],
    alive: Sequence[Tensor | None],
    items: Sequence[Tensor],
    pools: Sequence[Tensor],
    number: Tensor,
    counting: str,
    names: Sequence[str],
) -> list[Tensor]:
    """Kill the lowest items of each pool, both given by label; `pools` may be empty for one pool."""
    if not scores:
        return []
    _check.no_nan(scores, alive, names)
    live = torch.cat([_live(s, a).reshape(-1) for s, a in zip(scores, alive)])
    ids, item = torch.cat([i.reshape(-1).long() for i in items]).unique(return_inverse=True)
    totals = _totals(scores, live, item, len(ids))
    _check.opposite_infinities(totals, [])
    item_alive = torch.zeros(len(ids), dtype=torch.bool, device=live.device).index_put((item[live],), live.new_ones(()))
    pool = _pool_of_items(pools, item, len(ids))
    count = int(pool.max()) + 1 if pool.numel() else 0 if pools else 1
    keep = _survivors_by_pool(totals, item_alive, pool, count, number, counting, names)
    parts = (live & keep[item]).split([s.numel() for s in scores])
    return [part.view(s.shape).clone() for part, s in zip(parts, scores)]


def _totals(scores: Sequence[Tensor], live: Tensor, item: Tensor, count: int) -> Tensor:
    """The sum of each item's live scores; single elements stand for themselves, in an order that is exact."""
    single = count == item.numel()
    parts = comparable(scores) if single else [s.double() for s in scores]
    values = torch.cat([part.reshape(-1) for part in parts]).masked_fill(~live, 0)
    return torch.empty_like(values).index_put((item,), values) if single else _sums(values, item, count)


def _sums(values: Tensor, item: Tensor, count: int) -> Tensor:
    return values.new_zeros(count).index_add(0, item, values)


def _pool_of_items(pools: Sequence[Tensor], item: Tensor, count: int) -> Tensor:
    if not pools:
        return item.new_zeros(count)
    pool = torch.cat([p.reshape(-1).long() for p in pools]).unique(return_inverse=True)[1]
    pool_of_item = item.new_zeros(count).index_put((item,), pool)
    _check.constant_pools(pool_of_item[item] == pool)
    return pool_of_item


def _survivors_by_pool(
    totals: Tensor, alive: Tensor, pool: Tensor, count: int, number: Tensor, counting: str, names: Sequence[str]
) -> Tensor:
    """Like `survivors`, for pools of any lengths: order by pool, then the living, then score, then index."""
    items = pool.bincount(minlength=count)
    die = dying(counting, number.to(items.device), pool[alive].bincount(minlength=count), items, names)
    order = totals.argsort(stable=True)
    order = order[(~alive)[order].long().argsort(stable=True)]
    order = order[pool[order].argsort(stable=True)]
    place = torch.arange(len(order), device=order.device) - (items.cumsum(0) - items)[pool[order]]
    return alive & ~torch.zeros_like(alive).index_put((order,), place < die[pool[order]])

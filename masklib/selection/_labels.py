"""Items and pools by integer label: pools of any lengths, over all tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from masklib.selection._numbers import dying
from masklib.selection._order import comparable
from masklib.selection._rank import lowest
from masklib.selection._refusals import constant_pools, no_nan, opposite_infinities


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
    no_nan(scores, alive, names)
    home = scores[0].device  # labels may be elsewhere, as those that a group makes are
    live = torch.cat([_live(s, a).reshape(-1).to(home) for s, a in zip(scores, alive)])
    ids, item = torch.cat([i.reshape(-1).long().to(home) for i in items]).unique(return_inverse=True)
    totals = _totals(scores, live, item, len(ids))
    opposite_infinities(totals, [])
    item_alive = torch.zeros(len(ids), dtype=torch.bool, device=live.device).index_put((item[live],), live.new_ones(()))
    if pools:
        keep = by_pool(totals, item_alive, _pool_of_items(pools, item, len(ids)), number, counting, names)
    else:
        (keep,) = lowest([totals], [item_alive], number, counting, names, False)
    parts = (live & keep[item]).split([s.numel() for s in scores])
    return [part.view(s.shape).to(s.device, copy=True) for part, s in zip(parts, scores)]


def _live(scores: Tensor, alive: Tensor | None) -> Tensor:
    return torch.ones(scores.shape, dtype=torch.bool, device=scores.device) if alive is None else alive


def _totals(scores: Sequence[Tensor], live: Tensor, item: Tensor, count: int) -> Tensor:
    """The sum of each item's live scores; single elements stand for themselves, in an order that is exact."""
    single = count == item.numel()
    parts = comparable(scores) if single else [s.double() for s in scores]
    values = torch.cat([part.reshape(-1).to(live.device) for part in parts]).masked_fill(~live, 0)
    return torch.empty_like(values).index_put((item,), values) if single else _sums(values, item, count)


def _sums(values: Tensor, item: Tensor, count: int) -> Tensor:
    """Sums in the order of the elements, on the CPU: a GPU adds in another order each time, and rounds otherwise."""
    values, home = values.cpu(), values.device
    return values.new_zeros(count).index_add(0, item.cpu(), values).to(home)


def _pool_of_items(pools: Sequence[Tensor], item: Tensor, count: int) -> Tensor:
    pool = torch.cat([p.reshape(-1).long().to(item.device) for p in pools]).unique(return_inverse=True)[1]
    pool_of_item = item.new_zeros(count).index_put((item,), pool)
    constant_pools(pool_of_item[item] == pool)
    return pool_of_item


def by_pool(totals: Tensor, alive: Tensor, pool: Tensor, number: Tensor, counting: str, names: Sequence[str]) -> Tensor:
    """Sort by pool, then the living first, then score, then index: the first of each pool die."""
    count = int(pool.max()) + 1 if pool.numel() else 0
    items = pool.bincount(minlength=count)
    die = dying(counting, number.to(items.device), pool[alive].bincount(minlength=count), items, names)
    order = totals.argsort(stable=True)
    order = order[(~alive)[order].long().argsort(stable=True)]
    order = order[pool[order].argsort(stable=True)]
    place = torch.arange(len(order), device=order.device) - (items.cumsum(0) - items)[pool[order]]
    return alive & ~torch.zeros_like(alive).index_put((order,), place < die[pool[order]])

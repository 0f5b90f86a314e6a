"""Which road a call takes: shards are ranked where they lie, all else by the rule of whole tensors."""

from __future__ import annotations

from typing import Any

from masklib import _read, _rule

Numbers = tuple[Any, Any, Any]


def apply_rule(
    scores: Any, default_mask: Any, numbers: Numbers, groups: Any, *, by_magnitude: bool = False, least: Any = None
) -> Any:
    """Kill the lowest items of each pool; the numbers are `amount`, `keep` and `sparsity`, one of which is given."""
    if not _read.is_any_sharded(scores, default_mask):
        return _rule.apply_rule(scores, default_mask, numbers, groups, by_magnitude=by_magnitude, least=least)
    from masklib._shards import _rule as shards  # it loads torch.distributed

    return shards.apply_rule(scores, default_mask, numbers, groups, by_magnitude=by_magnitude, least=least)


def kill_at_random(scores: Any, default_mask: Any, numbers: Numbers, items: Any, key: Any) -> Any:
    """Kill items of DTensors by noise."""
    from masklib._shards import _rule as shards

    return shards.apply_rule(scores, default_mask, numbers, items, key=key)

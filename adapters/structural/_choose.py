"""Which factor of a dim that is split goes on: whole heads, or the same place in every head, or neither."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from . import _along, _layers, _parts, _plain, _routing, _views
from ._capture import Captured, walked
from ._uses import Uses
from ._walk import Rule, Walk

RULES: dict[str, Rule] = _plain.RULES | _along.RULES | _parts.RULES | _views.RULES | _layers.RULES | _routing.RULES


def best_walk(captured: Captured, shapes: Mapping[str, Any], uses: Uses) -> Any:
    """Walk with the first factor everywhere; where all came to nothing, try the others, alike sites together.

    A packed projection of (3, heads, size) is such a site: the 3 is taken apart, the heads can go.
    """
    choices: dict[str, int] = {}
    walk, known = _walked(captured, shapes, uses, choices)
    score = _live(walk, known)
    for sites in _dead(walk):
        for other in range(1, walk.sites[sites[0]][0]):
            tried = choices | dict.fromkeys(sites, other)
            again, labels = _walked(captured, shapes, uses, tried)
            if _live(again, labels) > score:
                walk, known, choices, score = again, labels, tried, _live(again, labels)
                break
    return walk, known


def _walked(captured: Captured, shapes: Mapping[str, Any], uses: Uses, choices: Mapping[str, int]) -> Any:
    """A walk, after which sizes that come from one attribute are one."""
    walk = Walk(choices, captured.norms, uses.bounds)
    known = walked(captured, shapes, RULES, walk)
    held: dict[tuple[str, str], Any] = {}
    for size in walk.sizes:
        name = uses.calls.get((size.path, *size.call), {}).get(size.place)
        if name is not None:
            first = held.setdefault((size.path, name), size.labels)
            walk.labels.unite(
                first, size.labels, f"`{name}` of {size.path or 'the model'} is the number of several sizes"
            )
    return walk, known


def _live(walk: Walk, known: Mapping[str, Any]) -> int:
    """How many positions of parameters can be cut."""
    return sum(int(walk.labels.alive(array).sum()) for act in known.values() for array in act.dims)


def _dead(walk: Walk) -> list[list[str]]:
    """Sites nothing of which can be cut; those of one kind, in layer after layer, are one group."""
    groups: dict[Any, list[str]] = defaultdict(list)
    seen: dict[str, int] = defaultdict(int)
    for site, (parts, labels) in walk.sites.items():
        at = site.split(" ", 1)[1]
        seen[at] += 1
        if not walk.labels.alive(labels).any() and labels.any():
            groups[re.sub(r"\d+", "#", at), seen[at], parts, len(labels)].append(site)
    return list(groups.values())

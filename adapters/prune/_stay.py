"""Who stays of whole tensors, straight by the core, for the methods that the core has: it ranks under masks.

All give bool masks that keep nobody who is dead; a mask from outside is checked for it here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

import masklib

from .._module.state import now, or_all
from .._module.values import checked_mask
from ._amounts import number_to_prune
from ._record import replay

Step = Callable[..., Tensor]
Alive = list[Tensor | None]  # None: all


def all_stay(_: Any, scores: list[Tensor], alive: Alive, __: list[str]) -> list[Tensor]:
    """Everybody who is alive."""
    return [or_all(a, s) for s, a in zip(scores, alive)]


def largest_stay(method: Any, scores: list[Tensor], alive: Alive, what: list[str]) -> list[Tensor]:
    """One pool of all tensors, without copies. Names sort as the tensors are ordered."""
    number = number_to_prune(method.amount, sum(map(_count, alive, scores)))
    if len(scores) == 1:
        return [_largest_of_one(scores[0], alive[0], number, what[0])]
    names = [f"{i:0{len(str(len(what)))}} ({w})" for i, w in enumerate(what)]
    masks = None if all(a is None for a in alive) else dict(zip(names, map(or_all, alive, scores)))
    return list(masklib.l1_unstructured(dict(zip(names, scores)), masks, amount=number).values())


def _largest_of_one(scores: Tensor, alive: Tensor | None, number: int, what: str) -> Tensor:
    """A tensor without a name has a shorter way through the core; only what is refused needs the name."""
    try:
        return masklib.l1_unstructured(scores, alive, amount=number)
    except ValueError:
        return masklib.l1_unstructured({what: scores}, {what: or_all(alive, scores)}, amount=number)[what]


def _count(alive: Tensor | None, scores: Tensor) -> int:
    return scores.numel() if alive is None else int(alive.count_nonzero())


def masked_stay(method: Any, scores: list[Tensor], alive: Alive, what: list[str]) -> list[Tensor]:
    """Those of the method's mask."""
    return [checked_mask(method.mask, *each) for each in zip(scores, alive, what)]


def core_says(method: Any, scores: list[Tensor], alive: Alive, what: list[str]) -> list[Tensor]:
    """The method gets copies, which it may write into."""
    masks = [method.method(now(s, a).clone(), or_all(a, s).clone()) for s, a in zip(scores, alive)]
    return [checked_mask(*each) for each in zip(masks, scores, alive, what)]


def l1_step(method: Any) -> Step:
    """The same as a step of the core, which knows plain numbers only."""
    plain = type(method.amount) in (int, float)
    return partial(masklib.l1_unstructured, amount=method.amount) if plain else partial(replay, method)

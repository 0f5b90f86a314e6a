"""Who stays of whole tensors, straight by the core, for the methods that the core has: it ranks under masks.

All give bool masks that keep nobody who is dead; a mask from outside is checked for it here.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import masklib
from masklib._shards._parts import on_part

from .._module.state import now, or_all
from .._module.values import checked_mask
from ._amounts import drawn_key, number_to_prune, validate_channels
from ._record import replay

Step = Callable[..., Tensor]
Alive = list[Tensor | None]  # None: all


def all_stay(_: Any, scores: list[Tensor], alive: Alive, __: list[str]) -> list[Tensor]:
    """Everybody who is alive."""
    return [or_all(a, s) for s, a in zip(scores, alive)]


def largest_stay(method: Any, scores: list[Tensor], alive: Alive, what: list[str]) -> list[Tensor]:
    """One pool of all tensors, without copies."""
    number = number_to_prune(method.amount, sum(map(_count, alive, scores)))
    if len(scores) == 1:
        return [_largest_of_one(scores[0], alive[0], number, what[0])]
    pool, masks = _pool(scores, alive, what)
    return list(masklib.l1_unstructured(pool, masks, amount=number).values())


def _pool(scores: list[Tensor], alive: Alive, what: list[str]) -> tuple[dict[str, Tensor], Any]:
    """Tensors and who is alive by names that sort as the tensors are ordered."""
    names = [f"{i:0{len(str(len(what)))}} ({w})" for i, w in enumerate(what)]
    masks = None if all(a is None for a in alive) else dict(zip(names, map(or_all, alive, scores)))
    return dict(zip(names, scores)), masks


def random_stay(method: Any, scores: list[Tensor], alive: Alive, what: list[str]) -> list[Tensor]:
    """One pool of all tensors, by noise that a key makes."""
    number = number_to_prune(method.amount, sum(map(_count, alive, scores)))
    key = drawn_key(method.key, method.generator, scores)
    if len(scores) == 1:
        return [masklib.random_unstructured(scores[0], alive[0], key=key, amount=number)]
    pool, masks = _pool(scores, alive, [""] * len(what))  # noise depends on names, and classes change theirs
    return list(masklib.random_unstructured(pool, masks, key=key, amount=number).values())


def random_channels_stay(method: Any, scores: list[Tensor], alive: Alive, what: list[str]) -> list[Tensor]:
    """Channels of one tensor, by noise that a key makes."""
    validate_channels(scores[0], method.dim)
    how = {"key": drawn_key(method.key, method.generator, scores), "dim": method.dim}
    return [masklib.random_structured(scores[0], alive[0], amount=_plain(method.amount), **how)]


def normed_channels_stay(method: Any, scores: list[Tensor], alive: Alive, what: list[str]) -> list[Tensor]:
    """Channels of one tensor that is sharded, by norms that the core adds up over ranks, in float64."""
    validate_channels(scores[0], method.dim)
    if method.n == "nuc":
        raise ValueError(f"`n` must not be 'nuc' for the sharded {what[0]}: no rank has a slice. For example n=2.")
    n = 2 if method.n in (None, "fro") else method.n
    return [masklib.ln_structured(scores[0], alive[0], n=n, dim=method.dim, amount=_plain(method.amount))]


def _plain(amount: Any) -> Any:
    """An amount as the core knows it."""
    return int(amount) if isinstance(amount, numbers.Integral) else float(amount)


def keyed_step(method: Step, *names: str) -> Callable[[Any], Step | None]:
    """A random method with a key as a step of the core; without one the weights do not determine it."""

    def step(drawn: Any) -> Step | None:
        options = {name: getattr(drawn, name) for name in names}
        return None if drawn.key is None else partial(method, amount=_plain(drawn.amount), key=drawn.key, **options)

    return step


def _largest_of_one(scores: Tensor, alive: Tensor | None, number: int, what: str) -> Tensor:
    """A tensor without a name has a shorter way through the core; only what is refused needs the name."""
    try:
        return masklib.l1_unstructured(scores, alive, amount=number)
    except ValueError:
        return masklib.l1_unstructured({what: scores}, {what: or_all(alive, scores)}, amount=number)[what]


def _count(alive: Tensor | None, scores: Tensor) -> int:
    return scores.numel() if alive is None else int(masklib.count(alive))


def masked_stay(method: Any, scores: list[Tensor], alive: Alive, what: list[str]) -> list[Tensor]:
    """Those of the method's mask."""
    return [checked_mask(method.mask, *each) for each in zip(scores, alive, what)]


def core_says(method: Any, scores: list[Tensor], alive: Alive, what: list[str]) -> list[Tensor]:
    """The method gets copies, which it may write into."""
    masks = [
        method.method(*(on_part(torch.clone, t) for t in (now(s, a), or_all(a, s)))) for s, a in zip(scores, alive)
    ]
    return [checked_mask(*each) for each in zip(masks, scores, alive, what)]


def l1_step(method: Any) -> Step:
    """The same as a step of the core, which knows plain numbers only."""
    plain = type(method.amount) in (int, float)
    return partial(masklib.l1_unstructured, amount=method.amount) if plain else partial(replay, method)

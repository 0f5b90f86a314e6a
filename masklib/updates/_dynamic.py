"""Dynamic sparse training: as many weights at all times, but not the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from masklib import _read, scores
from masklib._names import each
from masklib.budgets import erk, kept
from masklib.dynamic import regrow
from masklib.history import layerwise
from masklib.methods import random_unstructured
from masklib.schedules import _steps, cosine
from masklib.updates._value import Update, a_step


def rigl(
    *,
    sparsity: float,
    every: int,
    stop: int,
    share: float = 0.3,
    budget: Callable[..., Any] = erk,
    key: Any = 0,
) -> Update:
    """Start from a random mask; again and again kill the smallest weights and grow where the gradient is largest.

        masks(0) = layerwise(random_unstructured)(params, key=key, keep=kept(params, budget(params, sparsity)))
        masks(t) = layerwise(regrow)(|params|, masks, grow_scores=|grads|, amount=share (1 + cos(pi t / stop)) / 2)

    Args:
        sparsity: of the whole, in [0, 1], at all times.
        every: steps between updates.
        stop: the step of the last update, about three quarters of the training.
        share: what moves of each tensor's live weights at the first update; it decays to 0 along half a cosine.
        budget: `(params, sparsity) -> sparsities by name`.
        key: of the first mask; an int or a 0-d int64 tensor.

    Returns:
        The update; it needs dense gradients.

    Raises:
        TypeError: if a number is not one, or `budget` cannot be called.
        ValueError: if a share is not in [0, 1], or a number of steps is not positive.

    >>> update = updates.rigl(sparsity=0.5, every=10, stop=100)
    >>> params = {"w": torch.arange(8.0).view(2, 4)}
    >>> masks = update(0, params, dense(params))
    >>> int(count(masks)), int(count(update(10, params, masks, params)))
    (4, 4)

    Reference: Evci et al., "Rigging the Lottery", 2020, algorithm 1.
    """
    target, moved = _read.share(sparsity, "sparsity"), _read.share(share, "share")
    between, last = a_step(every, "every", 1), a_step(stop, "stop", 1)
    _refuse(budget, key)
    decaying = cosine(0.0, initial=moved, stop=last, every=between)
    return Update(partial(_moved, _gradients, decaying, target, budget, key), decaying.due, needs_grads=True)


def set_(
    *,
    sparsity: float,
    every: int,
    stop: int | None = None,
    share: float = 0.3,
    budget: Callable[..., Any] = erk,
    key: Any = 0,
) -> Update:
    """Start from a random mask; again and again kill the smallest weights and grow as many at random.

        masks(0) = layerwise(random_unstructured)(params, key=key, keep=kept(params, budget(params, sparsity)))
        masks(t) = layerwise(regrow)(|params|, masks, grow_scores=random(params, key + t), amount=share)

    Args:
        sparsity: of the whole, in [0, 1], at all times.
        every: steps between updates.
        stop: the step of the last update; None for no last one.
        share: what moves of each tensor's live weights.
        budget: `(params, sparsity) -> sparsities by name`.
        key: of all that is random; an int or a 0-d int64 tensor.

    Returns:
        The update.

    Raises:
        TypeError: if a number is not one, or `budget` cannot be called.
        ValueError: if a share is not in [0, 1], or a number of steps is not positive.

    >>> update = updates.set_(sparsity=0.5, every=10)
    >>> params = {"w": torch.arange(8.0).view(2, 4)}
    >>> masks = update(0, params, dense(params))
    >>> int(count(masks)), int(count(update(10, params, masks)))
    (4, 4)

    Reference: Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity", 2018.
    """
    target, moved = _read.share(sparsity, "sparsity"), _read.share(share, "share")
    between, _, last = _steps.updates(every, 0, stop)
    _refuse(budget, key)
    due = partial(_due, between, last)
    return Update(partial(_moved, partial(_noise, key), partial(_constant, moved), target, budget, key), due)


# ---- how ------------------------------------------------------------------------------------------------------------


def _moved(
    grow: Any, share: Any, target: float, budget: Any, key: Any, step: Any, params: Any, masks: Any, grads: Any
) -> Any:
    """A random mask at step 0, and after it some of the live elsewhere; both where the step is a tensor."""
    begun = step == 0
    if begun is True:
        return _drawn(target, budget, key, params, masks)
    moved = layerwise(regrow)(
        scores.magnitude(params), masks, grow_scores=grow(params, grads, step), amount=share(step)
    )
    if begun is False:
        return moved
    return each(partial(_steps.choose, begun), _drawn(target, budget, key, params, masks), moved)


def _drawn(target: float, budget: Any, key: Any, params: Any, masks: Any) -> Any:
    return layerwise(random_unstructured)(params, masks, key=key, keep=kept(params, budget(params, target)))


def _gradients(params: Any, grads: Any, step: Any) -> Any:
    return scores.magnitude(grads)


def _noise(key: Any, params: Any, grads: Any, step: Any) -> Any:
    return scores.random(params, key=_read.key(key) + step)


def _constant(share: float, step: Any) -> Any:
    return share


def _due(every: int, stop: int | None, step: Any) -> Any:
    return _steps.is_due(step, 0, stop, every)


# ---- what is refused ------------------------------------------------------------------------------------------------


def _refuse(budget: Any, key: Any) -> None:
    """Refuse what is no budget and no key."""
    _read.function(budget, "budget", "budget=budgets.erk")
    _read.key(key)

"""Dead entries that go on learning: the straight-through estimator, and what holds them back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from masklib import _read
from masklib._amounts import how_many
from masklib._names import TensorsT, each
from masklib.algebra import dense
from masklib.groups import windows
from masklib.methods import n_of_m
from masklib.schedules._steps import is_due
from masklib.scores._common import pairs
from masklib.updates._value import Update, a_decay, a_step, ranked


def straight_through(
    method: Callable[..., Any],
    *,
    every: int = 1,
    score: Callable[[Any, Any], Any] | None = None,
    decay: float = 0.0,
    **numbers: Any,
) -> Update:
    """Choose anew among all weights at every step; the dead learn as if they were alive.

        masks(t) = method(score(params, grads), **numbers)
        loss at apply(params, masks); its gradient there, plus decay (1 - masks) params, moves all params

    Args:
        method: `method(scores, default_mask, **numbers) -> mask`, any of the core.
        every: steps between updates.
        score: `(params, grads) -> scores`; magnitudes if None.
        decay: how much the gradient of a dead entry gains of its value.
        numbers: what else the method takes.

    Returns:
        The update.

    Raises:
        TypeError: if an argument is not callable, or a number is not one.
        ValueError: if `every` is not positive, or `decay` negative or not finite.

    >>> params = {"w": torch.tensor([[3.0, -1.0, 2.0, 4.0]])}
    >>> updates.straight_through(n_of_m, keep=2, of=4)(5, params, dense(params))
    {'w': tensor([[ True, False, False,  True]])}

    Reference: Bengio et al., "Estimating or propagating gradients through stochastic neurons", 2013; for `decay`, Zhou
    et al., "Learning N:M fine-grained structured sparse neural networks from scratch", 2021, equation 9.
    """
    _read.function(method, "method", "method=n_of_m")
    if score is not None:
        _read.function(score, "score", "score=scores.saliency")
    pull = a_decay(decay)
    due = partial(_due, a_step(every, "every", 1))
    function = partial(_anew, method, score, numbers)
    return Update(function, due, needs_grads=score is not None, straight_through=True, decay=pull)


def sr_ste(*, keep: int, of: int, dim: int = -1, decay: float = 2e-4) -> Update:
    """Train N:M sparsity from scratch: the straight-through estimator with a pull of the dead towards zero.

    Args:
        keep: how many of each window live.
        of: the length of a window.
        dim: the dim along which windows lie; the inputs of a convolution are dim 1.
        decay: the pull, lambda in the paper.

    Returns:
        The update.

    Raises:
        TypeError: if a number is not one.
        ValueError: if one is out of its range.

    >>> updates.sr_ste(keep=2, of=4).decay
    0.0002

    Reference: Zhou et al., "Learning N:M fine-grained structured sparse neural networks from scratch", 2021, eq. 9.
    """
    how_many(None, keep, None)
    windows(of, dim)
    return straight_through(n_of_m, decay=decay, keep=keep, of=of, dim=dim)


def decayed(grads: TensorsT, params: TensorsT, masks: TensorsT, decay: Any) -> TensorsT:
    """Pull dead entries towards zero, by way of their gradient.

        decayed(g, p, m, c) = g + c (1 - m) p

    Args:
        grads: gradients of any shape, a tensor or a mapping by name.
        params: the parameters, dead entries included, of the same shapes and names.
        masks: bool, of the same shapes and names.
        decay: c, a number or a 0-d tensor.

    Returns:
        Gradients of the same shapes and names.

    Raises:
        TypeError: if a mask is not bool, or another argument is not of its kind.
        ValueError: if shapes or names disagree, or `decay` is not one number, or a negative or infinite one.

    >>> decayed(torch.zeros(2), torch.tensor([3.0, 4.0]), torch.tensor([True, False]), 0.5)
    tensor([0., 2.])

    Reference: Zhou et al., "Learning N:M fine-grained structured sparse neural networks from scratch", 2021, eq. 9.
    """
    pairs(params, grads, "grads")
    _read.masks(masks, params, "masks", "params")
    return each(partial(_pulled, _a_number(decay)), grads, params, masks)


# ---- how ------------------------------------------------------------------------------------------------------------


def _anew(method: Any, score: Any, numbers: Any, step: Any, params: Any, masks: Any, evidence: Any) -> Any:
    return method(ranked(score, params, evidence), dense(params), **numbers)


def _due(every: int, step: Any) -> Any:
    return is_due(step, 0, None, every)


def _a_number(decay: Any) -> Any:
    """Read a number; a 0-d tensor may be one, such as the scale of a GradScaler times it."""
    if not isinstance(decay, Tensor):
        return a_decay(decay)
    _read.is_dense(decay, "", "decay")
    if decay.numel() != 1 or decay.is_meta or decay.is_complex():
        raise ValueError(f"`decay` must be one number, got {decay.dtype} of shape {tuple(decay.shape)}.")
    return decay.reshape(())


def _pulled(decay: Any, grad: Tensor, param: Tensor, mask: Tensor) -> Tensor:
    return grad + decay * torch.where(mask, 0, param)

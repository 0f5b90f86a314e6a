"""What an update is, as a value, and what updates share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from masklib import _read
from masklib._names import each
from masklib.budgets import kept
from masklib.history import layerwise
from masklib.schedules import _steps
from masklib.scores import magnitude


@dataclasses.dataclass(frozen=True)
class Update:
    """A pure function that changes masks, and when it is due.

        update(step, params, masks, evidence) = masks(step, params, masks, evidence)   if due(step), else masks

    The evidence is what the scores go by beside the weights: dense gradients, or what `observe` gathered.

    Args:
        masks: `(step, params, masks, evidence) -> masks`, mappings by name; the function itself.
        due: `step -> bool`, such as `schedule.due`; None for every step.
        observe: `(state, params, grads) -> state`, called after each step with the state so far (None at first); its
            last state is then the evidence.
        needs_grads: whether the evidence is dense gradients.
        rewind: the step to whose values all weights go back after each update; None to leave them.
        straight_through: whether dead entries go on learning behind the mask.
        decay: how much the gradient of a dead entry gains of its value, if they do.

    Returns:
        The update, a value: equal if its parts are.

    Raises:
        TypeError: if `masks`, `due` or `observe` cannot be called, or another argument is not of its kind.
        ValueError: if `rewind` or `decay` is negative, or `decay` not finite.

    >>> one_less = lambda step, params, masks, grads: l1_unstructured(params, masks, amount=1)
    >>> once = Update(one_less, schedules.one_shot(0).due)
    >>> params = {"w": torch.tensor([3.0, 1.0, 2.0])}
    >>> once(0, params, dense(params)), once(1, params, dense(params))
    ({'w': tensor([ True, False,  True])}, {'w': tensor([True, True, True])})
    """

    masks: Callable[[Any, Any, Any, Any], Any]
    due: Callable[[Any], Any] | None = None
    observe: Callable[[Any, Any, Any], Any] | None = None
    needs_grads: bool = False
    rewind: int | None = None
    straight_through: bool = False
    decay: float = 0.0

    def __post_init__(self) -> None:
        _read.function(self.masks, "masks", "lambda step, params, masks, grads: masks")
        for name in ("due", "observe"):
            if getattr(self, name) is not None:
                _read.function(getattr(self, name), name, f"{name}=None")
        if self.rewind is not None:
            a_step(self.rewind, "rewind", 0)
        for name in ("needs_grads", "straight_through"):
            _read.flag(getattr(self, name), name, f"{name}=False")
        a_decay(self.decay)

    def __call__(self, step: Any, params: Any, masks: Any, evidence: Any = None) -> Any:
        """The masks after an update, if one is due at the step."""
        number = _steps.read(step)
        if isinstance(number, Tensor):
            _read.has_value(number, "step", "step=100")
        due = True if self.due is None else self.due(number)
        if not isinstance(due, Tensor) and not due:
            return masks
        _read.tensors(params, "params")
        _read.masks(masks, params, "masks", "params")
        changed = self.masks(number, params, masks, evidence)
        return each(partial(torch.where, due), changed, masks) if isinstance(due, Tensor) else changed


# ---- what they share ------------------------------------------------------------------------------------------------


def due_of(schedule: Any) -> Callable[[Any], Any] | None:
    """When a schedule is due; a plain function of the step may change at any."""
    return getattr(schedule, "due", None)


def ranked(score: Callable[[Any, Any], Any] | None, params: Any, evidence: Any) -> Any:
    """What a method ranks: magnitudes, or the score of the weights and the evidence."""
    return magnitude(params) if score is None else score(params, evidence)


def shared_out(method: Any, budget: Any, params: Any, sparsity: Any) -> tuple[Any, dict[str, Any]]:
    """A method and its number: one sparsity for the pool, or how many each tensor keeps as a budget shares it out."""
    if budget is None:
        return method, {"sparsity": sparsity}
    return layerwise(method), {"keep": kept(params, budget(params, sparsity))}


def a_decay(value: Any) -> float:
    """Read a pull towards zero."""
    if not 0 <= (number := _read.real(value, "decay", "a number", "decay=2e-4")) < float("inf"):
        raise ValueError(f"`decay` must be at least 0 and finite, got {value!r}. For example decay=2e-4.")
    return number


def a_step(value: Any, argument: str, least: int) -> int:
    """Read a number of steps."""
    number = _read.integer(value, argument, f"{argument}={max(least, 1) * 100}")
    if number < least:
        raise ValueError(f"`{argument}` must be at least {least} steps, got {number}. For example {argument}=100.")
    return number

"""The door: what is asked for is read and checked before anything is changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from masklib import _read
from masklib.updates import Update

from .._module.stepping import unwrapped
from ._hold import zero
from ._names import Names, chosen, plain_model
from ._pruning import Pruning, active


def attach(
    optimizer: Optimizer,
    model: nn.Module,
    update: Update,
    *,
    names: Names | None = None,
    hold: Callable[..., None] = zero,
    state: Mapping[str, Any] | None = None,
) -> Pruning:
    """Let an update of `masklib.updates` change masks while an optimizer trains a model.

    Parameters stay ordinary ones, whose dead entries are zero. After each step that moves anything, dead entries and
    all optimizer state of their shape are exactly zero; then the update runs, if it is due. What grows starts from a
    zero value and zero state. `param.grad` is the dense gradient until the step, which sees it without dead entries.

    Args:
        optimizer: it must hold the parameters; a wrapper of accelerate or Lightning is looked through. Of one in
            another (SAM), it is that whose `step()` is called.
        model: the model; one from torch.compile or DDP is looked through.
        update: how masks change, and when.
        names: dotted names of parameters, or `(name, param) -> bool`; the `adapters.weights` that the optimizer holds
            if None.
        hold: what dead entries hold, `zero` or `freeze`, or `(param, mask, values) -> None` of your own, in place.
        state: what `state_dict()` gave, to go on from there; else the update of step 0 runs now.

    Returns:
        The pruning; it goes on as long as the optimizer lives or until `remove()`.

    Raises:
        TypeError: if an argument is not of its kind.
        ValueError: if a name does not fit, the optimizer does not hold a parameter, or another pruning does already;
            if parameters have no values yet, or are those of FullyShardedDataParallel.

    >>> model = nn.Linear(4, 2)
    >>> optimizer = torch.optim.AdamW(model.parameters())
    >>> pruning = attach(optimizer, model, masklib.updates.static(masklib.l1_unstructured, amount=3))
    >>> int((model.weight == 0).sum()), pruning.step
    (3, 0)
    """
    stepping = unwrapped(optimizer)
    module = plain_model(model)
    if not isinstance(update, Update):
        raise TypeError(
            f"`update` must be a masklib.updates.Update, got {type(update).__name__}. For a function of your own, pass "
            "updates.Update(function, due=schedule.due)."
        )
    _read.function(hold, "hold", "hold=freeze")
    if update.straight_through and hold is not zero:
        raise ValueError("`hold` must be zero with a straight-through update, whose dead entries go on learning.")
    params = chosen(module, names, stepping)
    _refuse_a_second(params)
    return Pruning(stepping, module, update, params, hold, state)


def _refuse_a_second(params: Mapping[str, nn.Parameter]) -> None:
    mine = {id(p): name for name, p in params.items()}
    for other in active:
        taken = [mine[id(p)] for p in other._params.values() if id(p) in mine]
        if taken and other._optimizer() is not None:
            raise ValueError(
                f"`model` is pruned already: another update is attached to {taken}. Call its remove() first, or pass "
                "other names."
            )

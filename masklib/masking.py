"""Applying masks to parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from masklib import _check
from masklib._names import Tensors, TensorsT, like


def apply(params: TensorsT, masks: Tensors, *, straight_through: bool = False) -> TensorsT:
    """Zero what the masks kill.

        apply(p, m) = where(m, p, 0)

    No NaN or inf leaks through, and the gradient of a killed entry is zero. The result goes into
    `torch.func.functional_call`.

    Args:
        params: parameters of any shape, a tensor or a mapping by name.
        masks: bool, of the parameters' shapes; a mapping may leave names out.
        straight_through: whether gradients pass as if nothing were killed, so that dead entries go on learning (the
            straight-through estimator of Bengio et al. 2013).

    Returns:
        A new tensor or dict; parameters without a mask are the same objects.

    Raises:
        TypeError: if a mask is not bool.
        ValueError: if shapes or devices disagree, or a mask has no parameter.

    >>> apply({"w": torch.tensor([1.0, float("nan")])}, {"w": torch.tensor([True, False])})
    {'w': tensor([1., 0.])}
    """
    entries, kept = _check.tensors(params, "params"), _check.tensors(masks, "masks")
    _check.same_form(masks, params, "masks", "params")
    _check.known_names(kept, entries, "masks", "params")
    for name, mask in kept.items():
        _check.mask_like(mask, entries[name], _check.place(name, "masks"), _check.place(name, "params"))
    zeroed = _straight_through if straight_through else masked
    return like(params, {n: zeroed(p, kept[n]) if n in kept else p for n, p in entries.items()})


def dense_grad(loss: Callable[..., Tensor], params: TensorsT, masks: Tensors, *args: Any) -> TensorsT:
    """Compute the gradient with respect to the effective weights, dead entries included.

        dense_grad(loss, p, m, *args) = grad of loss at apply(p, m)

    A dead entry has the gradient that it would have if it were alive at zero, which is what regrowth ranks.

    Args:
        loss: `loss(params, *args)`, a 0-d tensor, such as a loss of `torch.func.functional_call`.
        params: parameters, a tensor or a mapping by name.
        masks: bool, of the parameters' shapes; a mapping may leave names out.
        args: what else the loss takes.

    Returns:
        Gradients of the parameters' shapes and names.

    Raises:
        TypeError, ValueError: as `apply`.

    >>> p, m = torch.tensor([2.0, 3.0]), torch.tensor([True, False])
    >>> dense_grad(lambda p: (p.sum() - 1) ** 2, p, m)
    tensor([2., 2.])
    """
    return torch.func.grad(loss)(apply(params, masks), *args)


def _straight_through(param: Tensor, mask: Tensor) -> Tensor:
    """`masked` whose gradient is the identity's; what is added is zero, also where the parameter is no number."""
    finite = param.nan_to_num(0, 0, 0)
    return masked(param.detach(), mask) + (finite - finite.detach())


def masked(param: Tensor, mask: Tensor) -> Tensor:
    """where(mask, param, 0) for a mask of 0 and 1 in any dtype; its gradient is zero where the mask is.

    For floating types by the kernel of a ReLU's gradient, which is several times faster than that of `where`.
    """
    if isinstance(param, Tensor) and not (param.is_floating_point() and param.itemsize > 1):
        return torch.where(mask != 0, param, param.new_zeros(()))
    return torch.ops.aten.threshold_backward(param, mask.to(param.dtype), 0)  # also of what torch.fx traces, no Tensor

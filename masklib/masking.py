"""Applying masks to parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from masklib import _check
from masklib._names import Tensors, TensorsT, like


def apply(params: TensorsT, masks: Tensors) -> TensorsT:
    """Zero what the masks kill.

        apply(p, m) = where(m, p, 0)

    No NaN or inf leaks through, and the gradient of a killed entry is zero. The result goes into
    `torch.func.functional_call`.

    Args:
        params: parameters of any shape, a tensor or a mapping by name.
        masks: bool, of the parameters' shapes; a mapping may leave names out.

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
    return like(params, {n: masked(p, kept[n]) if n in kept else p for n, p in entries.items()})


def masked(param: Tensor, mask: Tensor) -> Tensor:
    """where(mask, param, 0) for a mask of 0 and 1 in any dtype; its gradient is zero where the mask is.

    For floating types by the kernel of a ReLU's gradient, which is several times faster than that of `where`.
    """
    if isinstance(param, Tensor) and not (param.is_floating_point() and param.itemsize > 1):
        return torch.where(mask != 0, param, param.new_zeros(()))
    return torch.ops.aten.threshold_backward(param, mask.to(param.dtype), 0)  # also of what torch.fx traces, no Tensor

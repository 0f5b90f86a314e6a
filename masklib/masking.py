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
    return like(params, {n: _apply(p, kept[n]) if n in kept else p for n, p in entries.items()})


def _apply(param: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, param, param.new_zeros(()))

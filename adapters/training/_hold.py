"""What dead entries hold after a step."""

from __future__ import annotations

import torch
from torch import Tensor

from masklib import _read

from .._module.stepping import zero_dead


def zero(param: Tensor, mask: Tensor, values: Tensor | None = None) -> None:
    """Hold dead entries at zero, in place.

    >>> p = torch.tensor([1.0, 2.0])
    >>> zero(p, torch.tensor([True, False]))
    >>> p
    tensor([1., 0.])
    """
    _refuse(param, mask)
    zero_dead((param, mask))


@torch.no_grad()
def freeze(param: Tensor, mask: Tensor, values: Tensor) -> None:
    """Hold dead entries at the values they had when they died, in place.

    >>> p = torch.tensor([1.0, 2.0])
    >>> freeze(p, torch.tensor([True, False]), torch.tensor([8.0, 9.0]))
    >>> p
    tensor([1., 9.])

    Reference: Mallya and Lazebnik, "PackNet", 2018.
    """
    _refuse(param, mask)
    _read.is_dense(values, "", "values")
    _read.same_shape(values, param, "`values`", "`param`")
    _read.same_device(values, param, "`values`", "`param`", "values")
    if values.dtype != param.dtype:
        raise TypeError(f"`values` must be {param.dtype} as `param` is, got {values.dtype}. Pass values.to(param).")
    param.copy_(torch.where(mask, param, values))


def _refuse(param: Tensor, mask: Tensor) -> None:
    """Refuse what is no parameter, and what is no mask of it."""
    _read.is_dense(param, "", "param")
    _read.is_dense(mask, "", "mask")
    _read.mask_like(mask, param, "`mask`", "`param`")

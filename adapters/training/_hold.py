"""What dead entries hold after a step."""

from __future__ import annotations

import torch
from torch import Tensor

from .._module.stepping import zero_dead


def zero(param: Tensor, mask: Tensor, values: Tensor | None = None) -> None:
    """Hold dead entries at zero, in place.

    >>> p = torch.tensor([1.0, 2.0])
    >>> zero(p, torch.tensor([True, False]))
    >>> p
    tensor([1., 0.])
    """
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
    param.copy_(torch.where(mask, param, values))

"""Whether an optimizer leaves zeros alone, found out on a small parameter of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def keeps_zeros(optimizer: Optimizer, params: Mapping[str, Tensor]) -> bool:
    """Whether entries that are zero and get no gradient stay exactly zero, with all state of their shape.

    Then masked gradients are enough, and nothing has to be zeroed after a step. It does not hold for optimizers whose
    entries move one another (Muon), whose state begins above zero (Rprop), or that only run with a closure (LBFGS). Nor
    is it asked of DTensors, whose versions do not tell who wrote.
    """
    try:
        return not any(hasattr(p, "to_local") for p in params.values()) and all(
            _keeps(type(optimizer), group) for group in optimizer.param_groups
        )
    except Exception:  # another constructor, a closure, a device: whatever it is, zeroing is always right
        return False


@torch.enable_grad()
def _keeps(kind: Any, group: dict[str, Any]) -> bool:
    chance = torch.Generator().manual_seed(0)
    # of full rank: what mixes rows or columns has to show
    numbers = torch.randn(3, 4, 6, generator=chance, device="cpu")
    dead = torch.rand(4, 6, generator=chance, device="cpu") < 0.4
    param = nn.Parameter(numbers[0].masked_fill(dead, 0))
    twin = kind([param])
    twin.param_groups[0].update({key: value for key, value in group.items() if key not in ("params", "param_names")})
    for gradient in numbers:
        param.grad = gradient.masked_fill(dead, 0)
        twin.step()
    values = [v for v in twin.state[param].values() if isinstance(v, Tensor) and v.shape == param.shape]
    return not any(bool(v[dead].any()) for v in (param.detach(), *values))

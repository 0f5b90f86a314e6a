"""The law of budgets, `budget(params, sparsity) -> shares by name`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor


def adds_up(budget: Callable[..., Mapping[str, float]], params: Mapping[str, Tensor], sparsity: float) -> None:
    """sum(budget(params, sparsity)[name] * size[name]) = sparsity * sum(size), each share in [0, 1], up to rounding.

    >>> adds_up(masklib.budgets.uniform, {"a": torch.ones(2), "b": torch.ones(3)}, 0.5)
    """
    shares = budget(params, sparsity)
    sizes = {n: t.numel() for n, t in params.items()}
    total = sum(sizes.values())
    assert shares.keys() == sizes.keys()
    assert all(0 <= share <= 1 for share in shares.values())
    assert abs(sum(shares[n] * sizes[n] for n in sizes) - sparsity * total) <= 1e-9 * max(total, 1)

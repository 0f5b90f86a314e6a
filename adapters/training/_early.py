"""Gradients that are masked before the optimizer steps: an update that goes by them must have seen all of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping

from torch import Tensor
from torch.utils.weak import TensorWeakRef

from .._module.stepping import local


def noted(params: Mapping[str, Tensor]) -> list[TensorWeakRef]:
    """The gradients that are masked now, as long as they live."""
    return [TensorWeakRef(p.grad) for p in params.values() if p.grad is not None]


def refuse_again(masked: Iterable[TensorWeakRef], params: Mapping[str, Tensor]) -> None:
    """Refuse gradients that have been masked already, since what has come to them meanwhile is a part."""
    known = {id(grad) for ref in masked if (grad := ref()) is not None}
    if again := [name for name, p in params.items() if p.grad is not None and id(p.grad) in known]:
        raise ValueError(
            f"mask_grads() was called twice before a step, on the gradients of {again}, and the update would see a "
            "part of them. Call it once, after the last backward; after a step that a GradScaler skipped, call "
            "optimizer.zero_grad(set_to_none=True)."
        )


def tell_later(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Warn if gradients of dead entries have come since they were masked."""
    if any(bool((local(grad) != 0).logical_and_(~local(mask)).any()) for grad, mask in pairs):
        warnings.warn(
            "gradients of dead entries came after mask_grads(), and the update does not see them. Call it once, after "
            "the last backward.",
            stacklevel=2,
        )

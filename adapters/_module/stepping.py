"""What an optimizer does at a step: which steps are real, where gradients are complete, and zeros in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# ---- which optimizer, which steps -----------------------------------------------------------------------------------


def unwrapped(optimizer: Any) -> Optimizer:
    """The optimizer that steps: accelerate and Lightning wrap it in one without hooks."""
    while hasattr(optimizer, "param_groups") and isinstance(getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = optimizer.optimizer
    if not hasattr(optimizer, "register_step_post_hook"):
        raise TypeError(
            f"`optimizer` must be a torch.optim.Optimizer, got {type(optimizer).__name__}. "
            "For example torch.optim.AdamW(model.parameters())."
        )
    return optimizer


def owned(optimizer: Optimizer) -> set[int]:
    """The parameters of an optimizer, by id."""
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def counts(optimizer: Optimizer, kwargs: Any) -> bool:
    """Whether the step under way moves anything: a fused one that overflowed does not, nor does torch's fake one."""
    overflow = getattr(optimizer, "found_inf", None)
    return not (overflow is not None and bool(overflow)) and not _is_fake(optimizer, kwargs)


def _is_fake(optimizer: Optimizer, kwargs: Any) -> bool:
    """Whether torch.distributed.checkpoint makes an optimizer fill its state: by a step without rate and gradient."""
    groups = optimizer.param_groups
    if kwargs.get("closure", 0) is not None or optimizer.state or any(group.get("lr", 1) != 0 for group in groups):
        return False
    grads = [p.grad for group in groups for p in group["params"] if p.grad is not None]
    return not any(bool(local(grad).any()) for grad in grads)


def scale_of(optimizer: Optimizer) -> Any:
    """What a GradScaler has multiplied gradients by and not yet divided out, of fused optimizers alone; or None."""
    return getattr(optimizer, "grad_scale", None)


# ---- hooks ----------------------------------------------------------------------------------------------------------


class Hooks:
    """Hooks of one optimizer; `remove()` takes them off."""

    def __init__(self, *handles: Any) -> None:
        self.handles = handles

    def remove(self) -> None:
        """Take them off."""
        for handle in self.handles:
            handle.remove()


def after_steps(optimizer: Optimizer, after: Callable[[], None]) -> Hooks:
    """Call a function after each step."""
    return Hooks(optimizer.register_step_post_hook(lambda *_: after()))


def around_steps(
    optimizer: Optimizer, *, reveal: Callable[[], None], conceal: Callable[[], None], ready: Any, after: Any
) -> Hooks:
    """Call functions around each real step.

    `reveal` before the step, `ready` as soon as gradients are complete, `after` at the end. A closure computes its
    gradients within the step: it sees what `conceal` leaves, and is followed by `reveal` and `ready`.
    """
    real = [False]

    def before(optimizer: Any, args: Any, kwargs: Any) -> Any:
        real[0] = counts(optimizer, kwargs)
        if not real[0]:
            return None
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        reveal()
        if not callable(closure):
            return ready()

        def wrapped() -> Any:
            conceal()
            loss = closure()
            reveal()
            ready()
            return loss

        return (args[0], *args[2:]), {**kwargs, "closure": wrapped}

    def end(*_: Any) -> None:
        if real[0]:
            real[0] = False
            after()

    # in a compiled step masks would be constants, and each count of steps a compilation: hooks break its graph
    hooks = [torch.compiler.disable(hook) for hook in (before, end)]
    return Hooks(optimizer.register_step_pre_hook(hooks[0]), optimizer.register_step_post_hook(hooks[1]))


# ---- in place -------------------------------------------------------------------------------------------------------


def same_shape(optimizer: Optimizer, param: Tensor) -> Iterator[Tensor]:
    """The optimizer's state of a parameter's shape; that of a scalar cannot be told from a counter."""
    for value in optimizer.state.get(param, {}).values() if param.dim() else ():
        if isinstance(value, Tensor) and value.shape == param.shape:
            yield value


_FAST = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


@torch.no_grad()
def zero_dead(tensors: list[Tensor], mask: Tensor) -> None:
    """Zero in place what a mask kills, in tensors of its shape.

    By the kernel of a ReLU's gradient, as `apply` does: a million floats in .34 ms, and .33 ms once for the mask's own
    conversion, where `masked_fill_` takes 1.8 ms and a product with bools 1.1 ms (and lets NaN through).
    """
    bits: dict[torch.dtype, Tensor] = {}
    for tensor in map(local, tensors):
        kept = local(mask).to(tensor.device)
        if tensor.dtype not in _FAST or tensor.stride() != kept.stride():
            tensor.masked_fill_(~kept, 0)
            continue
        if tensor.dtype not in bits:
            bits[tensor.dtype] = kept.view(torch.uint8).to(tensor.dtype)
        torch.ops.aten.threshold_backward.grad_input(tensor, bits[tensor.dtype], 0, grad_input=tensor)


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor; a whole one is its own."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor

"""What an optimizer does at a step: which steps are real, where gradients are complete, and zeros in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from masklib.selection._threads import threaded

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


_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # of floats, by their bytes


@torch.no_grad()
def zero_dead(*pairs: tuple[Tensor, Tensor]) -> None:
    """Zero in place what masks kill, in (tensor, mask) of one shape each.

    On the CPU the bits of a float, as an integer, times its mask: exactly zero for NaN too. numpy converts the mask in
    cache: of a million cold floats in .8 ms, where torch's kernels (`threshold_backward` after a conversion) took 1.4
    ms, `masked_fill_` 3.2 ms, and waited for each other's threads on a busy machine.
    """
    parts = [(local(tensor).detach(), local(mask).to(tensor.device)) for tensor, mask in pairs]
    plain = [part for part in parts if _is_plain(part[0])]
    threaded(_multiplied, plain, sum(tensor.numel() for tensor, _ in plain))
    for tensor, mask in parts:
        if not _is_plain(tensor):
            tensor.masked_fill_(~mask, 0)


def _is_plain(tensor: Tensor) -> bool:
    """Whether numpy can write a tensor's floats."""
    return type(tensor) is Tensor and tensor.is_cpu and tensor.is_floating_point() and tensor.itemsize in _BITS


def _multiplied(parts: Any) -> None:
    for tensor, mask in parts:
        bits = tensor.view(_BITS[tensor.itemsize]).numpy()
        np.multiply(bits, mask.view(torch.int8).numpy(), out=bits)
        torch.autograd.graph.increment_version(tensor)


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor; a whole one is its own."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor

"""Applying masks to parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.jit._trace import is_tracing as _is_tracing

from masklib import _read
from masklib._names import Tensors, TensorsT, each, like, named
from masklib._shards._parts import on_part, sharded_like


def apply(params: TensorsT, masks: Tensors, *, straight_through: bool = False) -> TensorsT:
    """Zero what the masks kill.

        apply(p, m) = where(m, p, 0)

    No NaN or inf leaks through, and the gradient of a killed entry is zero. The result goes into
    `torch.func.functional_call`.

    Args:
        params: parameters of any shape, a tensor or a mapping by name; DTensors stay sharded, their gradients too.
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
    entries, kept = _read.tensors(params, "params"), _read.tensors(masks, "masks")
    _read.same_form(masks, params, "masks", "params")
    _read.known_names(kept, entries, "masks", "params")
    for name, mask in kept.items():
        _read.mask_like(mask, entries[name], _read.place(name, "masks"), _read.place(name, "params"))
    through = _read.flag(straight_through, "straight_through", "straight_through=True")
    zeroed = _straight_through if through else masked
    return like(params, {n: on_part(zeroed, p, kept[n]) if n in kept else p for n, p in entries.items()})


def dense_grad(params: TensorsT, masks: Tensors, loss: Callable[..., Tensor], *args: Any) -> TensorsT:
    """Compute the gradient with respect to the effective weights, dead entries included.

        dense_grad(p, m, loss, *args) = grad of loss at apply(p, m)

    A dead entry has the gradient that it would have if it were alive at zero, which is what regrowth ranks.

    Args:
        params: parameters, a tensor or a mapping by name.
        masks: bool, of the parameters' shapes; a mapping may leave names out.
        loss: `loss(params, *args)`, a 0-d tensor, such as a loss of `torch.func.functional_call`.
        args: what else the loss takes.

    Returns:
        Gradients of the parameters' shapes and names.

    Raises:
        TypeError: if a parameter is not floating, a mask not bool, or `loss` not a function that returns a floating
            tensor.
        ValueError: if shapes or devices disagree, a mask has no parameter, or the loss is not a 0-d tensor.

    >>> p, m = torch.tensor([2.0, 3.0]), torch.tensor([True, False])
    >>> dense_grad(p, m, lambda p: (p.sum() - 1) ** 2)
    tensor([2., 2.])
    """
    gradient = grad_of(loss)
    _read.inexact(params, "params")
    effective = apply(params, masks)
    return each(sharded_like, gradient(effective, *args), effective) if named(effective) else effective


def grad_of(loss: Callable[..., Tensor]) -> Callable[..., Any]:
    """`torch.func.grad` of a loss whose value is checked."""
    _read.function(loss, "loss", "loss=lambda params, x: model(params, x).square().mean()")
    gradient = torch.func.grad(lambda *args: _a_number(loss(*args)))

    def outside_inference_mode(params: Any, *args: Any) -> Any:
        if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
            return gradient(params, *args)
        with torch.inference_mode(False):  # in which gradients of torch 2.6 are zero, without a word
            return gradient(each(torch.clone, params), *args)

    return outside_inference_mode


# ---- how ------------------------------------------------------------------------------------------------------------

# Up to this many elements a copy of the mask in the parameter's dtype is kept for backward rather than the bool mask:
# at most 1 MiB of float32, against 70 microseconds that an autograd function in Python adds to a training step.
_SMALL = 2**18


def masked(param: Any, mask: Any) -> Tensor:
    """where(mask, param, 0) for a mask of 0 and 1 in any dtype; its gradient is zero where the mask is.

    Keeps the parameter's memory format. What torch.fx traces is no Tensor, and is recorded as one operator.
    """
    if not isinstance(param, Tensor):
        return _zeroed(param, mask)
    if mask.stride() != param.stride():  # the mask's decide over those of the result in every kernel here
        mask = torch.zeros_like(param, dtype=mask.dtype) + mask
    if param.dtype not in _FAST or _records_kernels():
        return where_kept(mask != 0, param)
    if mask.dtype == torch.bool and param.requires_grad and param.numel() > _SMALL and torch.is_grad_enabled():
        return _Masked.apply(param, mask)
    return _zeroed(param, mask)


def where_kept(mask: Tensor, param: Tensor) -> Tensor:
    """where(mask, param, 0) of any dtype."""
    bits = as_bits(param)
    if bits is param:
        return torch.where(mask, param, param.new_zeros(()))
    return torch.where(mask, bits, 0).view(param.dtype)


def as_bits(tensor: Tensor) -> Tensor:
    """The tensor; of float8 and the wider unsigned integers, which torch 2.6 hardly moves, a view as others."""
    if tensor.is_floating_point() and tensor.itemsize == 1:
        return tensor.view(torch.uint8)
    return tensor.view(_SIGNED[tensor.dtype]) if tensor.dtype in _SIGNED else tensor


_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
_FAST = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def _records_kernels() -> bool:
    """Whether what is called is recorded for a compiler or exporter, which knows `where` better."""
    return torch.compiler.is_compiling() or (_is_tracing() and torch.onnx.is_in_onnx_export())


def _zeroed(param: Tensor, mask: Tensor) -> Tensor:
    """By the kernel of a ReLU's gradient: 512 x 512 in .16 ms, where `where` and `masked_fill` take 1.2 and 1.4 ms.

    A bool mask goes by way of bytes, whose conversion is vectorised (.07 ms against .19).
    """
    bits = mask.to(torch.uint8) if isinstance(mask, Tensor) and mask.dtype == torch.bool else mask
    return torch.ops.aten.threshold_backward(param, bits.to(param.dtype), 0)


class _Masked(torch.autograd.Function):
    """`_zeroed` that keeps the bool mask for backward, which the caller has anyway, not its copy in floats."""

    generate_vmap_rule = True

    @staticmethod
    def forward(param: Tensor, mask: Tensor) -> Tensor:
        return _zeroed(param, mask)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _zeroed(gradient, *ctx.saved_tensors), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: Any) -> Tensor:
        return _zeroed(tangent, *ctx.saved_tensors)


class _Through(torch.autograd.Function):
    """`masked` whose gradient is the identity's, whatever the parameter's values are."""

    generate_vmap_rule = True

    @staticmethod
    def forward(param: Tensor, mask: Tensor) -> Tensor:
        return masked(param, mask)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: Any) -> Tensor:
        return tangent.clone()


def _straight_through(param: Tensor, mask: Tensor) -> Tensor:
    if not torch.compiler.is_compiling():
        return _Through.apply(param, mask)
    result = param.clone()  # torch.compile traces no function with a jvp; this has the gradient of the clone
    with torch.no_grad():
        result.masked_fill_(mask == 0, 0)
    return result


# ---- what is refused ------------------------------------------------------------------------------------------------


def _a_number(loss: Any) -> Tensor:
    """Refuse the value of a loss that has no gradient."""
    if not isinstance(loss, Tensor) or not loss.is_floating_point():
        shown = loss.dtype if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(f"`loss` must return a real floating tensor, got {shown}. For example a mean of squares.")
    if loss.dim():
        raise ValueError(
            f"`loss` must return a 0-d tensor, got shape {tuple(loss.shape)}. Reduce it, for example by .mean()."
        )
    return loss

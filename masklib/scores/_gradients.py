"""Scores that need gradients of a loss, which are taken with respect to the effective weights (`dense_grad`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from masklib import _check
from masklib._names import Tensors, TensorsT, each, like, named
from masklib.scores._weights import at_least_float32


def saliency(params: TensorsT, grads: Tensors) -> TensorsT:
    """Score each element by how much the loss would change, to first order, without it.

        S = abs(w * g)

    SNIP when taken at initialisation.

    Args:
        params: weights of any shape, a tensor or a mapping by name.
        grads: gradients of the loss with respect to them, with the same shapes and names.

    Returns:
        Scores of the same shapes, in the wider of the two dtypes (real for complex), float32 at least: products of
        16-bit weights and gradients vanish in 16 bits.

    Raises:
        TypeError: if a value is not a floating or complex tensor.
        ValueError: if shapes or names disagree.

    >>> scores.saliency(torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0]))
    tensor([1., 3.])

    Reference: Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity", 2019, equation 4.
    """
    return each(lambda w, g: (w * g).abs(), *_wide_pairs(params, grads))


def taylor(params: TensorsT, grads: Tensors) -> TensorsT:
    """Score each element by the square of the loss's first-order change without it.

        S = (w * g)**2

    With `channels(0)` the sum over a channel is the criterion of the paper for filters.

    Args:
        params: weights of any shape, a tensor or a mapping by name.
        grads: gradients of the loss with respect to them, with the same shapes and names.

    Returns:
        Scores of the same shapes, in the wider of the two dtypes (real for complex), float32 at least.

    Raises:
        TypeError: if a value is not a floating or complex tensor.
        ValueError: if shapes or names disagree.

    >>> scores.taylor(torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0]))
    tensor([1., 9.])

    Reference: Molchanov et al., "Importance Estimation for Neural Network Pruning", 2019, equation 8.
    """
    return each(lambda w, g: (w * g).abs() ** 2, *_wide_pairs(params, grads))


class SquaredGrads(NamedTuple):
    """Sums of squared gradients, and over how many."""

    total: Any
    batches: int


def add_squared_grads(state: SquaredGrads | None, grads: TensorsT) -> SquaredGrads:
    """Add the squares of gradients, of single examples or of batches.

    Args:
        state: what was added so far; None for nothing.
        grads: gradients, a tensor or a mapping by name.

    Returns:
        The new state; sums in float32 at least.

    Raises:
        TypeError: if a value is not a floating or complex tensor.
        ValueError: if shapes or names are not those added before.

    >>> scores.add_squared_grads(None, torch.tensor([1.0, -2.0]))
    SquaredGrads(total=tensor([1., 4.]), batches=1)
    """
    _check.inexact(grads, "grads")
    squares = each(lambda g: g.detach().abs().to(at_least_float32(g)) ** 2, grads)
    return SquaredGrads(_added(state and state.total, squares, "grads"), (state.batches if state else 0) + 1)


def fisher(params: TensorsT, state: SquaredGrads) -> TensorsT:
    """Score each element by the loss's second-order change without it, by the diagonal of the Fisher information.

        S = w**2 * E[g**2] / 2

    Args:
        params: weights of any shape, a tensor or a mapping by name.
        state: squared gradients with the same shapes and names.

    Returns:
        Scores of the same shapes, in float32 at least.

    Raises:
        TypeError: if a value is not a floating or complex tensor.
        ValueError: if shapes or names disagree.

    >>> state = scores.add_squared_grads(None, torch.tensor([1.0, -2.0]))
    >>> scores.fisher(torch.tensor([4.0, 1.0]), state)
    tensor([8., 2.])

    Reference: LeCun et al., "Optimal Brain Damage", 1990, equation 5; Theis et al., "Faster gaze prediction with dense
    networks and Fisher pruning", 2018, equation 9.
    """
    return each(lambda w, t: w.abs() ** 2 * t / (2 * state.batches), *_wide_pairs(params, state.total, "state"))


class Movement(NamedTuple):
    """How far weights have moved away from zero."""

    total: Any


def add_movement(state: Movement | None, params: TensorsT, grads: Tensors) -> Movement:
    """Add what one step moves the weights away from zero.

        total += -w * g

    Args:
        state: what was added so far; None for nothing.
        params: real weights of any shape, a tensor or a mapping by name.
        grads: gradients with respect to them, with the same shapes and names.

    Returns:
        The new state; sums in float32 at least.

    Raises:
        TypeError: if a value is not a floating tensor.
        ValueError: if shapes or names disagree.

    >>> scores.add_movement(None, torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0]))
    Movement(total=tensor([-1.,  3.]))
    """
    steps = each(lambda w, g: -w * g, *_wide_pairs(params, grads))
    return Movement(_added(state and state.total, steps, "params"))


def movement(state: Movement) -> Any:
    """Score each element by how far it has moved away from zero.

        S = sum of -w * g over steps

    Args:
        state: what the steps added.

    Returns:
        Scores of the weights' shapes, in float32 at least; not magnitudes: rank them by `compute_mask`.

    >>> scores.movement(scores.add_movement(None, torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0])))
    tensor([-1.,  3.])

    Reference: Sanh et al., "Movement Pruning: Adaptive Sparsity by Fine-Tuning", 2020, equation 3.
    """
    return each(Tensor.clone, state.total)


def grasp(loss: Callable[..., Tensor], params: TensorsT, *args: Any) -> TensorsT:
    """Score each element by how much the gradient flow would shrink without it.

        S = w * (H g),   g the gradient of the loss, H its Hessian

    The paper writes -w * (H g) and removes the highest; here, as everywhere, the lowest go.

    Args:
        loss: `loss(params, *args)`, a 0-d tensor, such as a loss of `torch.func.functional_call`.
        params: weights of any shape, a tensor or a mapping by name.
        args: what else the loss takes.

    Returns:
        Scores of the same shapes, in the weights' dtype, float32 at least; signed: rank them by `compute_mask`.

    Raises:
        TypeError: if a value is not a floating tensor.

    >>> scores.grasp(lambda w: (w**3).sum(), torch.tensor([1.0, -2.0]))
    tensor([ 18., 288.])

    Reference: Wang et al., "Picking Winning Tickets Before Training by Preserving Gradient Flow", 2020, equation 8.
    """
    weights, gradient = each(torch.clone, _wide(params)), torch.func.grad(loss)  # jvp takes no expanded tensors
    if not named(weights):
        return weights
    flow = torch.func.jvp(lambda p: gradient(p, *args), (weights,), (gradient(weights, *args),))[1]
    return each(lambda w, f: w * f.detach(), weights, flow)


def synflow(model: Callable[..., Tensor], params: TensorsT, inputs: Tensor) -> TensorsT:
    """Score each element by the synaptic flow through it, without data.

        S = abs(w) * dR/dabs(w),   R = sum of model(abs(params), ones)

    In a ReLU network without biases the scores of every layer add up to the same. Meant to be taken again and again, a
    little sparser each time:

        target = schedules.geometric(0.9, stop=100)                    # 90 % in a hundred steps
        for step in range(1, 101):
            flow = scores.synflow(model, apply(params, masks), inputs)
            masks = compute_mask(flow, masks, sparsity=target(step))

    Args:
        model: `model(params, inputs)`, such as `lambda p, x: functional_call(net, p, (x,))`, in evaluation mode.
        params: weights of any shape, a tensor or a mapping by name.
        inputs: one input; only its shape, device and dtype are looked at.

    Returns:
        Scores of the same shapes, in the weights' dtype, float32 at least. Deep networks overflow float32: pass
        float64.

    Raises:
        TypeError: if a value is not a floating tensor.

    >>> w = {"1": torch.tensor([[1.0, -2.0]]), "2": torch.tensor([[3.0]])}
    >>> flow = scores.synflow(lambda p, x: (x @ p["1"].T).relu() @ p["2"].T, w, torch.zeros(1, 2))
    >>> flow["1"], flow["2"]
    (tensor([[3., 6.]]), tensor([[9.]]))

    Reference: Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow", 2020,
    section 5.
    """
    sizes = each(Tensor.abs, _wide(params))
    ones = torch.ones_like(inputs)
    flow = torch.func.grad(lambda p: model(p, ones).sum())(sizes)
    return each(lambda w, f: w * f.detach(), sizes, flow)


# ---- what they share ------------------------------------------------------------------------------------------------


def _wide(params: Any) -> Any:
    _check.inexact(params, "params")
    return each(lambda w: w.detach().to(torch.promote_types(w.dtype, torch.float32)), params)


def _wide_pairs(params: Any, others: Any, argument: str = "grads") -> tuple[Any, Any]:
    """Both in a dtype that their products do not vanish in, with the same names and shapes."""
    weights, partners = _check.inexact(params, "params"), _check.inexact(others, argument)
    _check.same_names(partners, weights, argument, "params")
    for name, partner in partners.items():
        _check.same_shape(partner, weights[name], _check.place(name, argument), _check.place(name, "params"))
    pairs = {n: torch.promote_types(weights[n].dtype, partners[n].dtype) for n in weights}
    dtypes = {n: torch.promote_types(dtype, torch.float32) for n, dtype in pairs.items()}
    return tuple(like(params, {n: t[n].detach().to(dtypes[n]) for n in weights}) for t in (weights, partners))


def _added(before: Any, more: Any, argument: str) -> Any:
    if before is None:
        return more
    _check.same_names(named(more), named(before), argument, "state")
    for name, tensor in named(more).items():
        _check.same_shape(tensor, named(before)[name], _check.place(name, argument), "`state`")
    return each(torch.add, before, more)

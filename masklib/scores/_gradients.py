"""Scores that need gradients of a loss, which are taken with respect to the effective weights (`dense_grad`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from masklib import _read
from masklib._names import Tensors, TensorsT, each, like, named
from masklib._shards._parts import each_part, on_part, sharded_like
from masklib.masking import grad_of
from masklib.scores._common import added, no_autocast, one_input, pairs, product, total_of


def saliency(params: TensorsT, grads: Tensors) -> TensorsT:
    """Score each element by how much the loss would change, to first order, without it.

        S = abs(w * g),   of complex numbers abs(Re(w * conj(g)))

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
    return each_part(lambda w, g: product(w, g).abs(), *_wide_pairs(params, grads))


def taylor(params: TensorsT, grads: Tensors) -> TensorsT:
    """Score each element by the square of the loss's first-order change without it.

        S = (w * g)**2,   of complex numbers Re(w * conj(g))**2

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
    return each_part(lambda w, g: product(w, g) ** 2, *_wide_pairs(params, grads))


class SquaredGrads(NamedTuple):
    """Sums of squared gradients. Each field is one value, or values by name."""

    total: Any  # the weights' shape, float32 at least: the sum of abs(g)**2
    count: Any  # int: how many gradients g


def add_squared_grads(state: SquaredGrads | None, grads: TensorsT) -> SquaredGrads:
    """Add the squares of gradients, of single examples or of batches.

        total += abs(g)**2,   count += 1

    Args:
        state: what was added so far; None for nothing.
        grads: real or complex gradients, a tensor or a mapping by name.

    Returns:
        The new state; sums in float32 at least.

    Raises:
        TypeError: if a gradient is not floating, or the state is none.
        ValueError: if shapes or names are not those added before.

    >>> scores.add_squared_grads(None, torch.tensor([1.0, -2.0]))
    SquaredGrads(total=tensor([1., 4.]), count=1)
    """
    squares = each_part(lambda g: _widened(g).abs() ** 2, _floating(grads, "grads"))
    return SquaredGrads(*added(state, squares, each(lambda _: 1, squares), "grads"))


def fisher(params: TensorsT, state: SquaredGrads) -> TensorsT:
    """Score each element by the loss's second-order change without it, by the diagonal of the Fisher information.

        S = w**2 * E[g**2] / 2

    Args:
        params: weights of any shape, a tensor or a mapping by name.
        state: squared gradients with the same shapes and names.

    Returns:
        Scores of the same shapes, in float32 at least.

    Raises:
        TypeError: if a value is not floating, or the state is none.
        ValueError: if shapes or names disagree.

    >>> state = scores.add_squared_grads(None, torch.tensor([1.0, -2.0]))
    >>> scores.fisher(torch.tensor([4.0, 1.0]), state)
    tensor([8., 2.])

    Reference: LeCun et al., "Optimal Brain Damage", 1990, equation 5; Theis et al., "Faster gaze prediction with dense
    networks and Fisher pruning", 2018, equation 9.
    """
    weights, squares = _wide_pairs(params, total_of(state, "state"), "state")
    return each_part(lambda w, t, n: w.abs() ** 2 * t.abs() / (2 * n), weights, squares, state.count)


class Movement(NamedTuple):
    """How far weights have moved away from zero. Each field is one value, or values by name."""

    total: Any  # the weights' shape, float32 at least: the sum of -w * g
    count: Any  # int: how many steps


def add_movement(state: Movement | None, params: TensorsT, grads: Tensors) -> Movement:
    """Add what one step moves the weights away from zero.

        total += -w * g,   of complex numbers -Re(w * conj(g));   count += 1

    Args:
        state: what was added so far; None for nothing.
        params: weights of any shape, a tensor or a mapping by name.
        grads: gradients with respect to them, with the same shapes and names.

    Returns:
        The new state; sums in float32 at least.

    Raises:
        TypeError: if a value is not floating, or the state is none.
        ValueError: if shapes or names disagree.

    >>> scores.add_movement(None, torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0]))
    Movement(total=tensor([-1.,  3.]), count=1)
    """
    steps = each_part(lambda w, g: -product(w, g), *_wide_pairs(params, grads))
    return Movement(*added(state, steps, each(lambda _: 1, steps), "params"))


def movement(state: Movement) -> Any:
    """Score each element by how far it has moved away from zero.

        S = sum of -w * g over steps

    Args:
        state: what the steps added.

    Returns:
        Scores of the weights' shapes, in float32 at least; not magnitudes: rank them by `compute_mask`.

    Raises:
        TypeError: if the state is none.

    >>> scores.movement(scores.add_movement(None, torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0])))
    tensor([-1.,  3.])

    Reference: Sanh et al., "Movement Pruning: Adaptive Sparsity by Fine-Tuning", 2020, equation 3.
    """
    return each_part(Tensor.clone, total_of(state, "state"))


def grasp(params: TensorsT, loss: Callable[..., Tensor], *args: Any) -> TensorsT:
    """Score each element by how much the gradient flow would shrink without it.

        S = w * (H g),   g the gradient of the loss, H its Hessian;   of complex numbers Re(w * conj(H g))

    The paper writes -w * (H g) and removes the highest; here, as everywhere, the lowest go. `H g` is the gradient of
    the half squared norm of `g`: the loss is differentiated twice in reverse.

    Args:
        params: weights of any shape, a tensor or a mapping by name.
        loss: `loss(params, *args)`, a 0-d tensor, such as a loss of `torch.func.functional_call`. It is computed in the
            weights' own dtype, outside of any autocast region.
        args: what else the loss takes.

    Returns:
        Scores of the same shapes, in float32 at least; signed: rank them by `compute_mask`.

    Raises:
        TypeError: if a weight is not floating, or the loss not a function of them that returns a floating tensor.
        ValueError: if the loss is not a 0-d tensor.

    >>> scores.grasp(torch.tensor([1.0, -2.0]), lambda w: (w**3).sum())
    tensor([ 18., 288.])

    Reference: Wang et al., "Picking Winning Tickets Before Training by Preserving Gradient Flow", 2020, equation 8.
    """
    gradient = grad_of(loss)
    weights = each(Tensor.detach, _floating(params, "params"))

    def half_squared_norm(p: Any) -> Any:
        grads = named(gradient(p, *args)).values()
        return sum((_wide(g).abs() ** 2).sum() for g in grads) / 2

    if not named(weights):
        return weights
    with no_autocast(weights), sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have one derivative only
        flow = grad_of(half_squared_norm)(weights)
    return each_part(lambda w, f: product(_wide(w), _wide(f.detach())), weights, each(sharded_like, flow, weights))


def synflow(params: TensorsT, model: Callable[..., Tensor], inputs: Tensor) -> TensorsT:
    """Score each element by the synaptic flow through it, without data.

        S = abs(w) * dR/dabs(w),   R = sum of model(abs(params), ones)

    In a ReLU network without biases the scores of every layer add up to the same. Meant to be taken again and again, a
    little sparser each time:

        target = schedules.geometric(0.9, stop=100)                    # 90 % in a hundred steps
        for step in range(1, 101):
            flow = scores.synflow(apply(params, masks), model, inputs)
            masks = compute_mask(flow, masks, sparsity=target(step))

    Args:
        params: weights of any shape, a tensor or a mapping by name.
        model: `model(params, inputs)`, such as `lambda p, x: functional_call(net, p, (x,))`, in evaluation mode. It is
            computed in the weights' own dtype, outside of any autocast region.
        inputs: one input; only its shape, device and dtype are looked at.

    Returns:
        Scores of the same shapes, in float32 at least. Deep networks overflow float16 and float32: pass float64.

    Raises:
        TypeError: if a weight is not floating, the model not a function that returns a floating tensor, or `inputs`
            not a tensor.

    >>> w = {"1": torch.tensor([[1.0, -2.0]]), "2": torch.tensor([[3.0]])}
    >>> flow = scores.synflow(w, lambda p, x: (x @ p["1"].T).relu() @ p["2"].T, torch.zeros(1, 2))
    >>> flow["1"], flow["2"]
    (tensor([[3., 6.]]), tensor([[9.]]))

    Reference: Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow", 2020,
    section 5.
    """
    _read.function(model, "model", "model=lambda p, x: functional_call(net, p, (x,))")
    sizes = each_part(lambda w: w.detach().abs().to(w.dtype), _floating(params, "params"))
    ones = torch.ones_like(one_input(inputs, params))
    flow_of = grad_of(lambda p: _flow(model(p, ones)))
    with no_autocast(sizes):
        flow = flow_of(sizes)
    return each_part(lambda w, f: _wide(w.real) * _wide(f.detach().real), sizes, each(sharded_like, flow, sizes))


def _flow(outputs: Any) -> Tensor:
    if not isinstance(outputs, Tensor):
        raise TypeError(f"`model` must return a tensor, got {type(outputs).__name__}. Return the logits, for example.")
    return outputs.real.sum()


# ---- what they share ------------------------------------------------------------------------------------------------


def _wide(tensor: Tensor) -> Tensor:
    """In a dtype that products do not vanish in: float32 or complex64 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _widened(tensor: Tensor) -> Tensor:
    return _wide(tensor.detach())


def _floating(value: Any, argument: str) -> Any:
    _read.inexact(value, argument)
    return value


def _wide_pairs(params: Any, others: Any, argument: str = "grads") -> tuple[Any, Any]:
    """Both in one dtype that their products do not vanish in, with the same names and shapes."""
    weights, partners = pairs(params, others, argument)
    dtypes = {n: torch.promote_types(weights[n].dtype, partners[n].dtype) for n in weights}
    wide = {n: torch.promote_types(dtype, torch.float32) for n, dtype in dtypes.items()}
    return tuple(
        like(params, {n: on_part(lambda p, d: p.detach().to(d), t[n], wide[n]) for n in weights})
        for t in (weights, partners)
    )

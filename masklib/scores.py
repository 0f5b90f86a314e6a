"""Importance criteria: higher = more important. Tensors in, tensors out; mappings by name likewise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from masklib import _check, _order
from masklib._names import Tensors, TensorsT, each, like
from masklib._random import ELEMENTS, noise


def magnitude(params: TensorsT) -> TensorsT:
    """Score each element by its absolute value.

        S = abs(w)

    Args:
        params: real, complex or integer weights of any shape, a tensor or a mapping by name.

    Returns:
        Scores of the same shapes: in the weights' dtype (real for complex); unsigned for signed integers, so that the
        least one does not wrap.

    Raises:
        TypeError: if a value is not a tensor, or its dtype has no magnitude.

    >>> scores.magnitude(torch.tensor([-2.0, 1.0]))
    tensor([2., 1.])

    Reference: Han et al., "Learning both Weights and Connections for Efficient Neural Networks", 2015.
    """
    _check.rankable_each(_check.tensors(params, "params"), magnitude=True, argument="params")
    return each(lambda w: _order.magnitude(w.detach()), params)


def random(params: TensorsT, *, key: Any) -> TensorsT:
    """Score each element by noise that depends on (key, name, index) alone.

    64 bits an element, without ties in a tensor; the hash is written out in docs/policies.md. The values, dtypes,
    layouts, devices and order of `params` make no difference, and the global generators are not touched.

    Args:
        params: a tensor of any shape or a mapping by name; only names, shapes and devices are looked at.
        key: a 64-bit int, Python or a 0-d int64 tensor.

    Returns:
        int64 scores of the same shapes.

    Raises:
        TypeError: if `key` is not an integer.
        ValueError: if it does not fit in 64 bits.

    >>> scores.random(torch.zeros(2), key=0)
    tensor([ 968999591178511036, 8524995788417003113])
    """
    seed = _check.key(key)
    values = _check.tensors(params, "params")
    return like(params, {n: noise(seed, n, ELEMENTS, list(v.shape), v.device) for n, v in values.items()})


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
    weights, gradients = _check.inexact(params, "params"), _check.inexact(grads, "grads")
    _check.same_names(gradients, weights, "grads", "params")
    for name, grad in gradients.items():
        _check.same_shape(grad, weights[name], _check.place(name, "grads"), _check.place(name, "params"))
    return each(_saliency, params, like(params, gradients))


def _saliency(weight: Tensor, grad: Tensor) -> Tensor:
    wide = torch.promote_types(torch.promote_types(weight.dtype, grad.dtype), torch.float32)
    return (weight.detach().to(wide) * grad.detach().to(wide)).abs()

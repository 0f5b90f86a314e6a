"""Scores of the weights alone."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from masklib import _check, selection
from masklib._names import Tensors, TensorsT, each, like


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
    return each(lambda w: selection.magnitude(w.detach()), params)


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
    noises = {n: selection.noise(seed, n, selection.ELEMENTS, list(v.shape), v.device) for n, v in values.items()}
    return like(params, noises)


def lamp(params: TensorsT) -> TensorsT:
    """Score each element by its square's share of all squares in its tensor that are not smaller.

        S(i) = w(i)**2 / sum of w(j)**2 over j >= i,   w sorted by magnitude, ties by index

    Scores of different tensors compare: the largest of each is 1, so a global pool that keeps as many elements as there
    are tensors leaves none empty. Dead elements should be zero (`apply`): they count for nothing then. A tensor of
    zeros scores zero.

    Args:
        params: real weights of any shape, a tensor or a mapping by name.

    Returns:
        Scores of the same shapes, in float32 at least.

    Raises:
        TypeError: if a value is not a floating tensor.

    >>> scores.lamp(torch.tensor([4.0, -3.0, 2.0, 1.0]))
    tensor([1.0000, 0.3600, 0.1379, 0.0333])

    Reference: Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning", 2021, equation 5.
    """
    _check.inexact(params, "params")
    return each(_lamp, params)


def _lamp(weight: Tensor) -> Tensor:
    squares = weight.detach().abs().double().reshape(-1) ** 2
    ascending, order = squares.sort(stable=True)
    tails = ascending.flip(0).cumsum(0).flip(0)
    shares = torch.where(tails > 0, ascending / tails, 0.0)
    return torch.empty_like(shares).scatter(0, order, shares).view(weight.shape).to(at_least_float32(weight))


def fpgm(params: TensorsT, *, dim: int = 0) -> TensorsT:
    """Score each channel by its distances to all others: what is near the geometric median is replaceable.

        S(i) = sum of norm(F(i) - F(j)) over j

    Args:
        params: weights of two dims or more, a tensor or a mapping by name.
        dim: the dim whose indices are the channels.

    Returns:
        Scores of the same shapes, equal within a channel, for `channels(dim, mean=True)`; in float32 at least.

    Raises:
        TypeError: if a value is not a floating tensor.
        IndexError: if a tensor has no such dim.

    >>> w = torch.tensor([[0.0, 0.0], [0.0, 1.0], [9.0, 9.0]])
    >>> compute_mask(scores.fpgm(w), amount=1, groups=channels(0, mean=True)).any(1)
    tensor([ True, False,  True])

    Reference: He et al., "Filter Pruning via Geometric Median", 2019, equation 4.
    """
    weights = _check.inexact(params, "params")
    for name, weight in weights.items():
        _check.dimension(_check.integer(dim, "dim", "dim=0"), weight, _check.place(name, "params"))
    return each(lambda w: _fpgm(w.detach(), dim), params)


def _fpgm(weight: Tensor, dim: int) -> Tensor:
    filters = weight.movedim(dim, 0).flatten(1).to(at_least_float32(weight))
    return spread((filters[:, None] - filters[None]).norm(dim=2).sum(1), weight, dim)


def batch_norm(params: TensorsT, scales: Tensors, *, dim: int = 0) -> TensorsT:
    """Score each channel by the scale of the batch norm that follows it.

        S(i) = abs(gamma(i))

    Args:
        params: weights, a tensor or a mapping by name.
        scales: the norms' weights, one a channel, by the names of the layers before them.
        dim: the dim whose indices are the channels.

    Returns:
        Scores of the weights' shapes, equal within a channel, for `channels(dim, mean=True)`; in float32 at least.

    Raises:
        TypeError: if a value is not a floating tensor.
        ValueError: if names or lengths disagree.

    >>> scores.batch_norm(torch.zeros(2, 3), torch.tensor([-2.0, 1.0]))
    tensor([[2., 2., 2.],
            [1., 1., 1.]])

    Reference: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", 2017.
    """
    weights, gammas = _check.inexact(params, "params"), _check.inexact(scales, "scales")
    _check.same_names(gammas, weights, "scales", "params")
    for name, gamma in gammas.items():
        _check.one_a_channel(gamma, weights[name], dim, _check.place(name, "scales"), _check.place(name, "params"))
    return each(lambda w, g: spread(g.detach().abs().to(at_least_float32(w, g)), w, dim), params, like(params, gammas))


# ---- what all scores share ------------------------------------------------------------------------------------------


def at_least_float32(*tensors: Tensor) -> torch.dtype:
    """The real dtype that scores of these are in: products of 16-bit numbers vanish in 16 bits."""
    return functools.reduce(torch.promote_types, (t.abs().dtype for t in tensors), torch.float32)


def spread(values: Tensor, weight: Tensor, dim: int) -> Tensor:
    """One value a channel as a tensor of the weight's shape."""
    shape = [1] * weight.dim()
    shape[dim] = -1
    return values.view(shape).expand(weight.shape).contiguous()

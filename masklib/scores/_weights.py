"""Scores of the weights alone."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import torch
from torch import Tensor

from masklib import _read, selection
from masklib._names import Tensors, TensorsT, each, like
from masklib._shards._channels import whole
from masklib._shards._parts import each_part
from masklib.scores._common import at_least_float32, no_autocast, one_a_channel, spread


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
    _read.rankable_each(_read.tensors(params, "params"), magnitude=True, argument="params")
    return each_part(lambda w: selection.magnitude(w.detach()), params)


def random(params: TensorsT, *, key: Any) -> TensorsT:
    """Score each element by noise that depends on (key, name, index) alone.

    64 bits an element, without ties in a tensor; the hash is written out in docs/reference/policies.md. The values,
    dtypes, layouts, devices and order of `params` make no difference, and the global generators are not touched.

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
    seed = _read.key(key)
    values = _read.tensors(params, "params")
    return like(params, {n: _noise(seed, n, v) for n, v in values.items()})


def _noise(seed: Tensor, name: str, like: Tensor) -> Tensor:
    if selection.streamed((like,)):
        return selection.noise_like(like, seed, name)
    if _read.is_sharded(like):
        from masklib._shards import noise_like

        return noise_like(like, seed, name)
    return selection.noise(seed, name, selection.ELEMENTS, list(like.shape), like.device)


def lamp(params: TensorsT) -> TensorsT:
    """Score each element by its square's share of all squares in its tensor that are not smaller.

        S(i) = w(i)**2 / sum of w(j)**2 over j >= i,   w sorted by magnitude, ties by index

    Scores of different tensors compare: the largest of each is 1, so a global pool that keeps as many elements as there
    are tensors leaves none empty. Dead elements should be zero (`apply`): they count for nothing then. A tensor of
    zeros scores zero. NaN scores NaN, and the others do without it.

    Args:
        params: real weights of any shape, a tensor or a mapping by name.

    Returns:
        Scores of the same shapes, in float32 at least.

    Raises:
        TypeError: if a value is not a floating tensor, or is a DTensor, whose ranks would have to sort it as a whole.

    >>> scores.lamp(torch.tensor([4.0, -3.0, 2.0, 1.0]))
    tensor([1.0000, 0.3600, 0.1379, 0.0333])

    Reference: Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning", 2021, equation 5.
    """
    for name, weight in _read.inexact(params, "params").items():
        _read.is_whole(weight, _read.place(name, "params"))
    return each(_lamp, params)


def _lamp(weight: Tensor) -> Tensor:
    sizes = weight.detach().abs().double().reshape(-1)
    ascending, order = (_scaled(sizes.nan_to_num(0, posinf=inf)) ** 2).sort(stable=True)
    tails = ascending.flip(0).cumsum(0).flip(0)
    shares = torch.where(ascending == tails, ascending.sign(), ascending / tails)  # the largest: 1 if infinite too
    shares = torch.empty_like(shares).scatter(0, order, shares).where(~sizes.isnan(), nan)
    return shares.view(weight.shape).to(at_least_float32(weight))


def _scaled(sizes: Tensor) -> Tensor:
    """Sizes as multiples of the largest, so that no square is too large or too small for float64."""
    if not sizes.numel():
        return sizes
    top = sizes.where(sizes < inf, 0).amax()
    return sizes / top.where(top > 0, 1)


def fpgm(params: TensorsT, *, dim: int = 0, per_channel: bool = False) -> TensorsT:
    """Score each channel by its distances to all others: what is near the geometric median is replaceable.

        S(i) = sum of norm(F(i) - F(j)) over j

    Equal infinities are no distance apart, others an infinite one. A channel with NaN scores NaN, and the others do
    without it.

    Args:
        params: weights of two dims or more, a tensor or a mapping by name.
        dim: the dim whose indices are the channels.
        per_channel: whether to give one score a channel, (channels,), for `compute_mask(scores, dense(params),
            groups=channels(dim))`, or the same score to all elements of a channel, for `channels(dim, mean=True)`.

    Returns:
        Scores of the weights' shapes, or one a channel; in float32 at least.

    Raises:
        TypeError: if a weight is not floating, or is a DTensor: each channel is compared with all others.
        ValueError: if a weight has fewer than two dims.
        IndexError: if a weight has no such dim.

    >>> scores.fpgm(torch.tensor([[0.0, 0.0], [0.0, 1.0], [3.0, 4.0]]), per_channel=True)
    tensor([6.0000, 5.2426, 9.2426])
    >>> w = torch.tensor([[0.0, 0.0], [0.0, 1.0], [9.0, 9.0]])
    >>> compute_mask(scores.fpgm(w), amount=1, groups=channels(0, mean=True)).any(1)
    tensor([ True, False,  True])

    Reference: He et al., "Filter Pruning via Geometric Median", 2019, equation 4.
    """
    along, each_one = _read.integer(dim, "dim", "dim=0"), _read.flag(per_channel, "per_channel", "per_channel=True")
    for name, weight in _read.inexact(params, "params").items():
        _read.is_whole(weight, _read.place(name, "params"))
        _filters_of(weight, along, _read.place(name, "params"))
    return each(lambda w: _a_channel(_fpgm(w.detach(), along), w, along, each_one), params)


_DISTANCES = 2**22  # float64 distances at a time, 32 MiB: of 2,048 channels all of them at once


def _fpgm(weight: Tensor, dim: int) -> Tensor:
    """Sums in float64: differences of filters that are nearly the same cancel."""
    channels = weight.movedim(dim, 0)
    filters = (torch.view_as_real(channels.resolve_conj()) if weight.is_complex() else channels).flatten(1).double()
    lost, ends = filters.isnan().any(1), filters.sign().where(filters.isinf(), 0).float()
    finite = filters.nan_to_num(0, 0, 0)
    step = max(1, _DISTANCES // max(1, len(filters)))
    sums = [
        (torch.cdist(some, finite, compute_mode="donot_use_mm_for_euclid_dist") + _gaps(signs, ends))
        .masked_fill(lost, 0)
        .sum(1)
        for some, signs in zip(finite.split(step), ends.split(step))
    ]
    return torch.cat(sums).masked_fill(lost, torch.nan).to(at_least_float32(weight))


def _gaps(some: Tensor, others: Tensor) -> Tensor:
    """Infinity where infinities differ: from their signs, whose products are exact in float32 below 2**24."""
    with no_autocast(some):
        squares = (some**2).sum(1)[:, None] + (others**2).sum(1) - 2 * some @ others.T
    return torch.zeros_like(squares).masked_fill(squares > 0, torch.inf)


def batch_norm(params: TensorsT, scales: Tensors, *, dim: int = 0, per_channel: bool = False) -> TensorsT:
    """Score each channel by the scale of the batch norm that follows it.

        S(i) = abs(gamma(i))

    Args:
        params: weights, a tensor or a mapping by name.
        scales: the norms' weights, one a channel, by the names of the layers before them.
        dim: the dim whose indices are the channels.
        per_channel: as for `fpgm`.

    Returns:
        Scores of the weights' shapes, or one a channel; in float32 at least.

    Raises:
        TypeError: if a value is not floating.
        ValueError: if names or lengths disagree.
        IndexError: if a weight has no such dim.

    >>> scores.batch_norm(torch.zeros(2, 3), torch.tensor([-2.0, 1.0]))
    tensor([[2., 2., 2.],
            [1., 1., 1.]])
    >>> scores.batch_norm(torch.zeros(2, 3), torch.tensor([-2.0, 1.0]), per_channel=True)
    tensor([2., 1.])

    Reference: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", 2017.
    """
    weights, gammas = _read.inexact(params, "params"), _read.inexact(scales, "scales")
    _read.same_form(scales, params, "scales", "params")
    _read.same_names(gammas, weights, "scales", "params")
    along, each_one = _read.integer(dim, "dim", "dim=0"), _read.flag(per_channel, "per_channel", "per_channel=True")
    for name, gamma in gammas.items():
        one_a_channel(gamma, weights[name], along, _read.place(name, "scales"), _read.place(name, "params"))
    found = gammas if each_one else whole(gammas, weights, "scales")
    return each(lambda w, g: _a_channel(_sizes(w, g), w, along, each_one), params, like(params, found))


def _sizes(weight: Tensor, scales: Tensor) -> Tensor:
    return scales.detach().abs().to(at_least_float32(weight, scales), copy=True)


def _a_channel(values: Tensor, weight: Tensor, dim: int, per_channel: bool) -> Tensor:
    return values if per_channel else spread(values, weight, dim)


# ---- what is refused ------------------------------------------------------------------------------------------------


def _filters_of(weight: Tensor, dim: int, where: str) -> None:
    """Refuse a weight that has no filters along a dim."""
    if weight.dim() < 2:
        raise ValueError(
            f"{where} must have two dims or more, got shape {tuple(weight.shape)}: a bias has no filters. "
            "Leave it out, for example by select(params, lambda name, p: p.dim() > 1)."
        )
    _read.dimension(dim, weight, where)

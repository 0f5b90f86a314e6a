"""What reconstruction takes and refuses: weights of linear layers, and statistics of their inputs."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from masklib import _read
from masklib._amounts import how_many
from masklib._names import like, named
from masklib.groups import elements
from masklib.scores._common import total_of


class Prepared(NamedTuple):
    """Statistics with what a solver makes of them for any weight: made once for several weights of the same inputs."""

    total: Tensor  # (in, in)
    count: Any  # int
    made: Mapping[Any, Any]  # factors, by the dtype and the options that they were made with


def width(*dtypes: torch.dtype) -> torch.dtype:
    """What is computed in."""
    return functools.reduce(torch.promote_types, dtypes, torch.float32)


def given(weight: Any, statistics: Any, default_mask: Any, groups: Any, **numbers: Any) -> tuple[Any, ...]:
    """Read what methods that change weights take: by name weights, statistics, masks and numbers; and the groups."""
    weights, pools = weights_of(weight), elements() if groups is None else groups
    states = statistics_of(statistics, weight)
    own = {n: _numbers_of(n, weights, **numbers) for n in weights}
    return weights, states, _read.default_masks(default_mask, weight), own, pools


def pair(weight: Any, done: Mapping[str, tuple[Tensor, Tensor]]) -> tuple[Any, Any]:
    """Weights and masks, in the form of the weight."""
    return like(weight, {n: w for n, (w, _) in done.items()}), like(weight, {n: m for n, (_, m) in done.items()})


def weights_of(value: Any) -> Mapping[str, Tensor]:
    """Read the weights of linear layers."""
    for name, tensor in (entries := _read.tensors(value, "weight")).items():
        where = _read.place(name, "weight")
        _read.is_whole(tensor, where)
        if tensor.dtype not in _read.REAL:
            raise TypeError(f"{where} must be a floating tensor, got {tensor.dtype}. Pass weight.float().")
        if tensor.dim() != 2:
            raise ValueError(
                f"{where} must have shape (out, in), got {tuple(tensor.shape)}. "
                "Flatten a convolution's kernel: weight.flatten(1)."
            )
    return entries


def statistics_of(value: Any, weight: Any) -> dict[str, tuple[Tensor, int]]:
    """Read the total and the count of each weight's inputs."""
    totals = _read.inexact(total_of(value, "statistics"), "statistics")
    _read.same_form(value.total, weight, "statistics.total", "weight")
    _read.same_names(totals, named(weight), "statistics", "weight")
    counts = named(value.count)
    for name, total in totals.items():
        _refuse_other(total, counts[name], named(weight)[name], name)
    return {name: (total, counts[name]) for name, total in totals.items()}


def _refuse_other(total: Tensor, count: int, weight: Tensor, name: str) -> None:
    """Refuse statistics that are not of the weight's inputs."""
    where, reference = _read.place(name, "statistics"), _read.place(name, "weight")
    if total.is_complex():
        raise TypeError(f"{where} must be real, got {total.dtype}: complex layers cannot be reconstructed.")
    if total.shape != (weight.shape[1],) * 2:
        raise ValueError(
            f"{where} must be of the {weight.shape[1]} inputs of {reference}, a total of shape (in, in), got "
            f"{tuple(total.shape)}. Unfold the inputs of a convolution; transpose an (in, out) weight."
        )
    _read.same_device(total, weight, where, reference, "statistics")
    if count < 1:
        raise ValueError(
            f"{where} holds no inputs: nothing came through that layer. "
            "Add inputs that reach it, or prune it by another score."
        )


def _numbers_of(name: str, weights: Mapping[str, Tensor], **numbers: Any) -> dict[str, Any]:
    """The numbers of one weight."""
    for argument, value in numbers.items():
        if isinstance(value, Mapping):
            _read.same_names(value, weights, argument, "weight")
    own = {argument: v[name] if isinstance(v, Mapping) else v for argument, v in numbers.items()}
    how_many(**own)
    return own


def damping_of(value: Any) -> float:
    """Read a damping."""
    if not 0 <= (number := _read.order(value, "damping")) < float("inf"):
        raise ValueError(f"`damping` must be at least 0 and finite, got {value!r}. For example damping=0.01.")
    return number


def refuse_infinite(weight: Tensor, where: str) -> None:
    """Refuse a weight with NaN or infinities, from which no other can be told."""
    if weight.numel() and not _largest(weight) < float("inf"):
        wrong = int((~weight.isfinite()).sum())
        raise ValueError(
            f"{where} has {wrong} entries that are not finite. If they are dead, pass apply(weight, mask)."
        )


_PANEL = 64


def refuse_values(hessian: Tensor, where: str) -> None:
    """Refuse what is no sum of outer products."""
    if not hessian.numel():
        return
    size = _largest(hessian)
    if not size < float("inf"):
        wrong = int((~hessian.isfinite()).sum())
        raise ValueError(
            f"{where} has {wrong} entries that are not finite: some inputs were NaN, infinite, or too large to square. "
            "Find them by inputs.isfinite(), or add inputs in float64."
        )
    if _asymmetry(hessian) > 1e-3 * size:
        raise ValueError(f"{where} must be symmetric, a sum of x x^T. For example scores.add_hessian(None, inputs).")


def _asymmetry(values: Tensor) -> float:
    """How far entries are from their mirror images: by panels, in a third of the time, as columns lie far apart."""
    starts = range(0, values.shape[-1], _PANEL)
    rows = (values[..., s : s + _PANEL, : s + _PANEL] for s in starts)
    columns = (values[..., : s + _PANEL, s : s + _PANEL] for s in starts)
    return max(_largest(row - column.mT) for row, column in zip(rows, columns))


def _largest(values: Tensor) -> float:
    """The largest magnitude, NaN if one is."""
    low, high = values.aminmax()
    return max(-float(low), float(high))


def refuse_indefinite(failed: Tensor, damping: float, count: int, features: int, where: str) -> None:
    """Say why there is no Cholesky factor."""
    if not bool(failed.any()):
        return
    if damping:
        cause = "it is not a sum of x x^T, or its entries differ too widely for its dtype"
        hint = "Add inputs in float64, or raise the damping."
    else:
        cause = f"its {count} inputs do not span its {features} features"
        hint = "Pass damping=0.01, or add more inputs."
    raise ValueError(f"{where} is not positive definite with damping={damping}: {cause}. {hint}")

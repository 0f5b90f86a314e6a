"""What scores share: the dtypes they come in, how statistics add up, and what is refused."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from masklib import _read
from masklib._names import each, named
from masklib._shards import _channels
from masklib._shards._parts import each_part


def at_least_float32(*tensors: Tensor) -> torch.dtype:
    """The real dtype that scores of these are in: products of 16-bit numbers vanish in 16 bits."""
    return functools.reduce(torch.promote_types, (t.abs().dtype for t in tensors), torch.float32)


def spread(values: Tensor, weight: Tensor, dim: int) -> Tensor:
    """One value a channel as a tensor of the weight's shape, sharded as the weight is."""
    if _read.is_sharded(weight):
        return _channels.spread(values, weight, dim)
    shape = [1] * weight.dim()
    shape[dim] = -1
    return values.view(shape).expand(weight.shape).contiguous()


def no_autocast(values: Any) -> AbstractContextManager[Any]:
    """Keep the caller's autocast out: inside it products come in 16 bits, whatever goes in."""
    devices = [*(t.device.type for t in named(values).values()), "cpu"]
    return torch.autocast("cpu" if devices[0] == "meta" else devices[0], enabled=False)


def added(state: Any, totals: Any, counts: Any, argument: str) -> tuple[Any, Any]:
    """Totals and counts with those of the state, which may be None; each a value, or values by name."""
    if state is None:
        return totals, counts
    before, more = named(total_of(state, "state")), named(totals)
    _read.same_form(totals, state.total, argument, "state.total")
    _read.same_names(more, before, argument, "state")
    for name, tensor in more.items():
        _read.same_shape(tensor, before[name], f"what {_read.place(name, argument)} adds", "`state`")
        _read.same_device(tensor, before[name], _read.place(name, argument), "`state`", argument)
    return each_part(torch.add, state.total, totals), each(lambda n, m: n + m, state.count, counts)


def product(weight: Tensor, gradient: Tensor) -> Tensor:
    """What a first-order change by the weight's own value does: w * g, of complex numbers Re(w * conj(g))."""
    return (weight * gradient.conj()).real


# ---- what is refused ------------------------------------------------------------------------------------------------


def total_of(state: Any, argument: str) -> Any:
    """The total of a state, refusing what is none."""
    if not (hasattr(state, "total") and hasattr(state, "count")):
        raise TypeError(
            f"`{argument}` must be what the `add_...` functions of masklib.scores return, with `total` and `count`, "
            f"got {type(state).__name__}. For example scores.add_input_norms(None, inputs)."
        )
    return state.total


def pairs(params: Any, others: Any, argument: str) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """Read two values of one form, with the same names and shapes."""
    weights, partners = _read.inexact(params, "params"), _read.inexact(others, argument)
    _read.same_form(others, params, argument, "params")
    _read.same_names(partners, weights, argument, "params")
    for name, partner in partners.items():
        places = _read.place(name, argument), _read.place(name, "params")
        _read.same_shape(partner, weights[name], *places)
        _read.same_device(partner, weights[name], *places, argument)
    return weights, partners


def one_a_channel(values: Tensor, weight: Tensor, dim: int, where: str, reference: str) -> None:
    """Refuse a vector that has not one value for each index along a dim."""
    channels = weight.shape[_read.dimension(dim, weight, reference)]
    if values.shape != (channels,):
        raise ValueError(
            f"{where} must have shape ({channels},), one value for each index along dim {dim} of "
            f"{reference}, got {tuple(values.shape)}."
        )


def one_input(inputs: Any, params: Any) -> Tensor:
    """Refuse what is no dense tensor beside the weights."""
    if not isinstance(inputs, Tensor):
        raise TypeError(
            f"`inputs` must be a torch.Tensor, got {type(inputs).__name__}. For example x[:1] of a batch x."
        )
    _read.is_dense(inputs, "", "inputs")
    for name, weight in named(params).items():
        _refuse_a_mix(inputs, weight, _read.place(name, "params"))
        _read.on_device(inputs, weight, "`inputs`", _read.place(name, "params"), "inputs")
    return inputs


def _refuse_a_mix(inputs: Tensor, weight: Tensor, reference: str) -> None:
    """Refuse plain inputs of a model whose weights are sharded, which no layer takes."""
    if _read.is_sharded(inputs) != _read.is_sharded(weight):
        kinds = [type(t).__name__ for t in (weight, inputs)]
        raise TypeError(
            f"`inputs` must be a {kinds[0]} as {reference} is, got a {kinds[1]}. "
            "For sharded weights, pass distribute_tensor(inputs, w.device_mesh, [Replicate()])."
        )

"""What is done element by element, done to the part that each rank holds: nothing crosses between ranks.

The operators of DTensors themselves would bring a tensor of one row together on every rank, and take longer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from masklib import _read
from masklib._names import each


def each_part(function: Callable[..., Tensor], first: Any, *others: Any) -> Any:
    """Call `function` once a name, of DTensors on the parts in this rank; what it returns lies as `first` does."""
    if type(first) is Tensor:  # the common case costs no more than the call
        return function(first, *others)
    return each(lambda tensor, *more: on_part(function, tensor, *more), first, *others)


def on_part(function: Callable[..., Tensor], tensor: Any, *others: Any) -> Any:
    """The same of single tensors; gradients flow, and come back sharded as the tensors are."""
    if not (isinstance(tensor, Tensor) and _read.is_sharded(tensor)):
        return function(tensor, *others)
    part = _part(tensor)
    return _like(function(part, *map(_part, others)), part, tensor)


def sharded_like(tensor: Tensor, reference: Tensor) -> Tensor:
    """A DTensor with the placements of another."""
    wanted = getattr(_read.unwrapped(reference), "placements", None)
    given = getattr(_read.unwrapped(tensor), "placements", None)
    return tensor if given == wanted else tensor.redistribute(placements=wanted)  # type: ignore[attr-defined]


def gathered_as(tensor: Any, reference: Any) -> Tensor:
    """A DTensor as another of fewer mesh dims is sharded: gathered over those that come before them."""
    from torch.distributed.tensor import DTensor, Replicate

    before, shape = tensor.device_mesh.ndim - reference.device_mesh.ndim, reference.shape
    part = tensor.redistribute(placements=[Replicate()] * before + list(reference.placements)).to_local()
    how = {"run_check": False, "shape": shape, "stride": _contiguous(shape)}
    return DTensor.from_local(part.contiguous(), reference.device_mesh, reference.placements, **how)


def _part(value: Any) -> Any:
    sharded = isinstance(value, Tensor) and _read.is_sharded(value)
    return value.to_local() if sharded else value


def _like(result: Tensor, part: Tensor, tensor: Any) -> Tensor:
    """The DTensor of which the result is this rank's part, in the tensor's memory format if the result kept it."""
    from torch.distributed.tensor import DTensor

    mesh, placements, shape = tensor.device_mesh, tensor.placements, tensor.shape
    stride = tensor.stride() if result.stride() == part.stride() else _contiguous(shape)
    return DTensor.from_local(result, mesh, placements, run_check=False, shape=shape, stride=stride)


def _contiguous(shape: Any) -> tuple[int, ...]:
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * max(size, 1))
    return tuple(reversed(strides)) if shape else ()

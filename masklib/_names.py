"""A tensor or a mapping of tensors by name: both are read as a mapping, a bare tensor's name being ''."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

Tensors = Tensor | Mapping[str, Tensor]
TensorsT = TypeVar("TensorsT", Tensor, dict[str, Tensor], Mapping[str, Tensor])


def named(value: Any) -> Mapping[str, Any]:
    """Read a bare value as the mapping `{'': value}`; a mapping is returned as it is."""
    return {"": value} if isinstance(value, Tensor) or not isinstance(value, Mapping) else value


def like(value: Any, result: Mapping[str, Any]) -> Any:
    """Give `result` the form of `value`: a dict in its order for a mapping, else the one entry."""
    return {name: result[name] for name in value} if isinstance(value, Mapping) else result[""]


def each(function: Callable[..., Any], first: Any, *others: Any) -> Any:
    """Call `function` once a name on values of one form (a tensor, or mappings with the same names)."""
    values = [named(other) for other in others]
    return like(first, {n: function(v, *(o[n] for o in values)) for n, v in named(first).items()})


_AUTOCAST = ("cpu", "cuda")  # have it; Dynamo of torch 2.6 cannot ask


def joined(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Join tensors along a dim outside any autocast region, which raises for float16 in one of bfloat16."""
    device = parts[0].device.type
    if not (device in _AUTOCAST or torch.amp.is_autocast_available(device)) or not torch.is_autocast_enabled(device):
        return torch.cat(list(parts), dim)
    with torch.autocast(device, enabled=False):
        return torch.cat(list(parts), dim)

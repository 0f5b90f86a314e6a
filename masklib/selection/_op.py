"""Opaque operators: kernels that `torch.compile`, `torch.export` and `torch.func` can see past.

A kernel runs eagerly on real tensors. Its checks on data therefore raise the same everywhere: a compiled graph
calls it, a batched call runs it, and a traced one records it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

_LIBRARY = torch.library.Library("masklib", "DEF")
_TAGS = (torch.Tag.pt2_compliant_tag,)


def op(
    schema: str, kernel: Callable[..., Any], *, fake: Callable[..., Any], vmap: Callable[..., Any] | None = None
) -> Any:
    """Register a kernel as `torch.ops.masklib.<name>`, and return the operator.

    `fake` is also what runs on meta tensors; it refuses them among others, as the kernel has no data of them.
    """
    name = f"masklib::{_LIBRARY.define(schema, tags=_TAGS).split('.')[0].split('::')[-1]}"
    operator = getattr(torch.ops.masklib, name.split("::")[1]).default
    _LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(name, fake, lib=_LIBRARY)
    torch.library.register_vmap(name, vmap or each_example(operator), lib=_LIBRARY)
    return operator


def example(arguments: Any, in_dims: Any, index: int) -> Any:
    """The arguments of one example of a batch: `select` wherever `in_dims` holds a number."""
    if isinstance(in_dims, (list, tuple)):
        return [example(a, d, index) for a, d in zip(arguments, in_dims)]
    if in_dims is None:
        return arguments
    if arguments.shape[in_dims]:
        return arguments.select(in_dims, index)
    return arguments.new_zeros(arguments.movedim(in_dims, 0).shape[1:])  # of an empty batch, for its shapes


def expanded(argument: Any, in_dim: int | None, size: int) -> Any:
    """A tensor with its batch in front; one without a batch is repeated (as a view), None stays None."""
    if argument is None:
        return None
    return argument.expand(size, *argument.shape) if in_dim is None else argument.movedim(in_dim, 0)


def each_example(operator: Any) -> Callable[..., Any]:
    """The rule that is right for every operator: call it once an example and stack the results."""

    def rule(info: Any, in_dims: Any, *arguments: Any) -> tuple[Any, Any]:
        size = info.batch_size
        results = [operator(*example(arguments, in_dims, i)) for i in range(max(size, 1))]
        stacked = pytree.tree_map(lambda *examples: torch.stack(examples)[:size], *results)
        return stacked, pytree.tree_map_only(Tensor, lambda _: 0, stacked)

    return rule

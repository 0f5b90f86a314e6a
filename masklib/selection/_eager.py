"""The direct way of eager calls to the kernels, past the dispatcher, which takes 5 us of the 20 of a small one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from masklib import _read
from masklib.selection import _operators, _rank
from masklib.selection._numbers import Number, as_tensor
from masklib.selection._streamed import streamed

_PLAIN, _STRIDED = {Tensor, torch.nn.Parameter}, torch.strided

try:  # names of torch's own: where one is missing, no call takes the direct way
    from torch._C import DispatchKey, DispatchKeySet, _dispatch_tls_local_include_set, _len_torch_function_stack

    _ALWAYS = DispatchKeySet(DispatchKey.BackendSelect) | DispatchKeySet(DispatchKey.ADInplaceOrView)
    _UNUSUAL = ~_ALWAYS.raw_repr()
except (ImportError, AttributeError):
    _UNUSUAL = 0


def lowest(
    scores: Sequence[Tensor],
    alive: Sequence[Tensor | None],
    number: Number,
    counting: str,
    names: Sequence[str],
    by_magnitude: bool,
    least: Sequence[int] = (),
) -> list[Tensor]:
    """Kill the lowest of one pool over all the tensors.

    Args:
        scores: real tensors of any shape and layout, whose order is that of the pool; among equals the first dies.
        alive: a bool tensor of the shape of each, or None for all.
        number: an int or 0-d int64 (so many), or a float or 0-d float64 (a share).
        counting: what the number is: "amount", "keep" or "sparsity".
        names: of the tensors, for messages.
        by_magnitude: whether to rank absolute values.
        least: how many live elements each tensor keeps at least; empty for no floors. As many die as without them.

    Returns:
        Masks of the shapes of the scores.

    Raises:
        ValueError: if a live score is NaN, or the number or the floors cannot be met.
    """
    given = (number,) if isinstance(number, Tensor) else ()
    if not torch.compiler.is_compiling() and _is_eager() and _are_plain(scores, alive, given):
        return _rank.lowest(scores, alive, number, counting, names, by_magnitude, least)
    if streamed(scores) or streamed(alive):  # no operator takes them
        return _rank.lowest(scores, alive, number, counting, names, by_magnitude, least)
    for tensor, name in zip(scores, names):
        _read.is_not_batched(tensor, _read.place(name, "scores"))
    return _operators.lowest(scores, alive, as_tensor(number), counting, names, by_magnitude, least)


def lowest_in_rows(
    scores: Tensor,
    alive: Tensor | None,
    items: Tensor | None,
    number: Number,
    counting: str,
    name: str,
    by_magnitude: bool,
) -> Tensor:
    """Kill the lowest of each row, as `lowest` does of one pool.

    Args:
        scores: (pools, items), real.
        alive: (pools, items) bool, or None for all.
        items: (pools,) int64, how many items of each row are real, the rest being dead; None for all.
        number: as for `lowest`, for all rows, or (pools,).
        counting: what the number is: "amount", "keep" or "sparsity".
        name: of the tensor, for messages.
        by_magnitude: whether to rank absolute values.

    Returns:
        The mask (pools, items).

    Raises:
        ValueError: if a live score is NaN, or a row cannot meet the number.
    """
    many = as_tensor(number)
    if direct(scores, many, alive, items):
        return _rank.lowest_in_rows(scores, alive, items, many, counting, name, by_magnitude)
    return _operators.lowest_in_rows(scores, alive, items, many, counting, name, by_magnitude)


def direct(*tensors: Tensor | None) -> bool:
    """Whether numpy may read and write these tensors as they are, past the dispatcher."""
    return not torch.compiler.is_compiling() and _is_eager() and _are_plain(tensors)


def _is_eager() -> bool:
    """Whether nothing that transforms, traces or intercepts calls is active.

    To ask for dispatch modes and functorch's interpreter is not enough: make_fx(pre_dispatch=True) passes all that.
    """
    if not _UNUSUAL or _dispatch_tls_local_include_set().raw_repr() & _UNUSUAL:
        return False
    return not _len_torch_function_stack()


def _are_plain(*tensors: Iterable[Any]) -> bool:
    """Whether all are ordinary tensors that numpy can read as they are."""
    for each in tensors:
        for t in each:  # in loops: a generator would take 2 us more
            if t is not None and not (type(t) in _PLAIN and t.is_cpu and t.layout is _STRIDED and not t.is_neg()):
                return False
    return True

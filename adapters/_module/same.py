"""Whether two models compute the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .trial import call, first_line, quiet, twin

# Relative to the largest output: what sums in another order may differ by, over some tens of layers. Models of float64
# may compute norms in float32 all the same: 2e-7 in Gemma-3. Others of the tests differ by at most 2e-15.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}

# Equal outputs as large as this say nothing of the size of the others: code fills with -1e4, -1e9 or the lowest number
# what is not to be chosen.
_FILL = 1e4

# What a twin of the larger model is run under, from the twin: a context.
Under = Callable[[nn.Module], AbstractContextManager[Any]]


def difference(
    model: nn.Module, masked: Mapping[str, Tensor], small: nn.Module, inputs: Any, under: Under = nullcontext
) -> str | None:
    """How the smaller model differs from the masked one, on the inputs and on twice the batch; None if it does not."""
    big, little = twin(model), twin(small)
    with quiet():
        for each in (inputs, doubled(inputs)):
            args, kwargs = call(each)
            again, more = call(each)  # a model may write into what it is given
            torch.manual_seed(0)  # for models that draw; the caller's generator is put back
            try:
                with under(big):
                    expected = torch.func.functional_call(big, dict(masked), args, kwargs)
            except Exception:
                if each is inputs:
                    raise
                return None  # a model for this batch size only
            found = _against(expected, lambda: little(*again, **more))  # noqa: B023 - called at once
            if found is not None:
                return found
    return None


def doubled(inputs: Any) -> Any:
    """The inputs, and the same again behind them, along the first dim."""
    leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.dim()]
    batch = leaves[0].shape[0] if leaves else 0

    def twice(leaf: Any) -> Any:
        fits = isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == batch
        return torch.cat([leaf, leaf.flip(0)]) if fits else leaf

    return pytree.tree_map(twice, inputs)


def _against(expected: Any, run: Callable[[], Any]) -> str | None:
    torch.manual_seed(0)
    try:
        got = run()
    except Exception as error:
        return f"it fails: {first_line(error)[:-1]}"
    ours, theirs = _outputs(expected), _outputs(got)
    if not ours:
        return f"the model returns {type(expected).__name__} without tensors, so that nothing can be compared"
    pairs = list(zip(ours, theirs))
    if len(ours) != len(theirs) or any((a.shape, a.dtype) != (b.shape, b.dtype) for a, b in pairs):
        return "the outputs have other shapes or dtypes"
    return next((f"the outputs differ by {apart:.1e}" for a, b in pairs if (apart := gap(a, b)) is not None), None)


def _outputs(value: Any) -> list[Tensor]:
    """All tensors that a model returns; where there are none, those in objects of other classes, and numbers."""
    leaves = pytree.tree_leaves(value)
    leaves = [x for leaf in leaves for x in (leaf.values() if isinstance(leaf, Mapping) else [leaf])]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)] or list(_within(leaves, set()))


def _within(leaves: list[Any], seen: set[int]) -> Iterator[Tensor]:
    for leaf in leaves:
        if isinstance(leaf, (Tensor, bool, int, float, complex)):
            yield leaf if isinstance(leaf, Tensor) else torch.tensor(leaf, device="cpu")
        elif id(leaf) not in seen and not isinstance(leaf, (nn.Module, type)):
            seen.add(id(leaf))
            held = leaf if isinstance(leaf, Mapping) else getattr(leaf, "__dict__", {})
            yield from _within(pytree.tree_leaves(list(held.values())), seen)


def gap(a: Tensor, b: Tensor) -> float | None:
    """By how much two outputs differ for their size, where that is more than rounding."""
    if not a.numel() or not (a.is_floating_point() or a.is_complex()):
        return None if torch.equal(a, b) else float("inf")
    counts = a.isfinite() & ~((a == b) & (a.abs() >= _FILL))
    scale = float(a[counts].abs().max()) if counts.any() else 0.0
    close = torch.isclose(a, b, rtol=0, atol=_TOLERANCE.get(a.dtype, 1e-3) * max(scale, 1e-30), equal_nan=True)
    return None if bool(close.all()) else float((a - b).abs().nan_to_num(torch.inf).max()) / max(scale, 1e-30)

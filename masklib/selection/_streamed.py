"""Tensors that are never whole: they know their shape and dtype, and a run of their elements is read when it is needed.

What is done to them element by element (magnitudes, comparisons, masks of masks) is again such a tensor, so that a
method needs not know how large a model is. What needs all elements at once is refused; counts alone are counted.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from masklib.selection import _pieces

Memo = dict[Any, Tensor]  # what was read of a run, so that it is read once for all that is made of it
Read = Callable[[int, int, Memo], Tensor]  # the elements from one flat index up to another, in one dim

_aten = torch.ops.aten
_LIKE = {_aten.ones_like.default, _aten.zeros_like.default, _aten.full_like.default}  # they look at no element
_SAME = {_aten.detach.default, _aten.alias.default, _aten.clone.default}  # nobody can write to one
_ALSO_ELEMENTWISE = {_aten._to_copy.default, _aten.view.dtype}  # beside those that torch tags so
_COUNTS = {_aten.count_nonzero.default, _aten.sum.default, _aten.any.default, _aten.all.default}


class _Slot:
    """The last unit that was read of a tensor whose units are longer than a chunk, until the tensor is forgotten."""

    def __init__(self) -> None:
        self.of: Any = None
        self.elements: Any = None

    def read(self, tensor: Streamed, first: int, last: int, read: Read) -> Tensor:
        if self.of is None or self.of[0]() is not tensor or self.of[1:] != (first, last):
            self.empty()
            elements = read(first, last, {})
            self.elements, self.of = elements, (weakref.ref(tensor, self.empty), first, last)
        return self.elements

    def empty(self, *_: Any) -> None:
        self.of = self.elements = None


class _Last(threading.local):
    """The slot of this thread: its next chunk is likely to be of the same unit."""

    def __init__(self) -> None:
        self.slot = _Slot()


_last = _Last()


class Streamed(Tensor):
    """A tensor whose elements are read in runs.

    Args:
        shape: of the tensor.
        dtype: of its elements.
        read: from a run to its elements; the run is one of whole units, but for the last.
        unit: how many neighbours are read together.
        count: how many elements are not zero, if that is known.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, shape: Any, dtype: torch.dtype, *_: Any, **__: Any) -> Any:
        """Make a tensor without storage."""
        return torch.Tensor._make_wrapper_subclass(cls, tuple(shape), dtype=dtype, device=torch.device("cpu"))

    def __init__(self, shape: Any, dtype: torch.dtype, read: Read, unit: int = 1, count: int | None = None) -> None:
        super().__init__()
        self._of_units, self.unit, self.ones = read, max(1, unit), count
        self.origin: tuple[Any, int] = None, 0  # the pool whose mask it is, and which of its masks

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Streamed(shape={tuple(self.shape)}, dtype={self.dtype})"

    def read(self, start: int, stop: int, memo: Memo | None = None) -> Tensor:
        """The elements of a run, flat, which nobody may write to."""
        first, last = start // self.unit * self.unit, min(-(-stop // self.unit) * self.unit, self.numel())
        return self._units(first, last, {} if memo is None else memo)[start - first : stop - first]

    def _units(self, first: int, last: int, memo: Memo) -> Tensor:
        if self.unit > _pieces.CHUNK:
            return _last.slot.read(self, first, last, self._of_units)
        key = id(self), first, last
        if key not in memo:
            memo[key] = self._of_units(first, last, memo)
        return memo[key]

    def rows(self, start: int, stop: int, memo: Memo | None = None) -> Tensor:
        """A run of indices of the first dim, in the tensor's shape otherwise."""
        width = self.numel() // max(len(self), 1)
        return self.read(start * width, stop * width, memo).view(stop - start, *self.shape[1:])

    def whole(self) -> Tensor:
        """All of it, in memory."""
        result = torch.empty(self.shape, dtype=self.dtype, device="cpu")
        for start, stop in runs(self.numel(), self.unit):
            result.view(-1)[start:stop] = self.read(start, stop)
        return result

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Put an operation off until elements are read, or refuse it."""
        if func in _SAME:
            return args[0]
        if func in _LIKE:
            return _constant(func, args[0], args[1:], kwargs or {})
        if func in _COUNTS and (args[0].dtype == torch.bool or func is _aten.count_nonzero.default):
            return _reduced(func, args[0])
        is_elementwise = torch.Tag.pointwise in func.tags or func in _ALSO_ELEMENTWISE
        result = None if func._schema.is_mutable or not is_elementwise else _elementwise(func, args, kwargs or {})
        return refuse(func) if result is None else result

    def _is_not_here(self, *_: Any, **__: Any) -> Any:
        return refuse("a copy")

    numpy = tolist = item = __array__ = __reduce_ex__ = _is_not_here  # of these torch would say something else


def streamed(tensors: Sequence[Any]) -> bool:
    """Whether any of some tensors is read in runs."""
    return any([type(t) is Streamed for t in tensors])  # noqa: C419  # a generator would take a microsecond more


def unit(*tensors: Tensor | None) -> int:
    """How many neighbours of some tensors are read together."""
    return max(getattr(t, "unit", 1) for t in tensors)


def runs(size: int, unit: int = 1) -> Iterator[tuple[int, int]]:
    """Cut a flat range into runs of at most a chunk: of whole units, or each of a part of one unit."""
    step = _pieces.CHUNK // unit * unit or _pieces.CHUNK
    for first in range(0, size, max(unit, step)):
        last = min(first + max(unit, step), size)
        for start in range(first, last, step):
            yield start, min(start + step, last)


def run_of(tensor: Tensor, start: int, stop: int, memo: Memo) -> Tensor:
    """A run of any tensor, flat."""
    return tensor.read(start, stop, memo) if isinstance(tensor, Streamed) else tensor.reshape(-1)[start:stop]


def rows_of(tensor: Tensor, start: int, stop: int, memo: Memo) -> Tensor:
    """A run of indices along the first dim of any tensor."""
    return tensor.rows(start, stop, memo) if isinstance(tensor, Streamed) else tensor[start:stop]


def at_hand(tensor: Any) -> Any:
    """The tensor itself, or all of it if it is read in runs."""
    return tensor.whole() if isinstance(tensor, Streamed) else tensor


# ---- what becomes of operations -------------------------------------------------------------------------------------


def _constant(func: Any, template: Tensor, rest: Sequence[Any], kwargs: Mapping[str, Any]) -> Streamed:
    """A tensor of one value, for which nothing is read."""
    options = {**kwargs, "memory_format": torch.contiguous_format}

    def run(start: int, stop: int, _: Memo) -> Tensor:
        return func(torch.empty(stop - start, dtype=template.dtype, device="cpu"), *rest, **options)

    one = run(0, 1, {})
    return Streamed(template.shape, one.dtype, run, 1, template.numel() * int(one != 0))


def _elementwise(func: Any, args: Any, kwargs: Any) -> Streamed | None:
    """The result of an operation that takes each element by itself; None if it is none on these."""
    given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    shape = next(t.shape for t in given if isinstance(t, Streamed))
    if not all(t.shape == shape or (t.dim() == 0 and not isinstance(t, Streamed)) for t in given):
        return None

    def of(part: Callable[[Tensor], Tensor]) -> Any:
        own, named = pytree.tree_map_only(Tensor, lambda t: part(t) if t.shape == shape else t, (args, kwargs))
        return func(*own, **named)

    none = of(lambda t: torch.empty(0, dtype=t.dtype, device="cpu"))
    if not isinstance(none, Tensor) or none.shape != (0,):
        return None
    together = math.lcm(*(t.unit for t in given if isinstance(t, Streamed)))
    together = together if together < math.prod(shape) else math.prod(shape)
    return Streamed(shape, none.dtype, lambda start, stop, memo: of(lambda t: run_of(t, start, stop, memo)), together)


def _reduced(func: Any, tensor: Streamed) -> Tensor:
    """How many elements are not zero, or whether any or all are."""
    count = tensor.ones
    if count is None:
        sizes = runs(tensor.numel(), tensor.unit)
        count = tensor.ones = sum(int(torch.count_nonzero(tensor.read(start, stop))) for start, stop in sizes)
    return torch.tensor(
        {_aten.any.default: count > 0, _aten.all.default: count == tensor.numel()}.get(func, count), device="cpu"
    )


def refuse(what: Any) -> Any:
    """Refuse what needs all elements at once; a TypeError would be lost in `+` and its like."""
    raise ValueError(
        f"{what} needs all of a tensor that is read in parts. Use the methods of masklib and what takes each element "
        "by itself, or load the tensor first: open_checkpoint(path)[name]."
    )

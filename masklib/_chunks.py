"""Cache-sized pieces of tensors in logical order, read as numpy arrays of one dtype, by as many threads as torch has.

Comparisons, counts and partitions run in numpy, whose kernels are several times faster than torch's on this work and
release the interpreter lock. Tensors that numpy cannot compare as they stand (other layouts, 16-bit floats, mixed
dtypes) are converted piece by piece, in cache.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]
Piece = Any  # an Array that can be read as it stands, else a Tensor to convert
T = TypeVar("T")

CHUNK = 2**18
_PAGE = 2**12  # bytes; neighbours so far apart are first brought together in the order of memory
_NUMPY = {
    getattr(torch, name): np.dtype(name)
    for name in ["float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
}
_UNSIGNED = {"i1": "u1", "i2": "u2", "i4": "u4", "i8": "u8"}


def common_dtype(dtypes: set[torch.dtype]) -> torch.dtype:
    """The least dtype numpy compares natively that holds all of the given ones exactly."""
    floating = {d for d in dtypes if d.is_floating_point}
    if not floating:
        return dtypes.pop() if len(dtypes) == 1 else torch.uint64 if torch.uint64 in dtypes else torch.int64
    single = {torch.float16, torch.bfloat16, torch.float32} >= dtypes
    return torch.float32 if single else torch.float64


def pieces(tensor: Tensor, dtype: torch.dtype, flat: bool) -> list[Piece]:
    """Split into pieces of at most CHUNK elements in logical order; `flat` if that is the order in memory."""
    if not flat:
        return list(_slabs(tensor))
    if tensor.dtype != dtype:
        return list(tensor.reshape(-1).split(CHUNK))
    array = tensor.numpy().reshape(-1)
    return [array[i : i + CHUNK] for i in range(0, array.size, CHUNK)]


def _slabs(tensor: Tensor) -> Iterator[Tensor]:
    """Views of at most CHUNK elements whose concatenation is the flattened tensor."""
    inner = tensor[:1].numel() if tensor.dim() else 1
    if tensor.numel() <= CHUNK:
        yield tensor
    elif inner <= CHUNK:
        yield from tensor.split(CHUNK // inner)
    else:
        for index in tensor:
            yield from _slabs(index)


def size(piece: Piece) -> int:
    """The number of elements of a piece."""
    return piece.size if isinstance(piece, np.ndarray) else piece.numel()


def every(piece: Piece, start: int, stride: int) -> Piece:
    """Each `stride`-th element of a piece in logical order; of another layout without copying it."""
    if isinstance(piece, np.ndarray):
        return piece[start::stride]
    return piece.take(torch.arange(start, max(start, piece.numel()), stride, device="cpu"))


def flags(piece: Piece | None) -> Any:
    """A piece of a mask as a flat array, None being all True."""
    return piece if piece is None or isinstance(piece, np.ndarray) else piece.reshape(-1).numpy()


def reader(dtype: torch.dtype, by_magnitude: bool, elements: int, most: int = CHUNK) -> Callable[[Piece], Array]:
    """A function from a piece to its values (their magnitudes), flat; they hold until the thread reads again.

    Magnitudes of signed integers are unsigned, so that the least one does not wrap.
    """
    scratch = _scratch(min(elements, most) * dtype.itemsize).view(_NUMPY[dtype])
    unsigned = _UNSIGNED.get(scratch.dtype.str[1:])

    def read(piece: Piece) -> Array:
        values = piece
        if not isinstance(piece, np.ndarray):
            values = scratch[: piece.numel()]
            far = piece.dim() > 1 and piece.stride(-1) * piece.element_size() >= _PAGE
            torch.from_numpy(values).view(piece.shape).copy_(piece.clone() if far else piece)
        if by_magnitude:
            values = np.abs(values, out=scratch[: values.size])
        return values.view(unsigned) if by_magnitude and unsigned else values

    return read


def _scratch(size: int) -> Array:
    """Bytes of this thread, kept: the first touch of fresh memory costs as much as all the work on it."""
    kept = getattr(_kept, "scratch", None)
    if kept is None or kept.size < size:
        kept = _kept.scratch = np.empty(size, np.uint8)
    return kept[:size]


_kept = threading.local()


def threaded(work: Callable[[Sequence[Any]], T], tasks: Sequence[Any], elements: int) -> list[T]:
    """Run `work` on contiguous shares of the tasks, one share a thread; results in order."""
    threads = min(torch.get_num_threads(), len(tasks), 1 + elements // (4 * CHUNK))
    if threads <= 1:
        return [work(tasks)]
    bounds = [len(tasks) * t // threads for t in range(threads + 1)]
    first, *rest = (tasks[start:stop] for start, stop in pairwise(bounds))
    others = [_workers(torch.get_num_threads()).submit(work, share) for share in rest]
    return [work(first), *(other.result() for other in others)]


@lru_cache(maxsize=1)
def _workers(threads: int) -> ThreadPoolExecutor:
    """Threads that wait for work, which starts them several times faster than new ones."""
    return ThreadPoolExecutor(threads, thread_name_prefix="masklib")


os.register_at_fork(after_in_child=_workers.cache_clear)  # a child process has no threads
